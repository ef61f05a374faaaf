"""Checksums in a checkpoint: what storage changed is noticed when it is read."""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np

_RECORD, _ARRAYS, _LOSS, _OWN = "record", "checksums", "loss", "checksum"
_TRAINING = "training"
_LATER = (_LOSS, _TRAINING)  # What a checkpoint of an earlier version lacks.
# What a checkpoint of a version without checksums holds.
_UNSEALED = ("history", "batches", "epoch")


def sealed(
    record: Mapping[str, Any],
    arrays: Mapping[str, Any],
    loss: float | None,
    training: str | None,
) -> dict[str, Any]:
    """A record (JSON) with the CRC-32 of itself and of the arrays that are stored beside it.

    Args:
      arrays: by name; each whole on a device of this process.
      loss: that the checkpoint is ranked by; None if it is not.
      training: its `identity`; None if it is not known.
    """
    sums = {name: _of_array(array) for name, array in arrays.items()}
    plain = json.loads(json.dumps(dict(record)))
    found = {_RECORD: plain, _ARRAYS: sums, _LOSS: loss, _TRAINING: training}
    return found | {_OWN: _of_record(found)}


def loss_of(found: Any) -> float | None:
    """The loss that `sealed` was given; None if it is damaged, or of a version without it."""
    return _whole(found).get(_LOSS)


def is_of_another(found: Any, training: str | None) -> bool:
    """Whether `sealed` was given another training than this; not where one of them is not known."""
    return training is not None and _whole(found).get(_TRAINING) not in (None, training)


def unsealed(found: Any, arrays: Mapping[str, Any]) -> dict[str, Any]:
    """The record that `sealed` was given; one of a version without checksums is not compared.

    Raises:
      ValueError: the record or an array is not what was saved; the message names it.
    """
    if isinstance(found, dict) and all(key in found for key in _UNSEALED):
        return found
    if not isinstance(found, dict) or {*found, *_LATER} != {_RECORD, _ARRAYS, _OWN, *_LATER}:
        raise ValueError("its record of progress is incomplete")
    record, sums = found[_RECORD], found[_ARRAYS]
    if _of_record(found) != found[_OWN]:
        raise ValueError("its record of progress is damaged: the checksum differs")
    for name in sorted({*sums, *arrays}):
        if name not in arrays or name not in sums:
            raise ValueError(f"the array {name} is missing or was not saved")
        if _of_array(arrays[name]) != sums[name]:
            raise ValueError(f"the array {name} is damaged: its checksum differs")
    return record


def _whole(found: Any) -> Mapping[str, Any]:
    """What `sealed` gave; nothing, where it was changed or is something else."""
    return found if isinstance(found, dict) and _of_record(found) == found.get(_OWN) else {}


def _of_array(array: Any) -> int:
    values = np.ascontiguousarray(array)
    kind = zlib.crc32(f"{values.dtype} {np.shape(array)}".encode())
    return zlib.crc32(values.reshape(-1).view(np.uint8).data, kind)


def _of_record(found: Mapping[str, Any]) -> int:
    parts = [found[name] for name in (_RECORD, _ARRAYS, *_LATER) if name in found]
    return zlib.crc32(json.dumps(parts, sort_keys=True).encode())
