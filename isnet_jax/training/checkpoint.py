"""Checkpoints that are whole or absent: the last ones to resume from, the best ones to use."""

from __future__ import annotations

import contextlib
import dataclasses
import gc
import json
import os
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp
from flax import nnx
from jax.experimental import multihost_utils

from isnet_jax.errors import UserError, printable
from isnet_jax.files import write_atomically
from isnet_jax.training.abandoned import abandoned_work_is_silent, stay_silent_about
from isnet_jax.training.arrays import flattened
from isnet_jax.training.checkpoint_folders import (
    LOSS,
    mend_ranks,
    move_away,
    move_strangers,
    ranked_by,
    require_folders,
    steps_in,
)
from isnet_jax.training.checksums import sealed
from isnet_jax.training.description import (
    DESCRIPTION,
    ModelDescription,
    read_description,
    training_in,
)
from isnet_jax.training.restoring import (
    START_ANEW,
    DamagedError,
    best_of,
    first_line,
    restored,
)
from isnet_jax.training.step import TrainState
from isnet_jax.training.termination import interrupted_afterwards

# Nothing is made, and the losses are not read, which may be damaged: see `losses_in`.
_READ_ONLY = {"create": False, "lightweight_initialize": True}


@dataclasses.dataclass(frozen=True)
class CheckpointConfig:
    """When checkpoints are written, and how many are kept.

    Attributes:
      every: also write one after every so many steps; 0 only at the ends of epochs.
      keep_last: of the latest, at least 1; with 2 a damaged one costs no more than the steps
        between the two.
      keep_best: of those with the lowest validation loss, at least 1.
    """

    every: int = 0
    keep_last: int = 2
    keep_best: int = 1

    def __post_init__(self):
        for field, least in (("every", 0), ("keep_last", 1), ("keep_best", 1)):
            value = getattr(self, field)
            if value < least:
                raise UserError(f"checkpoints: {field} is {value}; expected at least {least}.")


class Checkpoints:
    """The checkpoints of one network, in `folder`: "last", "best", and the model's description.

    A write is asynchronous, and becomes visible when it is complete; what a killed process left
    half written is removed. Use as a context manager: leaving waits for the writes.

    Checkpoints of another training than the description's are moved to the folder "damaged".

    Args:
      tell: is given a sentence when a checkpoint is moved there or passed over.
    """

    def __init__(
        self,
        folder: Path,
        config: CheckpointConfig | None = None,
        tell: Callable[[str], None] = lambda text: None,
    ):
        config = config or CheckpointConfig()
        self._folder, self._tell = Path(os.path.realpath(folder)), tell
        require_folders(folder)
        self._training = training_in(self._folder)
        with self._writing():
            if jax.process_index() == 0:
                move_strangers(self._folder, self._training, tell)
            mend_ranks(self._folder / "best", tell)
        self._last = _manager(
            self._folder / "last", max_to_keep=config.keep_last, cleanup_tmp_directories=True
        )
        self._best = _manager(
            self._folder / "best", max_to_keep=config.keep_best, cleanup_tmp_directories=True
        )

    def __enter__(self) -> Checkpoints:
        self._silence = contextlib.ExitStack()
        self._silence.enter_context(abandoned_work_is_silent())
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with self._silence:
            try:
                with self._writing():
                    self._last.close()
                    self._best.close()
            except UserError:
                if error is None:
                    raise
            if error is not None:
                stay_silent_about(self._folder)
                gc.collect()  # What is abandoned speaks when it is collected.

    def save(
        self, state: TrainState, progress: Mapping[str, Any], *, loss: float | None = None
    ) -> None:
        """Save the state and, in the same checkpoint, what else a resumed run needs (JSON).

        Args:
          loss: on validation data, which makes this checkpoint a candidate for the best ones.

        Raises:
          UserError: this or the write before failed; the checkpoints of earlier steps are whole.
        """
        step = int(state.step)
        arguments = _arguments(state, progress, loss, self._training)
        with self._writing():
            if loss is not None:
                kept = arguments
                if state.average is not None:
                    kept = _arguments(state.averaged(), progress, loss, self._training)
                self._best.save(step, args=kept, metrics={LOSS: loss}, force=True)
                # Once "last" counts this epoch as done, its best must be there.
                self._best.wait_until_finished()
            if step in self._last.all_steps():  # Written before the epoch's validation.
                self._last.delete(step)
            self._last.save(step, args=arguments, force=True)

    def write_history(self, history: Sequence[Mapping[str, Any]]) -> None:
        """Write the records of all epochs to metrics.jsonl, one a line."""
        if jax.process_index() > 0:
            return
        lines = "".join(json.dumps(record) + "\n" for record in history)
        with self._writing():
            write_atomically(self._folder / "metrics.jsonl", lines)

    def check(self) -> None:
        """Raise the error of a write in the background, if there was one."""
        with self._writing():
            self._last.check_for_errors()

    def wait(self) -> None:
        """Return when all writes are complete."""
        with self._writing():
            self._last.wait_until_finished()

    def resume(
        self, like: TrainState, check: Callable[[dict[str, Any]], None] = lambda progress: None
    ) -> tuple[TrainState, dict[str, Any]] | None:
        """The latest state that can be read, and its progress; None before the first checkpoint.

        Damaged later ones are moved to the folder "damaged".

        Args:
          check: raises a `UserError` for progress that is incomplete: then the checkpoint counts
            as damaged.

        Raises:
          UserError: none of them can be read, or they are of another architecture.
        """
        self.wait()
        steps = sorted(self._last.all_steps(), reverse=True)
        damage: dict[int, DamagedError] = {}
        with abandoned_work_is_silent():
            for step in steps:
                try:
                    state, progress = restored(self._last, step, like, self._training, check)
                except DamagedError as error:
                    damage[step] = error
                    continue
                for later, error in damage.items():
                    self._set_aside(later)
                    self._tell(f"{error}; going on from step {step} instead")
                self._drop_later_best(step)
                return state, progress
        if damage:
            raise UserError(f"{damage[steps[0]]}, nor any before it. {START_ANEW}")
        self._drop_later_best(-1)
        return None

    def best(self, like: Any) -> Any | None:
        """The state with the lowest validation loss, or the part of it that `like` is.

        A damaged one is said, and another of the best taken instead, or of the last.

        Raises:
          UserError: none of them can be read.
        """
        self.wait()
        with self._writing():
            self._best.wait_until_finished()
        with abandoned_work_is_silent():
            return best_of([self._best, self._last], like, self._training, self._tell)

    def latest_step(self) -> int | None:
        """The step of the latest whole checkpoint."""
        return self._last.latest_step()

    def _drop_later_best(self, step: int) -> None:
        """A run killed between the two writes repeats that epoch, its best included."""
        for later in self._best.all_steps():
            if later > step:
                self._best.delete(later)

    def _set_aside(self, step: int) -> None:
        if jax.process_index() == 0:
            move_away(Path(self._last.directory) / str(step))
        if jax.process_count() > 1:
            multihost_utils.sync_global_devices(f"set aside {step}")
        self._last.reload()

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            # Ctrl-C in the middle makes Orbax print tracebacks of its own.
            with interrupted_afterwards():
                yield
        # What storage raises: tensorstore's errors are ValueErrors. RuntimeErrors and time-outs
        # are other processes' that have stopped.
        except TimeoutError:
            raise
        except (OSError, ValueError) as error:
            whole = sorted(steps_in(self._folder / "last"))
            kept = f"Those of steps {whole} are whole" if whole else "None was written before"
            raise UserError(
                f"a checkpoint could not be written to {printable(self._folder)} "
                f"({first_line(error)}). "
                f"{kept}. Make room on the disk (or keep fewer: --checkpoints.keep-last) and give "
                "the same command again to go on from there."
            ) from error


def load_network(
    folder: Path,
    architecture: str | None = None,
    tell: Callable[[str], None] = warnings.warn,
) -> tuple[nnx.Module, ModelDescription]:
    """The best network of a run, in eval mode, as it is deployed.

    Args:
      folder: a network's folder in a run, such as runs/biased-digits/isnet.
      architecture: what it should be; None takes what is there.
      tell: is given a sentence when a checkpoint is passed over, damaged or another training's;
        another of the best is taken then, or of the last.

    Raises:
      UserError: no checkpoint there, none that can be read, or one of another architecture.
    """
    folder = Path(os.path.realpath(folder))
    description = read_description(folder)
    if architecture is not None and architecture != description.architecture:
        raise UserError(
            f"{printable(folder)} holds a {description.architecture!r}; expected a "
            f"{architecture!r}. Leave "
            "the architecture out to take what is there."
        )
    # Without arrays: before any is made, the record's shapes are compared with the checkpoint's.
    try:
        abstract = nnx.eval_shape(description.create)
    except UserError as error:
        raise UserError(f"{printable(folder / DESCRIPTION)}: {error}") from error
    graph, parameters, rest = nnx.split(abstract, nnx.Param, ...)
    with contextlib.ExitStack() as stack, abandoned_work_is_silent():
        places = [folder / kind for kind in ("best", "last") if (folder / kind).is_dir()]
        managers = [stack.enter_context(_manager(place, **_READ_ONLY)) for place in places]
        like = {"parameters": parameters, "rest": rest}
        found = best_of(managers, like, training_in(folder), tell)
    if found is None:
        raise UserError(
            f"{printable(folder)} has no checkpoint yet: its training has not got that far."
        )
    model = nnx.merge(graph, found["parameters"], found["rest"])
    model.eval()
    return description.deployed(model), description


def _manager(folder: Path, **options: Any) -> ocp.CheckpointManager:
    handlers: Any = {
        "state": ocp.StandardCheckpointHandler(),
        "progress": ocp.JsonCheckpointHandler(),
    }
    # Processes meet at barriers, by name: those of a write in the background are not the other's.
    meeting = ocp.options.MultiprocessingOptions(barrier_sync_key_prefix=folder.name)
    chosen = ocp.CheckpointManagerOptions(**options, multiprocessing_options=meeting)
    if folder.name == "best" and chosen.create:
        chosen.best_fn, chosen.best_mode = ranked_by, "min"
    return ocp.CheckpointManager(folder, options=chosen, item_handlers=handlers)


def _arguments(
    state: TrainState, progress: Mapping[str, Any], loss: float | None, training: str | None
) -> Any:
    # A copy: the next step donates the state's buffers while they are being written.
    arrays = jax.tree.map(jnp.copy, flattened(state))
    record = sealed(progress, arrays, loss, training)
    return ocp.args.Composite(
        state=ocp.args.StandardSave(arrays),  # pyright: ignore[reportCallIssue]
        progress=ocp.args.JsonSave(record),  # pyright: ignore[reportCallIssue]
    )
