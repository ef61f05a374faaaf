"""`tiny_training.py` as a process that is watched and stopped."""

from __future__ import annotations

import contextlib
import io
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import tiny_training

PROGRAM = Path(tiny_training.__file__)


def train(
    folder: Path,
    result: Path,
    *options: object,
    stop: Callable[[str], bool] = lambda line: False,
    by: signal.Signals = signal.SIGKILL,
    status: int = 0,
    largest_file: int = resource.RLIM_INFINITY,
) -> list[str]:
    """What the training printed; stopped by a signal once `stop` is true of a line.

    Args:
      options: see `tiny_training.py`.
      status: what it shall exit with if it is not killed.
      largest_file: bytes beyond which it can write no file, as with a full disk.
    """
    command = [sys.executable, str(PROGRAM), str(folder), str(result), *map(str, options)]
    environment = dict(os.environ)
    if largest_file != resource.RLIM_INFINITY:
        # JAX would leave parts of programs in its cache, which the other tests share.
        environment["JAX_ENABLE_COMPILATION_CACHE"] = "false"
    lines = []
    with subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=environment,
    ) as process:
        # Not in `preexec_fn`, which forks: JAX warns of that in a process with threads.
        resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (largest_file, largest_file))
        assert process.stdout is not None
        for line in process.stdout:
            lines.append(line.strip())
            if stop(lines[-1]):
                process.send_signal(by)
                if by == signal.SIGKILL:
                    status = -signal.SIGKILL
                    break
        found = process.wait()
    assert found == status, lines
    return lines


def train_here(folder: Path, result: Path, *options: int) -> list[str]:
    """The same in this process, to the end."""
    told = io.StringIO()
    with contextlib.redirect_stdout(told):
        tiny_training.main(folder, result, *options)
    return told.getvalue().splitlines()


def assert_same_results(found: Path, expected: Path) -> None:
    """Parameters and records, bit for bit."""
    left, right = np.load(found), np.load(expected)
    assert set(left) == set(right)
    for name in right:
        np.testing.assert_array_equal(left[name], right[name], err_msg=name)
