"""A training in progress: its state, its place in the data, its records."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from isnet_jax.data import Split
from isnet_jax.errors import UserError
from isnet_jax.training.checkpoint import Checkpoints
from isnet_jax.training.config import TrainConfig
from isnet_jax.training.description import ModelDescription
from isnet_jax.training.distributed import agreed
from isnet_jax.training.mesh import StepCost
from isnet_jax.training.metrics import EpochMetrics, NonFiniteError, Record, nonfinite
from isnet_jax.training.progress import check_progress
from isnet_jax.training.provenance import provenance
from isnet_jax.training.serial import to_dict
from isnet_jax.training.speed import EpochClock
from isnet_jax.training.step import (
    TrainState,
    build_step,
    init_state,
)
from isnet_jax.training.validation import Validation

STATE = "state"
_EXCHANGED = "validation_exchanged_accuracy"
ADVICE = (
    "Lower the learning rate or the heatmap weight, or clip the gradient more tightly "
    "(optimiser.clip_norm)."
)


class Trainer:
    """A training and how far it is: restored from its last checkpoint when made."""

    def __init__(
        self,
        description: ModelDescription,
        training: TrainConfig,
        train: Split,
        validation: Split,
        folder: Path,
        checkpoints: Checkpoints,
        on_compiled: Callable[[StepCost], None],
        on_notice: Callable[[str], None] = lambda text: None,
        earlier: nnx.Module | None = None,
    ):
        self.description, self.training, self.train = description, training, train
        self._earlier = earlier
        self.folder, self.checkpoints = folder, checkpoints
        self.steps_per_epoch = training.steps_per_epoch(len(train))
        self.steps = training.epochs * self.steps_per_epoch
        self.model = description.create(training.seed)
        optimiser = training.make_optimiser(self.model, self.steps)
        self._launcher = launcher = training.launch.launcher(training.batch_size)
        step = build_step(
            launcher.prepared(self.model),
            training.make_loss(self.model, launcher.axis_name),
            optimiser,
            axis_name=launcher.axis_name,
            accumulate=training.launch.accumulate,
            average=training.optimiser.average,
        )
        self.run_step = launcher.launch(
            step, lambda compiled: on_compiled(launcher.cost(compiled, self.model))
        )
        self._validation = Validation(
            self.model,
            training.method,
            launcher,
            validation,
            2 * training.batch_size,
            interventions=training.select_by == "interventions",
        )
        self._made_by = {"training": to_dict(training), **provenance()}
        self._optimiser, self._on_notice = optimiser, on_notice
        self.restore()

    def restore(self) -> None:
        self.batches = self.training.batches(self.train)
        start = self.batches.get_state()
        needed = ("step", "seconds", "train_loss", "validation_loss", "validation_accuracy")
        if self.training.select_by == "interventions":
            needed += (_EXCHANGED,)
        progress = {"history": [], "epoch": None}
        resumed = self.checkpoints.resume(
            self._first_state(), lambda found: check_progress(found, start, needed)
        )
        if resumed is not None:
            self.state, progress = resumed
            self.batches.set_state(progress["batches"])
        else:
            self.training.fine_tune.load(self.description.deployed(self.model), self._on_notice)
            if self._earlier is not None:
                self.training.method.begin(self.model, self._earlier)
            self.state = self._first_state()
        self.history: list[Record] = progress["history"]
        self.step = int(self.state.step)
        self.state = self._launcher.place(self.state)
        within = progress["epoch"] or {}
        self.metrics = EpochMetrics(within.get("metrics"))
        self.clock = EpochClock(within.get("seconds", 0.0), first=True)

    def _first_state(self) -> TrainState:
        key, average = jax.random.key(self.training.seed), self.training.optimiser.average > 0
        return init_state(self.model, self._optimiser, key, average=average)

    def local(self) -> TrainState:
        """The state on one device of this process."""
        return self._launcher.local(self.state)

    def is_over(self) -> bool:
        """After the last epoch, or too many without a new best one."""
        losses = [self._score(record) for record in self.history]
        patience = self.training.patience
        stale = len(losses) - 1 - int(np.argmin(losses)) if losses else 0
        return len(losses) >= self.training.epochs or 0 < patience <= stale

    def _score(self, record: Record) -> float:
        """Of an epoch; the lower the better."""
        if self.training.select_by == "interventions":
            return 1 - record[_EXCHANGED]
        return record["validation_loss"]

    def remaining_steps(self) -> range:
        """Numbers of the running epoch's steps that are not made yet."""
        return range(self.step + 1, (len(self.history) + 1) * self.steps_per_epoch + 1)

    def advance(self) -> tuple[Mapping[str, Any], Record | None]:
        """Dispatch the next step; its metrics, and now and then those of a recent one."""
        self.state, metrics = self.run_step(self.state, next(self.batches))
        self.step += 1
        self.clock.count(metrics)
        return metrics, self.metrics.add(self.step, metrics)

    def save_is_due(self) -> bool:
        every = self.training.checkpoints.every
        return every > 0 and self.step % every == 0 and self.step % self.steps_per_epoch > 0

    def save_within_epoch(self) -> None:
        sums = self.metrics.saved()
        self._require_finite_state()
        self._save({"metrics": sums, "seconds": self.clock.seconds()})

    def end_epoch(self) -> Record:
        """Validate and save; the epoch's record."""
        means = self.metrics.means()
        self._require_finite_state()
        self.clock.finished_steps(self.training.batch_size)
        validated = agreed(self._validation.metrics(self.state.averaged()))
        record = {
            "epoch": len(self.history) + 1,
            "step": self.step,
            **{("train_loss" if k == "loss" else k): v for k, v in means.items()},
            **{f"validation_{name}": value for name, value in validated.items()},
            **self.clock.record(),
        }
        if wrong := nonfinite(record):
            raise UserError(
                f"training diverged in epoch {record['epoch']}: NaN or infinite "
                f"{', '.join(wrong)} after its last step. {ADVICE}"
            )
        self.history.append(record)
        self._save(None, self._score(record))
        self.checkpoints.write_history(self.history)
        self.metrics, self.clock = EpochMetrics(), EpochClock()
        return record

    def _require_finite_state(self) -> None:
        if not is_finite(self.state):
            raise NonFiniteError(self.step, [STATE])

    def _save(self, within_epoch: dict[str, Any] | None, loss: float | None = None) -> None:
        progress = {
            "history": self.history,
            "batches": self.batches.get_state(),
            "epoch": within_epoch,
            **self._made_by,
        }
        self.checkpoints.save(self.state, progress, loss=loss)


@jax.jit
def _all_finite(leaves: list[jax.Array]) -> jax.Array:
    return jnp.stack([jnp.isfinite(leaf).all() for leaf in leaves]).all()


def is_finite(state: TrainState) -> bool:
    leaves = jax.tree.leaves((state.parameters, state.rest, state.optimiser))
    return bool(_all_finite([leaf for leaf in leaves if jnp.issubdtype(leaf.dtype, jnp.inexact)]))
