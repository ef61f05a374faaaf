"""Sides of a benchmark in processes of their own, timed in turns.

A worker script calls `serve`; the script that compares starts one `Worker` a side and `timed` asks
them in turns. Neither side's threads, heap or compiler is then in the other's way.
"""

from __future__ import annotations

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
    """A process that serves; `ready` is what it printed first."""

    def __init__(self, script: Path, *arguments: object):
        self._command = [sys.executable, str(script), *map(str, arguments)]
        self._errors = tempfile.TemporaryFile("w+")  # noqa: SIM115 (closed with the worker)
        self._process = subprocess.Popen(
            self._command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
        )
        self.ready = self._answer()

    def time(self, calls: int) -> dict[str, float]:
        assert self._process.stdin is not None
        self._process.stdin.write(f"{calls}\n")
        self._process.stdin.flush()
        return self._answer()

    def close(self) -> None:
        self._process.communicate()
        self._errors.close()

    def _answer(self) -> dict[str, float]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            self._process.communicate()
            self._errors.seek(0)
            raise SystemExit(
                f"a worker ended early: {' '.join(self._command)}\n{self._errors.read()}"
            )
        return json.loads(line)


def timed(
    workers: Mapping[str, Worker], *, seconds: float, repeats: int
) -> dict[str, list[dict[str, float]]]:
    """The answers of each worker: `repeats` in turns, each of about `seconds`, one call at least.

    Closes the workers.
    """
    calls = {
        name: max(1, round(seconds / worker.time(2)["seconds"])) for name, worker in workers.items()
    }
    answers: dict[str, list[dict[str, float]]] = {name: [] for name in workers}
    for _ in range(repeats):
        for name, worker in workers.items():
            answers[name].append(worker.time(calls[name]))
    for worker in workers.values():
        worker.close()
    return answers


def medians(answers: Mapping[str, list[dict[str, Any]]]) -> dict[str, float]:
    """Each side's median of the seconds a call."""
    return {name: statistics.median(a["seconds"] for a in found) for name, found in answers.items()}
