"""Two processes on loopback: equal to one, killed and started again."""

import contextlib
import random
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import jax
import numpy as np
import pytest
from helpers import fake_devices

from isnet_jax import UserError
from isnet_jax.training import DistributedConfig, distributed, first_then_all

PROGRAM = Path(__file__).parents[1] / "process_training.py"
TIMEOUT = 20


def start(arguments: list, devices: int) -> subprocess.Popen:
    environment = {**fake_devices(devices), "PYTHONUNBUFFERED": "1"}
    return subprocess.Popen(
        [sys.executable, *map(str, arguments)],
        env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


@contextlib.contextmanager
def start_each(arguments: Callable[[str, int], list]) -> Iterator[list[subprocess.Popen]]:
    """Two processes with one device each; they are gone afterwards."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        coordinator = f"localhost:{free.getsockname()[1]}"
    running = [start(arguments(coordinator, index), devices=1) for index in range(2)]
    try:
        yield running
    finally:
        for process in running:
            process.kill()
            process.wait()
            process.stdout.close()
            process.stderr.close()


def program(
    folder: Path, coordinator: str, count: int, index: int, pause: float = 0, since: int = 0
) -> list:
    processes = coordinator, count, index, TIMEOUT
    return [PROGRAM, folder, folder.with_suffix(".npz"), *processes, pause, since]


def start_both(folder: Path, pause: float = 0, since: int = 0):
    return start_each(lambda place, index: program(folder, place, 2, index, pause, since))


def go_on_alone(folder: Path) -> int:
    """In one process with two devices; the step that it starts from."""
    ((told, _),) = finished(start(program(folder, "", 1, 0), devices=2))
    return int(told.splitlines()[0].removeprefix("start "))


def printed(process: subprocess.Popen, words: str) -> str:
    """The next line that begins with these words."""
    return next(line.strip() for line in process.stdout if line.startswith(words))


def finished(*running: subprocess.Popen) -> list[tuple[str, str]]:
    printed = [process.communicate(timeout=120) for process in running]
    assert not any(process.returncode for process in running), "\n".join(map("".join, printed))
    return printed


def same(folder: Path, other: Path) -> None:
    a, b = (np.load(each.with_suffix(".npz")) for each in (folder, other))
    assert set(a.files) == set(b.files)
    for name in a.files:
        np.testing.assert_array_equal(a[name], b[name], err_msg=name)


@pytest.fixture(scope="module")
def single(tmp_path_factory) -> Path:
    """The run of one process with two devices."""
    folder = tmp_path_factory.mktemp("runs") / "single"
    finished(start(program(folder, "", 1, 0), devices=2))
    return folder


def test_two_processes_do_what_one_does(single: Path, tmp_path: Path):
    with start_both(tmp_path / "two") as running:
        finished(*running)
    same(tmp_path / "two", single)


@pytest.mark.parametrize("victim", [0, 1])
def test_a_killed_process_stops_the_other_and_they_go_on(single: Path, tmp_path: Path, victim: int):
    """While it waits for it, and while it is busy with something else."""
    with start_both(tmp_path / "two", pause=30 * victim, since=6) as running:
        assert printed(running[victim], "start") == "start 0"
        assert printed(running[victim], "step 6")
        running[victim].kill()
        killed = time.monotonic()
        _, told = running[1 - victim].communicate(timeout=2 * TIMEOUT)
        assert time.monotonic() - killed < TIMEOUT
        assert running[1 - victim].returncode == distributed.LOST
        assert "Most likely one of them has stopped" in told
        assert "Traceback" not in told
    if victim == 0:
        with start_both(tmp_path / "two") as again:
            assert printed(again[0], "start") in ("start 4", "start 8")  # Where it was saved.
            finished(*again)
    else:
        assert go_on_alone(tmp_path / "two") == 4
    same(tmp_path / "two", single)


@pytest.mark.parametrize(("noticing", "when"), [(0, "step 6"), (1, "step 6"), (0, "start")])
def test_sigterm_to_one_process_ends_both_at_the_same_step(
    single: Path, tmp_path: Path, noticing: int, when: str
):
    """JAX looks for the signal once a second, so the steps take their time."""
    if when == "start":  # Of a run that goes on, before its first step.
        with start_both(tmp_path / "two") as running:
            assert printed(running[0], "step 6")
    with start_both(tmp_path / "two", pause=1) as running:
        assert printed(running[noticing], when)
        running[noticing].send_signal(signal.SIGTERM)
        told = [process.communicate(timeout=120)[1] for process in running]
        assert [process.returncode for process in running] == [143, 143], told
    saved = {re.search(r"ended by SIGTERM; (step|epoch) \d+ is saved", text)[0] for text in told}
    assert len(saved) == 1
    assert go_on_alone(tmp_path / "two") >= (5 if when == "start" else 6)
    same(tmp_path / "two", single)


@pytest.mark.slow
@pytest.mark.parametrize("by", [signal.SIGTERM, signal.SIGKILL], ids=lambda by: by.name)
def test_twenty_signals(single: Path, tmp_path: Path, by: signal.Signals):
    """At any moment of a training, the compilation of its step included."""
    draw = random.Random(0)
    folder, finished_runs, seconds = tmp_path / "run0", 0, []
    for number in range(20):
        victim = number % 2
        with start_both(folder, pause=0.3) as running:
            printed(running[victim], "start")
            time.sleep(draw.uniform(0, 6))
            before = running[victim].poll()
            running[victim].send_signal(by)
            sent = time.monotonic()
            told = [process.communicate(timeout=120)[1] for process in running]
            seconds.append(time.monotonic() - sent)
            codes = [process.returncode for process in running]
        if before is None:
            ended = [143, 143]
            if by == signal.SIGKILL:
                ended = [distributed.LOST] * 2
                ended[victim] = -signal.SIGKILL
            assert codes == ended, (number, told)
            assert seconds[-1] < TIMEOUT
            assert "Traceback" not in "".join(told)
        if folder.with_suffix(".npz").exists():
            same(folder, single)
            finished_runs += 1
            folder = tmp_path / f"run{finished_runs}"
    go_on_alone(folder)
    same(folder, single)
    print(f"20 x {by.name}: {finished_runs} runs went to their end, at most {max(seconds):.1f} s")


def test_the_command_in_two_processes(tmp_path: Path):
    """The first one prepares the data, prints and writes; both end well."""
    out = tmp_path / "out"

    def command(coordinator: str, index: int) -> list:
        return [
            "-c", "from isnet_jax.commands.main import main; main()", "train", "biased-digits",
            "--out", out, "--data-dir", tmp_path / "data", "--data.limit", 100,
            "--epochs", 1, "--plain-epochs", 1, "--batch-size", 16,
            "--processes.coordinator", coordinator,
            "--processes.count", 2, "--processes.index", index,
        ]  # fmt: skip

    with start_each(command) as running:
        (first, _), (second, _) = finished(*running)
    assert "isnet: 61,338 parameters, 2 devices" in first
    assert "background relevance" in first
    (line,) = (line for line in second.splitlines() if "Gloo" not in line)
    assert re.fullmatch(r"meeting the other processes at localhost:\d+, for at most 300 s", line)
    assert {"metrics.json", "report.html", "run.json"} <= {path.name for path in out.iterdir()}


def test_an_error_of_one_process_ends_both(tmp_path: Path):
    (tmp_path / "1").touch()

    def command(coordinator: str, index: int) -> list:
        return [
            "-c", "from isnet_jax.commands.main import main; main()", "train", "biased-digits",
            "--out", tmp_path / str(index), "--data-dir", tmp_path / "data", "--data.limit", 100,
            "--processes.coordinator", coordinator,
            "--processes.count", 2, "--processes.index", index,
        ]  # fmt: skip

    with start_each(command) as running:
        _, told = running[1].communicate(timeout=120)
        ended = time.monotonic()
        told = [running[0].communicate(timeout=120)[1], told]
        assert time.monotonic() - ended < TIMEOUT
    assert [process.returncode for process in running] == [distributed.LOST, 2], told
    assert "Most likely one of them has stopped" in told[0]
    assert "is a file; expected an output folder" in told[1]
    assert "Traceback" not in "".join(told)


def test_options_out_of_range():
    for options, message in (
        ({"count": 2}, "2 of them, but no coordinator"),
        ({"count": 2, "index": 2}, "index is 2 of 2; expected 0 to count - 1"),
        ({"coordinator": "here"}, "coordinator is 'here'; expected HOST:PORT"),
        ({"timeout": 0}, "timeout is 0 s; expected at least 1"),
    ):
        with pytest.raises(UserError, match=message):
            DistributedConfig(**options)


def test_what_is_raised_in_the_first_process_is_raised_in_all(monkeypatch: pytest.MonkeyPatch):
    """With a second process that is given what the first one sent."""
    sent = []

    def broadcast(value):
        if jax.process_index() == 0:
            sent.append(value)
        return sent[-1]

    def bad():
        raise UserError("no such Ordner: größer")

    calls = []
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    monkeypatch.setattr(distributed.multihost_utils, "broadcast_one_to_all", broadcast)
    for index in range(2):
        monkeypatch.setattr(jax, "process_index", lambda index=index: index)
        with pytest.raises(UserError, match="no such Ordner: größer"):
            first_then_all(bad if index == 0 else calls.append)
    assert not calls
    for index in range(2):
        monkeypatch.setattr(jax, "process_index", lambda index=index: index)
        assert first_then_all(lambda index=index: f"value {index}") == f"value {index}"
