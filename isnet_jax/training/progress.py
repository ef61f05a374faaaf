"""How far a training is: what a checkpoint holds beside the state, as JSON."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from isnet_jax.errors import UserError
from isnet_jax.training.metrics import Record
from isnet_jax.training.serial import from_dict

_WHERE = "its record of progress"


@dataclasses.dataclass(frozen=True)
class Sums:
    """Of an epoch's metrics by name, over its steps so far; see `EpochMetrics.saved`."""

    steps: int
    sums: Record


@dataclasses.dataclass(frozen=True)
class Epoch:
    """The part of an epoch that is done, and the seconds that were spent on it."""

    metrics: Sums
    seconds: float


@dataclasses.dataclass(frozen=True)
class Progress:
    """How far a training is.

    Attributes:
      history: the records of the ended epochs.
      batches: state of the iterator over the training images.
      epoch: the running one; None at its start.
    """

    history: tuple[Record, ...]
    batches: Mapping[str, Any]
    epoch: Epoch | None


def check_progress(
    found: Mapping[str, Any], start: Mapping[str, Any], every: Iterable[str]
) -> None:
    """Make sure that a record can be gone on from. Entries beside `Progress` are not looked at.

    Args:
      start: `batches` of the same training at its start.
      every: what each ended epoch has a finite number for.

    Raises:
      UserError: a field is missing or of a wrong type.
    """
    names = [field.name for field in dataclasses.fields(Progress) if field.name in found]
    progress = from_dict(Progress, {name: found[name] for name in names}, _WHERE)
    if _form(progress.batches) != _form(start):
        raise UserError(f"{_WHERE}: batches is not of the form {dict(start)}.")
    for number, record in enumerate(progress.history, start=1):
        lacking = [name for name in every if not np.isfinite(record.get(name, np.nan))]
        if lacking:
            raise UserError(f"{_WHERE}: epoch {number} lacks {', '.join(lacking)}.")


def _form(tree: Any) -> Any:
    if isinstance(tree, dict):
        return {name: _form(value) for name, value in tree.items()}
    return [_form(value) for value in tree] if isinstance(tree, list) else type(tree)
