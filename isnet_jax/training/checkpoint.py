"""Checkpoints that are whole or absent: the last ones to resume from, the best ones to use."""

from __future__ import annotations

import contextlib
import dataclasses
import gc
import json
import logging
import os
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from flax import nnx
from jax.experimental import multihost_utils

from isnet_jax.errors import UserError, printable
from isnet_jax.files import write_atomically
from isnet_jax.training.arrays import flattened, unflattened
from isnet_jax.training.checkpoint_folders import (
    LOSS,
    losses_in,
    mend_ranks,
    move_away,
    move_strangers,
    ranked_by,
    require_folders,
    steps_in,
)
from isnet_jax.training.checksums import sealed, unsealed
from isnet_jax.training.description import DESCRIPTION, ModelDescription, read_description
from isnet_jax.training.step import TrainState
from isnet_jax.training.termination import interrupted_afterwards

# Nothing is made, and the losses are not read, which may be damaged: see `losses_in`.
_READ_ONLY = {"create": False, "lightweight_initialize": True}
_START_ANEW = "Delete that folder to go on without it."


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

    Args:
      tell: is given a sentence when a damaged checkpoint is passed over.
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
        with self._writing():
            if jax.process_index() == 0:
                move_strangers(self._folder, tell)
            mend_ranks(self._folder / "best", tell)
        self._last = _manager(
            self._folder / "last", max_to_keep=config.keep_last, cleanup_tmp_directories=True
        )
        self._best = _manager(
            self._folder / "best", max_to_keep=config.keep_best, cleanup_tmp_directories=True
        )

    def __enter__(self) -> Checkpoints:
        self._silence = contextlib.ExitStack()
        self._silence.enter_context(_abandoned_work_is_silent())
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
        arguments = _arguments(state, progress, loss)
        with self._writing():
            if loss is not None:
                kept = arguments
                if state.average is not None:
                    kept = _arguments(state.averaged(), progress, loss)
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
        damage: dict[int, _DamagedError] = {}
        with _abandoned_work_is_silent():
            for step in steps:
                try:
                    state, progress = _restored(self._last, step, like, check)
                except _DamagedError as error:
                    damage[step] = error
                    continue
                for later, error in damage.items():
                    self._set_aside(later)
                    self._tell(f"{error}; going on from step {step} instead")
                self._drop_later_best(step)
                return state, progress
        if damage:
            raise UserError(f"{damage[steps[0]]}, nor any before it. {_START_ANEW}")
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
        with _abandoned_work_is_silent():
            return _best([self._best, self._last], like, self._tell)

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
                f"({_first_line(error)}). "
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
      tell: is given a sentence when a damaged checkpoint is passed over; another of the best is
        taken then, or of the last.

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
    with contextlib.ExitStack() as stack, _abandoned_work_is_silent():
        places = [folder / kind for kind in ("best", "last") if (folder / kind).is_dir()]
        managers = [stack.enter_context(_manager(place, **_READ_ONLY)) for place in places]
        found = _best(managers, {"parameters": parameters, "rest": rest}, tell)
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


def _arguments(state: TrainState, progress: Mapping[str, Any], loss: float | None) -> Any:
    # A copy: the next step donates the state's buffers while they are being written.
    arrays = jax.tree.map(jnp.copy, flattened(state))
    record = sealed(progress, arrays, loss)
    return ocp.args.Composite(
        state=ocp.args.StandardSave(arrays),  # pyright: ignore[reportCallIssue]
        progress=ocp.args.JsonSave(record),  # pyright: ignore[reportCallIssue]
    )


class _DamagedError(Exception):
    """A checkpoint is there and cannot be read."""


def _best(
    managers: Sequence[ocp.CheckpointManager], like: Any, tell: Callable[[str], None]
) -> Any | None:
    """The first that can be read: of the best, or, of ended epochs, of the last."""
    damaged: list[_DamagedError] = []
    for manager in managers:
        losses = losses_in(Path(manager.directory)) if manager.directory.name == "best" else {}
        best = min(losses, key=lambda step: losses[step], default=None)
        for step in sorted(manager.all_steps(), key=lambda step: (step != best, -step)):
            try:
                state, progress = _restored(manager, step, like)
            except _DamagedError as error:
                damaged.append(error)
                continue
            if best is None and not progress["history"]:
                continue
            place = manager.directory
            for error in damaged or [f"{place.parent / 'best'} is empty"] * (place.name == "last"):
                tell(f"{error}; taking {place.name}/{step} instead")
            return state
    if damaged:
        raise UserError(f"{damaged[0]}, nor any other. {_START_ANEW}")
    return None


def _restored(
    manager: ocp.CheckpointManager,
    step: int,
    like: Any,
    check: Callable[[dict[str, Any]], None] = lambda progress: None,
) -> tuple[Any, dict[str, Any]]:
    """A checkpoint in the structure of `like`, which may be a part of what was saved.

    Arrays that `like` spreads over several devices are read straight into that sharding,
    whatever devices they were written from.
    """
    place = manager.directory / str(step)
    shardings = {name: getattr(leaf, "sharding", None) for name, leaf in flattened(like).items()}

    def abstract(name: str, saved: Any) -> Any:
        sharding = shardings.get(name)
        if sharding is None or len(sharding.device_set) == 1:
            # NumPy: the devices of the run that wrote it need not be here.
            return np.empty(saved.shape, saved.dtype)
        return jax.ShapeDtypeStruct(saved.shape, saved.dtype, sharding=sharding)

    with warnings.catch_warnings():
        # What Orbax abandons speaks when it is collected.
        warnings.filterwarnings("ignore", r"coroutine .* was never awaited", RuntimeWarning)
        try:
            saved: Any = manager.item_metadata(step)
            arrays = {name: abstract(name, array) for name, array in dict(saved["state"]).items()}
            arguments = ocp.args.Composite(
                state=ocp.args.StandardRestore(arrays),  # pyright: ignore[reportCallIssue]
                progress=ocp.args.JsonRestore(),  # pyright: ignore[reportCallIssue]
            )
            found: Any = manager.restore(step, args=arguments)
            progress = unsealed(found["progress"], found["state"])
            if (own := int(found["state"]["step"])) != step:
                raise ValueError(f"it is that of step {own}")
            check(progress)
        except Exception as error:  # Of nearly every kind, on damaged files.
            # But RuntimeErrors and time-outs are the devices' and other processes'.
            if isinstance(error, RuntimeError | TimeoutError) and not _is_of_files(error):
                raise
            reason = _first_line(error)
        else:
            return unflattened(like, found["state"], str(manager.directory)), progress
        gc.collect()
    raise _DamagedError(f"the checkpoint {printable(place)} cannot be read ({reason})")


def _is_of_files(error: Exception) -> bool:
    return isinstance(error, NotImplementedError | RecursionError)


@contextlib.contextmanager
def _abandoned_work_is_silent() -> Iterator[None]:
    """Orbax leaves its other reads and writes when one has failed; each would print a traceback."""
    before = sys.unraisablehook

    def is_awaited(record: logging.LogRecord) -> bool:
        return "exception was never retrieved" not in record.getMessage()

    def hook(raised: Any) -> None:
        if str(raised.exc_value) != "Event loop is closed":
            before(raised)

    sys.unraisablehook = hook
    logging.getLogger("asyncio").addFilter(is_awaited)
    try:
        yield
    finally:
        sys.unraisablehook = before
        logging.getLogger("asyncio").removeFilter(is_awaited)


def _first_line(error: Exception) -> str:
    """Without the specification that tensorstore adds."""
    text = (str(error) or type(error).__name__).splitlines()[0]
    return text.split(" [tensorstore_spec=")[0]
