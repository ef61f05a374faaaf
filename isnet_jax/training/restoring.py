"""Checkpoints that are read back: whole, and of the training that they are read for."""

from __future__ import annotations

import gc
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from isnet_jax.errors import UserError, printable
from isnet_jax.training.abandoned import stay_silent_about
from isnet_jax.training.arrays import flattened, unflattened
from isnet_jax.training.checkpoint_folders import losses_in
from isnet_jax.training.checksums import is_of_another, unsealed

START_ANEW = "Delete that folder to go on without it."


class DamagedError(Exception):
    """A checkpoint is there and cannot be read."""


def best_of(
    managers: Sequence[ocp.CheckpointManager],
    like: Any,
    training: str | None,
    tell: Callable[[str], None],
) -> Any | None:
    """The first that can be read: of the best, or, of ended epochs, of the last."""
    damaged: list[DamagedError] = []
    for manager in managers:
        losses = losses_in(Path(manager.directory)) if manager.directory.name == "best" else {}
        best = min(losses, key=lambda step: losses[step], default=None)
        for step in sorted(manager.all_steps(), key=lambda step: (step != best, -step)):
            try:
                state, progress = restored(manager, step, like, training)
            except DamagedError as error:
                damaged.append(error)
                continue
            if best is None and not progress["history"]:
                continue
            place = manager.directory
            for error in damaged or [f"{place.parent / 'best'} is empty"] * (place.name == "last"):
                tell(f"{error}; taking {place.name}/{step} instead")
            return state
    if damaged:
        raise UserError(f"{damaged[0]}, nor any other. {START_ANEW}")
    return None


def restored(
    manager: ocp.CheckpointManager,
    step: int,
    like: Any,
    training: str | None,
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
            if is_of_another(found["progress"], training):
                raise ValueError("it is another training's")
            if (own := int(found["state"]["step"])) != step:
                raise ValueError(f"it is that of step {own}")
            check(progress)
        except Exception as error:  # Of nearly every kind, on damaged files.
            # But RuntimeErrors and time-outs are the devices' and other processes'.
            if isinstance(error, RuntimeError | TimeoutError) and not _is_of_files(error):
                raise
            reason = first_line(error)
        else:
            return unflattened(like, found["state"], str(manager.directory)), progress
        stay_silent_about(Path(place))
        gc.collect()
    raise DamagedError(f"the checkpoint {printable(place)} cannot be read ({reason})")


def _is_of_files(error: Exception) -> bool:
    return isinstance(error, NotImplementedError | RecursionError)


def first_line(error: Exception) -> str:
    """Without the specification that tensorstore adds."""
    text = (str(error) or type(error).__name__).splitlines()[0]
    return text.split(" [tensorstore_spec=")[0]
