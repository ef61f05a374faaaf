"""A training of seconds, for tests of the loop; also as a program, to be killed:

    python tiny_training.py FOLDER RESULT [EVERY]

It prints "start N", "step N", "epoch N" as it goes and writes parameters and history to RESULT;
with EVERY it saves every so many steps too. Errors and SIGTERM end it as they end the command line.
"""

from __future__ import annotations

import dataclasses
import json
import sys
import time
from pathlib import Path

import jax
import numpy as np
from flax import nnx

from isnet_jax import Classification, ISNetConfig
from isnet_jax.commands.main import exit_codes
from isnet_jax.data import Augmentation, Split
from isnet_jax.training import CheckpointConfig, ModelDescription, OptimiserConfig, TrainConfig, fit
from isnet_jax.training.speed import TIMES

CLASSES = ("a", "b", "c")
SHAPE = (12, 12, 3)
SMALL = ModelDescription("small", len(CLASSES), CLASSES, SHAPE)
ISNET = TrainConfig(
    objective=ISNetConfig(),
    optimiser=OptimiserConfig(),
    epochs=3,
    batch_size=8,
    augmentation=Augmentation(max_shift=1),
    seed=3,
)
PLAIN = TrainConfig(
    objective=Classification(),
    optimiser=OptimiserConfig(),
    epochs=2,
    batch_size=8,
    augmentation=Augmentation(),
    seed=3,
)


def split(count: int, seed: int = 0) -> Split:
    """Random images with a square of foreground; the class is in its colour."""
    rng = np.random.default_rng(seed)
    labels = np.arange(count, dtype=np.int32) % len(CLASSES)
    images = rng.random((count, *SHAPE), np.float32) / 2
    images[:, 4:8, 4:8][np.arange(count), ..., labels] += 0.5
    masks = np.zeros((count, *SHAPE[:2], 1), np.float32)
    masks[:, 4:8, 4:8] = 1
    return Split(images, masks, labels, tuple(map(str, range(count))), CLASSES)


class Silent:
    """An observer that keeps what it is told."""

    def __init__(self):
        self.told = []

    def on_stage(self, name, folder):
        self.told.append(("stage", name))

    def on_start(self, step, steps):
        self.told.append(("start", step))

    def on_notice(self, text):
        self.told.append(("notice", text))

    def on_compiled(self, cost):
        self.cost = cost

    def on_step(self, step, metrics):
        self.told.append(("step", step))

    def on_epoch(self, record, model):
        self.told.append(("epoch", int(record["epoch"])))


class Printing(Silent):
    def __init__(self, folder: Path, steps_per_save: int):
        super().__init__()
        self.folder, self.steps_per_save = folder, steps_per_save

    def on_start(self, step, steps):
        print("start", step, flush=True)

    def on_notice(self, text):
        print("notice", text, flush=True)

    def on_step(self, step, metrics):
        """Written checkpoints are waited for: these epochs are shorter than writing takes."""
        saved = (step - 1) // self.steps_per_save * self.steps_per_save
        while saved and not (self.folder / "last" / str(saved)).exists():
            time.sleep(0.05)
        print("step", step, flush=True)

    def on_epoch(self, record, model):
        print("epoch", int(record["epoch"]), flush=True)


def arrays(model: nnx.Module) -> dict[str, np.ndarray]:
    """All values of a network by their path."""
    leaves = jax.tree_util.tree_flatten_with_path(nnx.state(model))[0]
    return {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in leaves}


def timeless(history: list[dict[str, float]]) -> list[dict[str, float]]:
    return [{k: v for k, v in record.items() if k not in TIMES} for record in history]


def main(folder: Path, result: Path, every: int = 0) -> None:
    training = dataclasses.replace(ISNET, checkpoints=CheckpointConfig(every=every))
    observer = Printing(folder, every or 36 // 8)
    with exit_codes():
        model, history = fit(SMALL, training, split(36), split(20, 1), folder, observer)
    np.savez(result, history=json.dumps(timeless(history)), **arrays(model))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), *map(int, sys.argv[3:]))
