"""Training of one network: the loop around the compiled step."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
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
from isnet_jax.options import from_plain, plain
from isnet_jax.training import profiling
from isnet_jax.training.checkpoint import (
    CheckpointConfig,
    Checkpoints,
    ModelDescription,
    unflattened,
    write_description,
)
from isnet_jax.training.epoch_metrics import EpochMetrics, NonFiniteError, Record, nonfinite
from isnet_jax.training.failure import Failure, host_arrays, load_failure
from isnet_jax.training.optimiser import OptimiserConfig
from isnet_jax.training.provenance import provenance
from isnet_jax.training.speed import EpochClock
from isnet_jax.training.step import (
    TrainState,
    compile_evaluation,
    compile_step,
    init_state,
    make_step,
    objective,
)
from isnet_jax.training.termination import Terminated, Termination


@dataclasses.dataclass(frozen=True)
class Training:
    """How one network is trained.

    Attributes:
      objective: an ISNet's, or the loss of a plain classifier.
      optimiser: see there.
      epochs: passes over the training split, at least 1.
      batch_size: samples a step, at least 1.
      augmentation: random transformations of image and mask together.
      seed: decides weights, order, shifts and the stochastic choices; 0 to 2**32 - 1.
      patience: end after so many epochs without a new lowest validation loss; 0 never does.
      checkpoints: when they are written and how many are kept.
      profile_steps: first and last step, from 1, to write a profile of; None for no profile.
    """

    objective: ISNetConfig | Classification
    optimiser: OptimiserConfig
    epochs: int
    batch_size: int
    augmentation: Augmentation
    seed: int
    patience: int = 0
    checkpoints: CheckpointConfig = dataclasses.field(default_factory=CheckpointConfig)
    profile_steps: tuple[int, int] | None = None

    def __post_init__(self):
        if self.epochs < 1:
            raise UserError(f"training: epochs is {self.epochs}; expected at least 1.")
        if self.batch_size < 1:
            raise UserError(f"training: batch_size is {self.batch_size}; expected at least 1.")
        if not 0 <= self.seed < 2**32:
            raise UserError(f"training: seed is {self.seed}; expected 0 to 2**32 - 1.")
        if self.patience < 0:
            raise UserError(f"training: patience is {self.patience}; expected at least 0.")
        if self.profile_steps and not 1 <= self.profile_steps[0] <= self.profile_steps[1]:
            raise UserError(
                f"training: profile_steps is {self.profile_steps}; expected the first and the last "
                "step, 1 <= first <= last."
            )

    def batches(self, train: Split) -> Any:
        """The endless batches of the training split.

        Raises:
          UserError: the split does not fill a batch, or its images are too small for the shifts.
        """
        return train_iterator(
            train, self.batch_size, seed=self.seed, augmentation=self.augmentation
        )


_STATE = "state"
_ADVICE = (
    "Lower the learning rate or the heatmap weight, or clip the gradient more tightly "
    "(optimiser.clip_norm)."
)


class Observer(Protocol):
    """Told of what happens: a progress bar, a log, a test."""

    def on_start(self, step: int, steps: int) -> None:
        """Before the first step: how many were made by an earlier call, and how many in all."""

    def on_notice(self, text: str) -> None:
        """Something that the user should know."""

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

    After every epoch, and in between as `training.checkpoints` says, the state, the place in the
    data and the history are written to `folder/last`, and to `folder/best` if the validation loss
    is among the lowest; the history also to `folder/metrics.jsonl`, one line an epoch.

    Returns:
      The network with the lowest validation loss, in eval mode, and one record an epoch.

    Raises:
      UserError: a step is no longer finite (it is dumped, and the last checkpoint is kept), a
        checkpoint cannot be written or read, or the folder's belong to another architecture.
      Terminated: SIGTERM came; the last step is saved.
    """
    write_description(folder, description)
    with (
        Termination() as termination,
        Checkpoints(folder, training.checkpoints, observer.on_notice) as checkpoints,
        profiling.Window(folder / "profile", training.profile_steps) as profile,
    ):
        run = _Run(description, training, train, folder, checkpoints)
        observer.on_start(run.step, run.steps)
        try:
            while not run.is_over():
                for step in run.remaining_steps():
                    profile.before(step)
                    metrics, looked = run.make_step()
                    profile.after(step, metrics)
                    observer.on_step(step, looked)
                    if looked is not None:
                        checkpoints.check()
                    if termination.requested:
                        run.save_within_epoch()
                        checkpoints.wait()
                        raise Terminated(f"ended by SIGTERM; step {step} is saved")
                    if run.save_is_due():
                        run.save_within_epoch()
                record = run.end_epoch(validation)
                observer.on_epoch(record, lambda state=run.state: _network(run.model, state))
                if termination.requested:
                    checkpoints.wait()
                    raise Terminated(f"ended by SIGTERM; epoch {record['epoch']:.0f} is saved")
        except NonFiniteError as error:
            raise run.diverged(error) from error
        chosen = checkpoints.best(run.state)
    assert chosen is not None
    return _network(run.model, chosen), run.history


class _Run:
    """A training and how far it is: restored from its last checkpoint when made."""

    def __init__(
        self,
        description: ModelDescription,
        training: Training,
        train: Split,
        folder: Path,
        checkpoints: Checkpoints,
    ):
        self.description, self.training, self.train = description, training, train
        self.folder, self.checkpoints = folder, checkpoints
        self.steps_per_epoch = len(train) // training.batch_size
        self.steps = training.epochs * self.steps_per_epoch
        self.model = description.create(training.seed)
        self._optimiser = training.optimiser.make(self.steps)
        self._run_step = compile_step(
            make_step(self.model, objective(training.objective), self._optimiser)
        )
        self._evaluate = compile_evaluation(self.model, objective(training.objective))
        self._made_by = {"training": plain(training), **provenance()}
        self._restore()

    def _restore(self) -> None:
        self._batches = self.training.batches(self.train)
        self.state = init_state(self.model, self._optimiser, jax.random.key(self.training.seed))
        progress = {"history": [], "epoch": None}
        resumed = self.checkpoints.resume(self.state)
        if resumed is not None:
            self.state, progress = resumed
            self._batches.set_state(progress["batches"])
        self.history: list[Record] = progress["history"]
        self.step = int(self.state.step)
        within = progress["epoch"] or {}
        self.metrics = EpochMetrics(within.get("metrics"))
        self.clock = EpochClock(within.get("seconds", 0.0), first=True)

    def is_over(self) -> bool:
        """After the last epoch, or too many without a new lowest validation loss."""
        losses = [record["validation_loss"] for record in self.history]
        patience = self.training.patience
        stale = len(losses) - 1 - int(np.argmin(losses)) if losses else 0
        return len(losses) >= self.training.epochs or 0 < patience <= stale

    def remaining_steps(self) -> range:
        """Numbers of the running epoch's steps that are not made yet."""
        return range(self.step + 1, (len(self.history) + 1) * self.steps_per_epoch + 1)

    def make_step(self) -> tuple[Mapping[str, Any], Record | None]:
        """Dispatch the next step; its metrics, and now and then those of a recent one."""
        self.state, metrics = self._run_step(self.state, next(self._batches))
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

    def end_epoch(self, validation: Split) -> Record:
        """Validate and save; the epoch's record."""
        means = self.metrics.means()
        self._require_finite_state()
        self.clock.finished_steps(self.training.batch_size)
        validated = _validate(self._evaluate, self.state, validation, self.training)
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
                f"{', '.join(wrong)} after its last step. {_ADVICE}"
            )
        self.history.append(record)
        self._save(None, record["validation_loss"])
        self.checkpoints.write_history(self.history)
        self.metrics, self.clock = EpochMetrics(), EpochClock()
        return record

    def _require_finite_state(self) -> None:
        if not _is_finite(self.state):
            raise NonFiniteError(self.step, [_STATE])

    def _save(self, within_epoch: dict[str, Any] | None, loss: float | None = None) -> None:
        progress = {
            "history": self.history,
            "batches": self._batches.get_state(),
            "epoch": within_epoch,
            **self._made_by,
        }
        self.checkpoints.save(self.state, progress, loss=loss)

    def diverged(self, error: NonFiniteError) -> UserError:
        """Make the steps since the last checkpoint again, dump the failing one, and say so.

        No step keeps a copy of the state before it, so that nothing is paid until one fails.
        """
        self._restore()
        checkpoint = self.step or None
        while self.step < error.step - 1:
            self.state, _ = self._run_step(self.state, next(self._batches))
            self.step += 1
        place = self._batches.get_state()
        batch = next(self._batches)
        failure = Failure(
            step=error.step,
            steps=self.steps,
            wrong=tuple(error.names),
            ids=self._ids(place),
            checkpoint=checkpoint,
            description=self.description,
            training=plain(self.training),
            batch=batch,
            state=host_arrays(self.state),
        )
        again = _rerun(self._run_step, self.state, batch)
        path = self.folder / f"nonfinite-step-{error.step}.npz"
        try:
            failure.write(path)
            dumped = f"{path} holds it: isnet_jax.training.rerun({str(path)!r}) makes it again."
        except OSError as problem:
            dumped = f"It could not be dumped ({problem})."
        epoch = 1 + (error.step - 1) // self.steps_per_epoch
        kept = f" The checkpoint of step {checkpoint} is kept." if checkpoint else ""
        chance = "" if again else " Repeated just now it was finite: suspect the device."
        shown = ", ".join(failure.ids[:8]) + (", ..." if len(failure.ids) > 8 else "")
        return UserError(
            f"training diverged in epoch {epoch} at step {error.step}: NaN or infinite "
            f"{', '.join(error.names)}.{kept}{chance} {_ADVICE}\nThe step's samples: {shown}. "
            f"{dumped}"
        )

    def _ids(self, place: Any) -> tuple[str, ...]:
        """Names of the samples of the batch that follows this state of the iterator."""
        count = len(self.train)
        numbers = dataclasses.replace(
            self.train,
            images=np.zeros((count, 1, 1, 3), np.float32),
            masks=np.zeros((count, 1, 1, 1), np.float32),
            labels=np.arange(count, dtype=np.int32),
        )
        batches = dataclasses.replace(self.training, augmentation=Augmentation()).batches(numbers)
        batches.set_state(place)
        return tuple(self.train.ids[number] for number in next(batches)["label"])


def rerun(path: str | Path) -> list[str]:
    """Make the step of a dump again, as `fit` made it.

    Args:
      path: nonfinite-step-N.npz in a network's folder.

    Returns:
      What is NaN or infinite this time: names of metrics, "heatmaps" or "state".

    Raises:
      UserError: no such dump, or one of another version of this package.
    """
    failure = load_failure(Path(path))
    training = from_plain(Training, failure.training, str(path))
    optimiser = training.optimiser.make(failure.steps)
    model = failure.description.create(training.seed)
    like = init_state(model, optimiser, jax.random.key(training.seed))
    state = unflattened(like, failure.state, str(path))
    run_step = compile_step(make_step(model, objective(training.objective), optimiser))
    return _rerun(run_step, state, failure.batch)


def _rerun(run_step: Any, state: TrainState, batch: Any) -> list[str]:
    after, metrics = run_step(state, batch)
    wrong = nonfinite({name: float(value) for name, value in jax.device_get(metrics).items()})
    return wrong if _is_finite(after) else [*wrong, _STATE]


@jax.jit
def _all_finite(leaves: list[jax.Array]) -> jax.Array:
    return jnp.stack([jnp.isfinite(leaf).all() for leaf in leaves]).all()


def _is_finite(state: TrainState) -> bool:
    leaves = jax.tree.leaves((state.parameters, state.rest, state.optimiser))
    return bool(_all_finite([leaf for leaf in leaves if jnp.issubdtype(leaf.dtype, jnp.inexact)]))


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


def _floats(metrics: Any) -> Record:
    return {name: float(value) for name, value in jax.device_get(metrics).items()}
