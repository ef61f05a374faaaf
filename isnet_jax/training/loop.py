"""Training of one network: the loop around the compiled step."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from flax import nnx

from isnet_jax.data import Split
from isnet_jax.errors import Terminated
from isnet_jax.training import profiling
from isnet_jax.training.checkpoint import Checkpoints
from isnet_jax.training.config import TrainConfig
from isnet_jax.training.description import ModelDescription, write_description
from isnet_jax.training.distributed import first_then_all, stops_with_the_others
from isnet_jax.training.identity import identity
from isnet_jax.training.mesh import StepCost
from isnet_jax.training.metrics import NonFiniteError, Record
from isnet_jax.training.nonfinite import diverged
from isnet_jax.training.stage import EARLIER, before, set_up
from isnet_jax.training.step import TrainState
from isnet_jax.training.termination import Termination
from isnet_jax.training.trainer import Trainer


class Observer(Protocol):
    """Told of what happens: a progress bar, a log, a test."""

    def on_stage(self, name: str, folder: Path) -> None:
        """Of a method with several stages: before each, what is trained, and where to."""

    def on_start(self, step: int, steps: int) -> None:
        """Before the first step: how many were made by an earlier call, and how many in all."""

    def on_notice(self, text: str) -> None:
        """Something that the user should know."""

    def on_compiled(self, cost: StepCost) -> None:
        """Before the first step of this call: what a step costs."""

    def on_step(self, step: int, metrics: Record | None) -> None:
        """After a step was dispatched; metrics of a recent one where they were fetched."""

    def on_epoch(self, record: Record, model: Callable[[], nnx.Module]) -> None:
        """After an epoch; `model` makes the network as it is now, in eval mode."""


def fit(
    description: ModelDescription,
    training: TrainConfig,
    train: Split,
    validation: Split,
    folder: Path,
    observer: Observer,
) -> tuple[nnx.Module, list[Record]]:
    """Train a network, or go on where an earlier call in this folder was interrupted.

    Of several processes (`jax.distributed`) each makes this call, with the same arguments.

    After every epoch, and in between as `training.checkpoints` says, the state, the place in the
    data and the history are written to `folder/last`, and to `folder/best` if the validation loss
    is among the lowest; the history also to `folder/metrics.jsonl`, one line an epoch. What a
    method trains before goes to `folder/earlier` likewise.

    Args:
      description: of the architecture.

    Returns:
      The network with the lowest validation loss, in eval mode and as it is deployed, and one
      record an epoch of the last stage.

    Raises:
      UserError: a step is no longer finite (it is dumped, and the last checkpoint is kept), a
        checkpoint cannot be written or read, or the folder's belong to another architecture; or the
        batch does not divide by the devices.
      Terminated: SIGTERM came; the last step is saved.
    """
    training.launch.launcher(training.batch_size)  # Refuses what does not divide.
    earlier = None
    if (first := before(training)) is not None:
        observer.on_stage(first.method.name, folder / EARLIER)
        earlier, _ = fit(description, first, train, validation, folder / EARLIER, observer)
        observer.on_stage(training.method.name, folder)
    description, training, train, validation = set_up(
        description, training, train, validation, earlier
    )
    made_of = functools.partial(identity, description, training, train, validation)
    first_then_all(lambda: write_description(folder, description, made_of))
    with (
        Termination() as termination,
        Checkpoints(folder, training.checkpoints, observer.on_notice) as checkpoints,
        profiling.Window(folder / "profile", training.profile_steps) as profile,
        stops_with_the_others(),
    ):
        run = Trainer(
            description,
            training,
            train,
            validation,
            folder,
            checkpoints,
            observer.on_compiled,
            observer.on_notice,
            earlier,
        )
        observer.on_start(run.step, run.steps)
        try:
            while not run.is_over():
                for step in run.remaining_steps():
                    profile.before(step)
                    metrics, looked = run.advance()
                    profile.after(step, metrics)
                    observer.on_step(step, looked)
                    if looked is not None:
                        checkpoints.check()
                    if termination.is_due():
                        run.save_within_epoch()
                        checkpoints.wait()
                        raise Terminated(f"ended by SIGTERM; step {step} is saved")
                    if run.save_is_due():
                        run.save_within_epoch()
                record = run.end_epoch()
                state = run.local().averaged()
                observer.on_epoch(record, lambda state=state: _network(run, state))
                if termination.is_due():
                    checkpoints.wait()
                    raise Terminated(f"ended by SIGTERM; epoch {record['epoch']:.0f} is saved")
        except NonFiniteError as error:
            raise diverged(run, error) from error
        if termination.is_due(at_once=True):
            checkpoints.wait()
            raise Terminated(f"ended by SIGTERM; epoch {len(run.history)} is saved")
        chosen = checkpoints.best(run.state)
    assert chosen is not None
    return _network(run, chosen), run.history


def _network(run: Trainer, state: TrainState) -> nnx.Module:
    graph, _, _ = nnx.split(run.model, nnx.Param, ...)
    made = nnx.merge(graph, state.parameters, state.rest, copy=True)
    made.eval()
    return run.training.method.deployed(made)
