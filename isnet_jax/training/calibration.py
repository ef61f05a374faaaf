"""The training in which `objective.calibration` measures."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import jax
import numpy as np
from flax import nnx

from isnet_jax.data.split import Split
from isnet_jax.models.network import in_mode
from isnet_jax.objective.calibration import Calibration, bounds, settings_of, total_relevance
from isnet_jax.objective.config import ISNetConfig
from isnet_jax.objective.loss import supervised_places
from isnet_jax.training.compilation import compiler_options
from isnet_jax.training.config import TrainConfig
from isnet_jax.training.description import ModelDescription
from isnet_jax.training.start import start


def calibrate(
    description: ModelDescription,
    config: ISNetConfig,
    training: TrainConfig,
    train: Split,
    on_step: Callable[[int, int], None] = lambda done, steps: None,
) -> Calibration:
    """Train plainly; in the last epoch measure every batch before its update.

    Args:
      config: the objective to calibrate; its `foreground_range` is not read.
      training: of the plain classifier, 5 epochs in the paper.
      on_step: told of the number of steps done and in all.
    """
    batches, per_epoch = training.batches(train), training.steps_per_epoch(len(train))
    steps = training.epochs * per_epoch
    plain = dataclasses.replace(training, objective=config.classification)
    model, state, run_step = start(description, plain, steps)
    graph = nnx.graphdef(in_mode(model, training=True))

    def measure(state, batch):
        copy = nnx.merge(graph, state.parameters, state.rest, copy=True)
        key = jax.random.fold_in(state.key, state.step)
        return total_relevance(copy, batch["image"], config, key)

    run_measure = jax.jit(measure, compiler_options=compiler_options())
    measured = []
    for step in range(steps):
        batch = next(batches)
        if step >= steps - per_epoch:
            measured.append(run_measure(state, batch))
        state, _ = run_step(state, batch)
        on_step(step + 1, steps)
    totals = np.concatenate(measured, 1).astype(float)
    return Calibration(
        foreground_range=tuple(map(bounds, totals)),
        mean=tuple(totals.mean(1).tolist()),
        deviation=tuple(totals.std(1, ddof=1).tolist()),
        places=("input", *supervised_places(model, config)),
        samples=totals.shape[1],
        model=description.architecture,
        dtype=description.options.get("dtype", "float32"),
        settings=settings_of(config),
    )
