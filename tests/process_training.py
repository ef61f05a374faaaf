"""One process of a training of several, for tests/training/test_distributed.py:

    python process_training.py FOLDER RESULT COORDINATOR COUNT INDEX TIMEOUT PAUSE SINCE

It prints "start N", "step N", "epoch N" as it goes, with PAUSE seconds after each step from the
one of number SINCE on; the first writes parameters and history to RESULT.
"""

from __future__ import annotations

import dataclasses
import json
import sys
import threading
import time
from pathlib import Path

import numpy as np
from orbax.checkpoint._src.futures.synchronization import MultihostSynchronizedValue
from tiny_training import ISNET, SMALL, Printing, arrays, split, timeless

from isnet_jax.commands.main import exit_codes
from isnet_jax.training import DistributedConfig, MeshConfig, fit, is_first

TRAINING = dataclasses.replace(
    ISNET, launch=MeshConfig("mesh", accumulate=2, synchronise_batch_norm=True)
)


class Pausing(Printing):
    def __init__(self, folder: Path, pause: float, since: int):
        super().__init__(folder, 36 // 8)
        self.pause, self.since = pause, since

    def on_step(self, step, metrics):
        super().on_step(step, metrics)
        if step >= self.since:
            time.sleep(self.pause)


def end_writes_late() -> None:
    """As on a slow disk: when the other process writes the next checkpoint already."""
    told = MultihostSynchronizedValue.set

    def tell(self, value):
        if threading.current_thread() is not threading.main_thread():
            time.sleep(0.3)
        told(self, value)

    MultihostSynchronizedValue.set = tell


def main(
    folder: Path, result: Path, processes: DistributedConfig, pause: float, since: int
) -> None:
    processes.connect()
    if processes.index == 1:
        end_writes_late()
    observer = Pausing(folder, pause, since)
    with exit_codes():
        model, history = fit(SMALL, TRAINING, split(36), split(20, 1), folder, observer)
    if is_first():
        np.savez(result, history=json.dumps(timeless(history)), **arrays(model))


if __name__ == "__main__":
    folder, result, coordinator, *numbers, pause, since = sys.argv[1:]
    processes = DistributedConfig(coordinator, *map(int, numbers))
    main(Path(folder), Path(result), processes, float(pause), int(since))
