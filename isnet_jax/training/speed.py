"""How fast an epoch went, and how much of the devices' memory was needed."""

from __future__ import annotations

import time
from typing import Any

import jax

from isnet_jax.training.metrics import Record


class EpochClock:
    """Times an epoch, of which an interrupted run may have made a part.

    Args:
      seconds: already spent on the epoch by an earlier process.
      first: whether the next step is the first one of this process, which is compiled.
    """

    def __init__(self, seconds: float = 0.0, *, first: bool = False):
        self._first, self._spent, self._started = first, seconds, time.monotonic()
        self._after_first = self._started
        self._steps = 0
        self._speed: Record = {}

    def count(self, result: Any) -> None:
        """After a step was dispatched. Waits for the result of the process's first one."""
        if self._first:
            jax.block_until_ready(result)
            self._after_first, self._first = time.monotonic(), False
            self._speed["first_step_seconds"] = self._after_first - self._started
        else:
            self._steps += 1

    def finished_steps(self, batch_size: int) -> None:
        """After the epoch's last step is done."""
        seconds = time.monotonic() - self._after_first
        if self._steps:
            self._speed["steps_per_second"] = self._steps / seconds
            self._speed["images_per_second"] = self._steps * batch_size / seconds
        peaks = [
            (device.memory_stats() or {}).get("peak_bytes_in_use") for device in jax.local_devices()
        ]
        if known := [peak for peak in peaks if peak is not None]:
            self._speed["peak_device_bytes"] = float(max(known))

    def seconds(self) -> float:
        """Spent on the epoch so far, by all processes one after the other."""
        return self._spent + time.monotonic() - self._started

    def record(self) -> Record:
        """For the epoch's record: seconds and, where known, first_step_seconds (the first step of
        this process with its compilation), steps_per_second, images_per_second and
        peak_device_bytes (the highest of this process's devices)."""
        return {"seconds": self.seconds(), **self._speed}


TIMES = (
    "seconds", "first_step_seconds", "steps_per_second", "images_per_second", "peak_device_bytes",
)  # fmt: skip
"""What differs between two runs of the same training: the keys of `EpochClock.record`."""
