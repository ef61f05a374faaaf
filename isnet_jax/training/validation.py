"""Metrics of a whole split, on all devices."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
from flax import nnx

from isnet_jax.data import Split
from isnet_jax.objective.classification import Classification
from isnet_jax.objective.config import ISNetConfig
from isnet_jax.training.compilation import compiler_options
from isnet_jax.training.mesh import Launcher
from isnet_jax.training.step import TrainState, make_evaluation, objective


class Validation:
    """The objective's metrics over a split: its samples in parts, each spread over the devices.

    What does not divide by the devices, fewer samples than there are devices, is the last part,
    on one device of each process.

    Args:
      model: its structure.
      config: of the objective.
      launcher: where to run.
      split: the samples; every process has all of them.
      largest: samples in a part, at most (but one for each device).
    """

    def __init__(
        self,
        model: nnx.Module,
        config: ISNetConfig | Classification,
        launcher: Launcher,
        split: Split,
        largest: int,
    ):
        self._split, self._launcher = split, launcher
        self._alone = jax.jit(
            make_evaluation(model, objective(config)), compiler_options=compiler_options()
        )
        name, devices = launcher.axis_name, launcher.devices
        self._spread = launcher.launch_evaluation(
            make_evaluation(model, objective(config, name), axis_name=name)
        )
        self._parts = [
            np.arange(devices * rows[0], devices * (rows[-1] + 1))
            for rows in even_parts(len(split) // devices, max(largest // devices, 1))
        ]
        self._rest = np.arange(len(split) - len(split) % devices, len(split))
        self._whole = {"label": split.labels}
        if split.has_mask is not None:
            self._whole["has_mask"] = split.has_mask

    def metrics(self, state: TrainState) -> dict[str, float]:
        """Means over the samples, in float32: what processes tell each other.

        Args:
          state: as the launcher places it.
        """
        parts = [(indices, self._spread, state) for indices in self._parts]
        if len(self._rest):
            parts.append((self._rest, self._alone, self._launcher.local(state)))
        found: list[Any] = []
        for indices, evaluate, placed in parts:
            batch = {**self._split.batch(indices), "number": indices.astype(np.int32)}
            found.append(evaluate(placed, batch, self._whole))
        found = jax.device_get(found)
        shares = np.array([len(indices) for indices, _, _ in parts]) / len(self._split)
        return {
            name: float(np.float32(shares @ [metrics[name] for metrics in found]))
            for name in found[0]
        }


def even_parts(count: int, largest: int) -> list[np.ndarray]:
    """All indices below `count`, in parts of one size, or two: each size is compiled.

    Nothing is filled up, so that means over parts, weighted by length, are means over samples.
    """
    if not count:
        return []
    fewest = -(-count // largest)
    equal = (number for number in range(fewest, 2 * fewest + 1) if count % number == 0)
    return np.array_split(np.arange(count), next(equal, fewest))
