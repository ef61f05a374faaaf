"""Sides of a benchmark in processes of their own, timed in turns.

A worker script calls `serve`; the script that compares enters one `Worker` a side and `timed` asks
them in turns. Each side has threads, a heap and a compiler of its own.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any


def one_heap_that_is_kept() -> None:
    """No mmap, no trimming, one heap for all threads: what serves PyTorch best (mallopt(3))."""
    for option, value in ((-4, 0), (-1, -1), (-8, 1)):
        ctypes.CDLL(None).mallopt(option, value)


def serve(call: Callable[[], float], ready: Mapping[str, float]) -> None:
    """Print `ready`; answer every number n on standard input with n calls, until it closes.

    An answer is a line of JSON: seconds a call, what the last call returned, peak memory in GB.
    """
    print(json.dumps(ready), flush=True)
    for line in sys.stdin:
        count, value = int(line), 0.0
        started = time.perf_counter()
        for _ in range(count):
            value = call()
        seconds = (time.perf_counter() - started) / count
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
        print(json.dumps({"seconds": seconds, "value": value, "peak_gb": peak}), flush=True)


class Worker:
    """A process that serves, ended with the context; `ready` is what it printed first.

    Args:
      script: the worker's.
      arguments: for its command line.
    """

    def __init__(self, script: Path, *arguments: object):
        self._command = [sys.executable, str(script), *map(str, arguments)]
        self._errors = tempfile.TemporaryFile("w+")  # noqa: SIM115 (closed by __exit__)
        self._process = subprocess.Popen(
            self._command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
        )
        self.ready = self._answer()

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(BrokenPipeError):
            self._process.communicate()
        self._errors.close()

    def time(self, calls: int) -> dict[str, float]:
        """The answer to so many calls."""
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # Then there is no answer either.
            self._process.stdin.write(f"{calls}\n")
            self._process.stdin.flush()
        return self._answer()

    def _answer(self) -> dict[str, float]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            self._process.wait()
            self._errors.seek(0)
            raise SystemExit(
                f"a worker ended early: {' '.join(self._command)}\n{self._errors.read()}"
            )
        return json.loads(line)


def timed(
    workers: Mapping[str, Worker], *, seconds: float, repeats: int
) -> dict[str, list[dict[str, float]]]:
    """Each worker's answers: `repeats` in turns, each of about `seconds`, one call at least."""
    calls = {
        name: max(1, round(seconds / worker.time(2)["seconds"])) for name, worker in workers.items()
    }
    answers: dict[str, list[dict[str, float]]] = {name: [] for name in workers}
    for _ in range(repeats):
        for name, worker in workers.items():
            answers[name].append(worker.time(calls[name]))
    return answers


def medians(answers: Mapping[str, list[dict[str, Any]]]) -> dict[str, float]:
    """Each side's median of the seconds a call."""
    return {name: statistics.median(a["seconds"] for a in found) for name, found in answers.items()}
