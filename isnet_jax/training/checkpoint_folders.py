"""The folders of a network's checkpoints: what they should hold, and what goes to `damaged/`."""

from __future__ import annotations

import itertools
import json
import math
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
from jax.experimental import multihost_utils

from isnet_jax.errors import UserError, printable
from isnet_jax.files import read_regular, write_atomically
from isnet_jax.training.checksums import is_of_another, loss_of

LOSS = "validation_loss"


def ranked_by(metrics: Any) -> float:
    """The validation loss that Orbax goes by; infinite where there is none."""
    loss = metrics.get(LOSS) if isinstance(metrics, dict) else None
    return loss if isinstance(loss, int | float) and loss == loss else math.inf


def _json(file: Path) -> Any:
    try:
        return json.loads(read_regular(file))
    except (OSError, ValueError, RecursionError):
        return None


def steps_in(folder: Path) -> dict[int, Path]:
    """What is called as checkpoints are, by step."""
    named = (path for path in folder.glob("*") if re.fullmatch("0|[1-9][0-9]*", path.name))
    return {int(path.name): path for path in named}


def losses_in(folder: Path) -> dict[int, tuple[float, float]]:
    """Of each checkpoint the loss in its record, which has a checksum, and what Orbax ranks by."""
    losses = {}
    for step, place in steps_in(folder).items():
        ranked = ranked_by(_json(place / "metrics" / "metrics"))
        recorded = loss_of(_record(place))
        losses[step] = (ranked if recorded is None else recorded, ranked)
    return losses


def _record(checkpoint: Path) -> Any:
    return _json(checkpoint / "progress" / "metadata")


def require_folders(network: Path) -> None:
    """Make sure that nothing else is in their places.

    Raises:
      UserError: something is.
    """
    for place in (network, network / "last", network / "best", network / "damaged"):
        if os.path.lexists(place) and not place.is_dir():
            raise UserError(
                f"{printable(place)} is no folder; expected one with checkpoints. Move it away: "
                "the same command goes on with what else is there."
            )


def move_strangers(network: Path, training: str | None, tell: Callable[[str], None]) -> None:
    """Files, links to nowhere and pipes where a checkpoint would be written, or was.

    And what is another training's: its loss could displace the best one of this.
    """
    for kind in ("last", "best"):
        for path in steps_in(network / kind).values():
            if not path.is_dir():
                what = "is no checkpoint"
            elif is_of_another(_record(path), training):
                what = f"is a checkpoint of another training than {printable(network)}"
            else:
                continue
            tell(f"{printable(path)} {what}; it is in damaged/ now")
            move_away(path)


def move_away(checkpoint: Path) -> None:
    """To `damaged/`, under its own name or the next one that is free there."""
    folder = checkpoint.parent.parent / "damaged"
    folder.mkdir(exist_ok=True)
    names = (checkpoint.name + ending for ending in _endings())
    place = next(folder / name for name in names if not os.path.lexists(folder / name))
    checkpoint.rename(place)


def _endings() -> Iterator[str]:
    yield ""
    yield from (f".{number}" for number in itertools.count(2))


def mend_ranks(folder: Path, tell: Callable[[str], None]) -> None:
    """Orbax shall drop the worst of the best by their losses as they were saved."""
    for step, (loss, ranked) in losses_in(folder).items() if jax.process_index() == 0 else ():
        file = folder / str(step) / "metrics" / "metrics"
        if loss != ranked or not isinstance(_json(file), dict):
            tell(f"the loss in {printable(file)} was changed; it is {loss} again")
            write_atomically(file, json.dumps({LOSS: loss}))
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices("ranks")
