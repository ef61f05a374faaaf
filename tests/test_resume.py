"""A run killed with SIGKILL and started again ends in the same bits as one that was left alone."""

import signal
import subprocess
import sys
from pathlib import Path

import numpy as np

PROGRAM = Path(__file__).with_name("tiny_training.py")


def train(folder: Path, result: Path, kill_at: str | None = None) -> list[str]:
    """What the training printed; killed as soon as it prints `kill_at`."""
    command = [sys.executable, str(PROGRAM), str(folder), str(result)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        lines = []
        for line in process.stdout:
            lines.append(line.strip())
            if lines[-1] == kill_at:
                process.send_signal(signal.SIGKILL)
                break
        status = process.wait()
    assert status == (0 if kill_at is None else -signal.SIGKILL), lines
    return lines


def test_killed_and_resumed_is_bit_identical(tmp_path: Path):
    run, result = tmp_path / "run", tmp_path / "result.npz"
    train(tmp_path / "uninterrupted", tmp_path / "expected.npz")
    # Four steps an epoch: before the first checkpoint, in the middle of an epoch, and while a
    # checkpoint is being written.
    train(run, result, kill_at="step 2")
    assert train(run, result, kill_at="step 6")[0] == "start 0"
    assert train(run, result, kill_at="epoch 2")[0] == "start 4"
    assert train(run, result)[0] in ("start 4", "start 8")
    found, expected = np.load(result), np.load(tmp_path / "expected.npz")
    assert set(found) == set(expected)
    for name in expected:
        np.testing.assert_array_equal(found[name], expected[name], err_msg=name)
