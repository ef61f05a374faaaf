"""Sides of a benchmark in processes of their own, timed in turns.

A worker script calls `serve`; the script that compares enters one `Worker` a side and `timed` asks
them in turns. Each side has threads, a heap and a compiler of its own. Where they share an
accelerator, `slot` keeps them from compiling, which tries kernels there, while another is timed.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import json
import resource
import select
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, SupportsFloat


def one_heap_that_is_kept() -> None:
    """No mmap, no trimming, one heap for all threads: what serves PyTorch best (mallopt(3))."""
    for option, value in ((-4, 0), (-1, -1), (-8, 1)):
        ctypes.CDLL(None).mallopt(option, value)


def resident_gb() -> float:
    """The most memory that this process ever had."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6


def serve(
    call: Callable[[], SupportsFloat],
    ready: Mapping[str, Any],
    peak_gb: Callable[[], float] = resident_gb,
) -> None:
    """Print `ready`; answer every number n on standard input with n calls, until it closes.

    An answer is a line of JSON: seconds a call, what the last call returned, peak memory in GB. A
    call may return before its value is computed; the clock stops when the last value is there.
    """
    print(json.dumps(ready), flush=True)
    for line in sys.stdin:
        count, value = int(line), 0.0
        started = time.perf_counter()
        for _ in range(count):
            value = call()
        value = float(value)
        seconds = (time.perf_counter() - started) / count
        print(json.dumps({"seconds": seconds, "value": value, "peak_gb": peak_gb()}), flush=True)


@contextlib.contextmanager
def slot(folder: Path, count: int) -> Iterator[None]:
    """One of `count` slots that all processes with this folder share, when one is free."""
    with contextlib.ExitStack() as stack:
        files = [stack.enter_context((folder / f"slot{n}").open("w")) for n in range(count)]
        while not any(map(_locked, files)):
            time.sleep(0.05)
        yield


@contextlib.contextmanager
def all_slots(folder: Path, count: int) -> Iterator[None]:
    """Every slot, when those who hold one have left it."""
    with contextlib.ExitStack() as stack:
        for number in range(count):
            file = stack.enter_context((folder / f"slot{number}").open("w"))
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _locked(file: Any) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


class WorkerEndedError(SystemExit):
    """A worker ended before it answered."""


class Worker:
    """A process that serves, ended with the context.

    Args:
      script: the worker's.
      arguments: for its command line.
      wait: until it is ready.
      environment: of the process, if not this one's.
    """

    def __init__(
        self,
        script: Path,
        *arguments: object,
        wait: bool = True,
        environment: Mapping[str, str] | None = None,
    ):
        self._command = [sys.executable, str(script), *map(str, arguments)]
        self._errors = tempfile.TemporaryFile("w+")  # noqa: SIM115 (closed by __exit__)
        self._process = subprocess.Popen(
            self._command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            env=environment,
        )
        self._ready: dict[str, Any] | None = None
        if wait:
            self.ready()

    def ready(self) -> dict[str, Any]:
        """What it printed first, when it did."""
        if self._ready is None:
            self._ready = self._answer()
        return self._ready

    def is_ready(self, seconds: float) -> bool:
        """Whether it is ready, or has ended; after a wait of so many seconds if it is not."""
        assert self._process.stdout is not None
        return self._ready is not None or bool(
            select.select([self._process.stdout], [], [], seconds)[0]
        )

    def kill(self) -> None:
        """End it now, whatever it does."""
        self._process.kill()

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
            raise WorkerEndedError(
                f"a worker ended early: {' '.join(self._command)}\n{self._errors.read()}"
            )
        return json.loads(line)


def timed(
    workers: Mapping[str, Worker], *, seconds: float, repeats: int
) -> dict[str, list[dict[str, float]]]:
    """Each worker's answers: `repeats` in turns, each of about `seconds`, one call at least.

    Every other round goes the other way, so that none is always the one that follows.
    """
    calls = {
        name: max(1, round(seconds / worker.time(2)["seconds"])) for name, worker in workers.items()
    }
    answers: dict[str, list[dict[str, float]]] = {name: [] for name in workers}
    for turn in range(repeats):
        for name in list(workers)[:: -1 if turn % 2 else 1]:
            answers[name].append(workers[name].time(calls[name]))
    return answers


def medians(answers: Mapping[str, list[dict[str, Any]]]) -> dict[str, float]:
    """Each side's median of the seconds a call."""
    return {name: statistics.median(a["seconds"] for a in found) for name, found in answers.items()}
