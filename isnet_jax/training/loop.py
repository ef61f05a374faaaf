"""Training of one network: the loop around the compiled step."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from isnet_jax.data import Split, train_iterator
from isnet_jax.errors import UserError
from isnet_jax.evaluation.predictions import chunks
from isnet_jax.objective import ISNetConfig
from isnet_jax.training.checkpoint import Checkpoints, ModelDescription, write_description
from isnet_jax.training.optimiser import OptimiserConfig
from isnet_jax.training.step import (
    TrainState,
    compile_evaluation,
    compile_step,
    init_state,
    make_step,
    objective,
)

Record = dict[str, float]


@dataclasses.dataclass(frozen=True)
class Training:
    """How one network is trained.

    Attributes:
      isnet: the objective; None trains the plain classifier.
      optimiser: see there.
      epochs: passes over the training split, at least 1.
      batch_size: samples a step.
      max_shift: random shifts of image and mask together, in pixels.
      seed: decides weights, order, shifts and the stochastic choices.
    """

    isnet: ISNetConfig | None
    optimiser: OptimiserConfig
    epochs: int
    batch_size: int
    max_shift: int
    seed: int

    def __post_init__(self):
        if self.epochs < 1:
            raise UserError(f"training: epochs is {self.epochs}; expected at least 1.")


class Observer(Protocol):
    """Told of what happens: a progress bar, a log, a test."""

    def on_step(self, step: int, metrics: Record | None) -> None:
        """After a step was dispatched; metrics of a recent one where they were fetched."""

    def on_epoch(self, record: Record, model: Callable[[], nnx.Module]) -> None:
        """After an epoch; `model` makes the network as it is now, in eval mode."""


def fit(
    description: ModelDescription,
    training: Training,
    train: Split,
    validation: Split,
    folder: Path,
    observer: Observer,
) -> tuple[nnx.Module, list[Record]]:
    """Train a network, or go on where an earlier call in this folder was interrupted.

    After every epoch the state, the place in the data and the history are written to
    `folder/last`, and to `folder/best` if the validation loss is the lowest so far.

    Returns:
      The network with the lowest validation loss, in eval mode, and one record an epoch.

    Raises:
      UserError: the loss is no longer finite (the last checkpoint is kept), or the folder's
        checkpoints belong to another architecture.
    """
    write_description(folder, description)
    batches = train_iterator(
        train, training.batch_size, seed=training.seed, max_shift=training.max_shift
    )
    steps_per_epoch = len(train) // training.batch_size
    optimiser = training.optimiser.make(training.epochs * steps_per_epoch)
    model = description.create(training.seed)
    state = init_state(model, optimiser, jax.random.key(training.seed))
    run_step = compile_step(make_step(model, objective(training.isnet), optimiser))
    run_evaluation = compile_evaluation(model, objective(training.isnet))
    history: list[Record] = []
    with Checkpoints(folder) as checkpoints:
        resumed = checkpoints.resume(state)
        if resumed is not None:
            state, progress = resumed
            history = progress["history"]
            batches.set_state(progress["batches"])
        for epoch in range(len(history) + 1, training.epochs + 1):
            started = time.monotonic()
            state, metrics = _epoch(run_step, state, batches, steps_per_epoch, observer)
            validated = _validate(run_evaluation, state, validation, training)
            record = {
                "epoch": epoch,
                "step": int(state.step),
                **{("train_loss" if k == "loss" else k): v for k, v in metrics.items()},
                **{f"validation_{name}": value for name, value in validated.items()},
                "seconds": time.monotonic() - started,
            }
            _require_finite(record, folder)
            best = all(record["validation_loss"] < r["validation_loss"] for r in history)
            history.append(record)
            checkpoints.save(
                state, {"history": history, "batches": batches.get_state()}, best=best
            )
            observer.on_epoch(record, lambda state=state: _network(model, state))
        chosen = checkpoints.best(state)
    assert chosen is not None
    return _network(model, chosen), history


def _epoch(
    run_step: Any, state: TrainState, batches: Any, steps: int, observer: Observer
) -> tuple[TrainState, Record]:
    fetched_every = 10
    collected = []
    first = int(state.step)
    for number in range(1, steps + 1):
        state, metrics = run_step(state, next(batches))
        collected.append(metrics)
        log = None
        if number % fetched_every == 0:
            # An older step's: waiting for the latest would leave the device idle.
            log = _floats(collected[-fetched_every // 2])
        observer.on_step(first + number, log)
    means = jax.tree.map(lambda *values: jnp.stack(values).mean(), *collected)
    return state, _floats(means)


def _validate(
    run_evaluation: Any, state: TrainState, split: Split, training: Training
) -> Record:
    size = min(len(split), 2 * training.batch_size)
    totals, count = {}, 0
    key = jax.random.key(training.seed)
    for number, (indices, valid) in enumerate(chunks(len(split), size)):
        if valid < size:
            break
        metrics = run_evaluation(state, split.batch(indices), jax.random.fold_in(key, number))
        totals = {k: totals.get(k, 0) + v for k, v in metrics.items()}
        count += 1
    return {name: value / count for name, value in _floats(totals).items()}


def _network(model: nnx.Module, state: TrainState) -> nnx.Module:
    graph, _, _ = nnx.split(model, nnx.Param, ...)
    made = nnx.merge(graph, state.parameters, state.rest, copy=True)
    made.eval()
    return made


def _require_finite(record: Record, folder: Path) -> None:
    wrong = [name for name in ("train_loss", "validation_loss") if not np.isfinite(record[name])]
    if wrong or record.get("nonfinite"):
        what = ", ".join(wrong) or "heatmap"
        raise UserError(
            f"training diverged in epoch {record['epoch']:g}: {what} is NaN or infinite. The "
            f"checkpoint of the epoch before is kept in {folder}. Lower the learning rate, the "
            "heatmap weight, or clip the gradient more tightly (optimiser.clip_norm)."
        )


def _floats(metrics: Any) -> Record:
    return {name: float(value) for name, value in jax.device_get(metrics).items()}
