"""The objective's metrics over a validation split, on all devices, without an update."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from flax import nnx

from isnet_jax.data.split import Split
from isnet_jax.methods.losses import Objective, method_of, with_accuracy
from isnet_jax.methods.method import Context
from isnet_jax.models.network import in_mode
from isnet_jax.objective.batch import Batch, Whole
from isnet_jax.objective.classification import accuracy
from isnet_jax.objective.exchange import Exchange, exchanged
from isnet_jax.training.compilation import compiler_options
from isnet_jax.training.mesh import Launcher
from isnet_jax.training.step import Metrics, TrainState, averaged, scalars

_NO_STEP = 2**32 - 1  # Random choices of a validation are those of no step.


def build_validation(
    model: nnx.Module,
    config: Objective,
    *,
    axis_name: str | None = None,
    interventions: bool = False,
) -> Callable[[TrainState, Batch, Whole], Metrics]:
    """The metrics of a method in eval mode (`Method.validated`); a pure function, of one device.

    Args:
      model: its structure; its values come from the state.
      config: of what is trained.
      axis_name: the mapped axis over which parts are split.
      interventions: also measure "exchanged_accuracy", with the background of another image of
        the part, on the same device, behind every object.

    Returns:
      `(state, part, whole) -> metrics`: a part of the samples with their numbers, and the whole
      that it is a part of. Means of the metrics over parts, weighted by their length, are those of
      the whole, but for the count "nonfinite"; random choices are the same at every call.
    """
    method = method_of(config)
    graph = nnx.graphdef(in_mode(model, training=False))

    def validate(state: TrainState, part: Batch, whole: Whole) -> Metrics:
        copy = nnx.merge(graph, state.parameters, state.rest, copy=True)
        key = jax.random.fold_in(state.key, _NO_STEP)
        context = Context(key, axis_name=axis_name)
        part = dataclasses.replace(part, whole=whole)
        loss, aux = with_accuracy(*method.validated(copy, part, context), part)
        if interventions:
            image = exchanged(part, Exchange(probability=1.0), key).image
            logits = method.deployed(copy)(image)  # pyright: ignore[reportCallIssue]
            aux = {**aux, "exchanged_accuracy": accuracy(logits, part.label)}
        metrics = scalars(loss, aux)
        return metrics if axis_name is None else averaged(metrics, axis_name)

    return validate


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
      interventions: see `build_validation`.
    """

    def __init__(
        self,
        model: nnx.Module,
        config: Objective,
        launcher: Launcher,
        split: Split,
        largest: int,
        *,
        interventions: bool = False,
    ):
        self._split, self._launcher = split, launcher
        build = functools.partial(build_validation, model, config, interventions=interventions)
        self._alone = jax.jit(build(), compiler_options=compiler_options())
        name, devices = launcher.axis_name, launcher.devices
        self._spread = launcher.launch_validation(build(axis_name=name))
        self._parts = [
            np.arange(devices * rows[0], devices * (rows[-1] + 1))
            for rows in even_parts(len(split) // devices, max(largest // devices, 1))
        ]
        self._rest = np.arange(len(split) - len(split) % devices, len(split))
        self._whole = Whole(split.labels, split.has_mask, split.groups)

    def metrics(self, state: TrainState) -> dict[str, float]:
        """Means over the samples, in float32: what processes tell each other.

        Args:
          state: as the launcher places it.
        """
        parts = [(indices, self._spread, state) for indices in self._parts]
        if len(self._rest):
            parts.append((self._rest, self._alone, self._launcher.local(state)))
        found: list[Any] = []
        for indices, validate, placed in parts:
            part = Batch.of({**self._split.batch(indices), "number": indices.astype(np.int32)})
            found.append(validate(placed, part, self._whole))
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
