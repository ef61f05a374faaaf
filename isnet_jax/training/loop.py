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

from isnet_jax.classification import Classification
from isnet_jax.config import ISNetConfig
from isnet_jax.data import Augmentation, Split, train_iterator
from isnet_jax.errors import UserError
from isnet_jax.training.checkpoint import Checkpoints, ModelDescription, write_description
from isnet_jax.training.optimiser import OptimiserConfig
from isnet_jax.training.parallel import Launch, StepCost
from isnet_jax.training.processes import agreed, stops_with_the_others
from isnet_jax.training.step import (
    TrainState,
    compile_evaluation,
    init_state,
    make_step,
    objective,
)

Record = dict[str, float]

FETCH_EVERY = 10  # Steps between two looks at the metrics: the loop's only host synchronisation.


@dataclasses.dataclass(frozen=True)
class Training:
    """How one network is trained.

    Attributes:
      objective: an ISNet's, or the loss of a plain classifier.
      optimiser: see there.
      epochs: passes over the training split, at least 1.
      batch_size: samples a step, over all devices, at least 1.
      augmentation: random transformations of image and mask together.
      seed: decides weights, order, shifts and the stochastic choices; 0 to 2**32 - 1.
      launch: how the step runs over devices.
    """

    objective: ISNetConfig | Classification
    optimiser: OptimiserConfig
    epochs: int
    batch_size: int
    augmentation: Augmentation
    seed: int
    launch: Launch = dataclasses.field(default_factory=Launch)

    def __post_init__(self):
        if self.epochs < 1:
            raise UserError(f"training: epochs is {self.epochs}; expected at least 1.")
        if self.batch_size < 1:
            raise UserError(f"training: batch_size is {self.batch_size}; expected at least 1.")
        if not 0 <= self.seed < 2**32:
            raise UserError(f"training: seed is {self.seed}; expected 0 to 2**32 - 1.")

    def batches(self, train: Split) -> Any:
        """The endless batches of the training split: of each, the rows of this process.

        Raises:
          UserError: the split does not fill a batch, or its images are too small for the shifts.
        """
        return train_iterator(
            train,
            self.batch_size // jax.process_count(),
            seed=self.seed,
            augmentation=self.augmentation,
            shard_index=jax.process_index(),
            shard_count=jax.process_count(),
        )


class Observer(Protocol):
    """Told of what happens: a progress bar, a log, a test."""

    def on_start(self, step: int, steps: int) -> None:
        """Before the first step: how many were made by an earlier call, and how many in all."""

    def on_compiled(self, cost: StepCost) -> None:
        """Before the first step of this call: what a step costs."""

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

    Of several processes (`jax.distributed`) each makes this call, with the same arguments.

    After every epoch the state, the place in the data and the history are written to
    `folder/last`, and to `folder/best` if the validation loss is the lowest so far.

    Returns:
      The network with the lowest validation loss, in eval mode, and one record an epoch.

    Raises:
      UserError: the loss is no longer finite (the last checkpoint is kept), the folder's
        checkpoints belong to another architecture, or the batch does not divide by the devices.
    """
    launcher = training.launch.launcher(training.batch_size)
    write_description(folder, description)
    batches = training.batches(train)
    steps_per_epoch = len(train) // training.batch_size
    steps = training.epochs * steps_per_epoch
    optimiser = training.optimiser.make(steps)
    model = description.create(training.seed)
    state = init_state(model, optimiser, jax.random.key(training.seed))
    step = make_step(
        launcher.prepared(model),
        objective(training.objective, launcher.axis_name),
        optimiser,
        axis_name=launcher.axis_name,
        accumulate=training.launch.accumulate,
    )
    run_step = launcher.launch(
        step, lambda compiled: observer.on_compiled(launcher.cost(compiled, model))
    )
    run_evaluation = compile_evaluation(model, objective(training.objective))
    history: list[Record] = []
    with Checkpoints(folder) as checkpoints, stops_with_the_others():
        resumed = checkpoints.resume(state)
        if resumed is not None:
            state, progress = resumed
            history = progress["history"]
            batches.set_state(progress["batches"])
        state = launcher.place(state)
        observer.on_start(len(history) * steps_per_epoch, steps)
        for epoch in range(len(history) + 1, training.epochs + 1):
            started = time.monotonic()
            numbers = range((epoch - 1) * steps_per_epoch, epoch * steps_per_epoch)
            state, metrics = _epoch(run_step, state, batches, numbers, observer)
            local = launcher.local(state)
            validated = agreed(_validate(run_evaluation, local, validation, training))
            record = {
                "epoch": epoch,
                "step": epoch * steps_per_epoch,
                **{("train_loss" if k == "loss" else k): v for k, v in metrics.items()},
                **{f"validation_{name}": value for name, value in validated.items()},
                "seconds": time.monotonic() - started,
            }
            _require_finite(record, epoch)
            best = all(record["validation_loss"] < r["validation_loss"] for r in history)
            history.append(record)
            checkpoints.save(state, {"history": history, "batches": batches.get_state()}, best=best)
            observer.on_epoch(record, lambda local=local: _network(model, local))
        chosen = checkpoints.best(state)
    assert chosen is not None
    return _network(model, chosen), history


def _epoch(
    run_step: Any, state: TrainState, batches: Any, steps: range, observer: Observer
) -> tuple[TrainState, Record]:
    collected = []
    for step in steps:
        state, metrics = run_step(state, next(batches))
        collected.append(metrics)
        log = None
        if len(collected) % FETCH_EVERY == 0:
            # An older step's: waiting for the latest would leave the device idle.
            log = _floats(collected[-FETCH_EVERY // 2])
            _require_finite(log, 1 + step // len(steps))
        observer.on_step(step + 1, log)
    means = jax.tree.map(lambda *values: jnp.stack(values).mean(), *collected)
    return state, _floats(means)


def _validate(run_evaluation: Any, state: TrainState, split: Split, training: Training) -> Record:
    key = jax.random.key(training.seed)
    totals: dict[str, Any] = {}
    for number, chunk in enumerate(_even_chunks(len(split), 2 * training.batch_size)):
        metrics = run_evaluation(state, split.batch(chunk), jax.random.fold_in(key, number))
        share = len(chunk) / len(split)
        totals = {name: totals.get(name, 0) + share * value for name, value in metrics.items()}
    return _floats(totals)


def _even_chunks(count: int, largest: int) -> list[np.ndarray]:
    """All indices below `count`, in chunks of one size, or two: each size is compiled.

    Nothing is filled up, so that means over chunks, weighted by length, are means over samples.
    """
    fewest = -(-count // largest)
    equal = (number for number in range(fewest, 2 * fewest + 1) if count % number == 0)
    return np.array_split(np.arange(count), next(equal, fewest))


def _network(model: nnx.Module, state: TrainState) -> nnx.Module:
    graph, _, _ = nnx.split(model, nnx.Param, ...)
    made = nnx.merge(graph, state.parameters, state.rest, copy=True)
    made.eval()
    return made


def _require_finite(metrics: Record, epoch: int) -> None:
    wrong = [name for name, value in metrics.items() if not np.isfinite(value)]
    if any(value for name, value in metrics.items() if name.endswith("nonfinite")):
        wrong.append("heatmaps")
    if wrong:
        kept = f" The checkpoint of epoch {epoch - 1} is kept." if epoch > 1 else ""
        raise UserError(
            f"training diverged in epoch {epoch}: NaN or infinite {', '.join(wrong)}.{kept} Lower "
            "the learning rate or the heatmap weight, or clip the gradient more tightly "
            "(optimiser.clip_norm)."
        )


def _floats(metrics: Any) -> Record:
    return {name: float(value) for name, value in jax.device_get(metrics).items()}
