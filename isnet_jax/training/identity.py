"""Which training a checkpoint belongs to."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from typing import Any

import numpy as np

from isnet_jax.data import Split
from isnet_jax.training.description import ModelDescription
from isnet_jax.training.serial import to_dict

_LOOKED_AT = 16  # images and masks of a split; names and labels of all


def deciding(options: Any) -> dict[str, Any]:
    """Those of a training's options that decide its result, as plain values.

    Not what is kept and watched, how many devices compute, and where the weights to start from
    lie: their digest stands for them.

    Args:
      options: with the fields checkpoints, profile_steps, launch and fine_tune.

    Raises:
      UserError: the weights to start from cannot be read.
    """
    found = to_dict(options)
    for name in ("checkpoints", "profile_steps"):
        del found[name]
    del found["launch"]["parallel"], found["fine_tune"]["weights"]
    start = options.fine_tune.fingerprint()
    return found if start is None else found | {"weights": start}


def identity(description: ModelDescription, training: Any, *splits: Split) -> str:
    """A digest (SHA-256) of what decides the result of a training: equal, if that is.

    Args:
      training: its `TrainConfig`.
      splits: that it trains on and chooses the best epoch by; names and labels of all samples are
        looked at, and the pixels of a few.

    Raises:
      UserError: the weights to start from cannot be read.
    """
    options = [dataclasses.asdict(description), deciding(training)]
    digest = hashlib.sha256(json.dumps(options, sort_keys=True).encode())
    for split in splits:
        few = np.unique(np.linspace(0, len(split) - 1, _LOOKED_AT, dtype=int))
        digest.update(json.dumps([split.ids, split.class_names]).encode())
        for array in (split.labels, split.images[few], split.masks[few]):
            digest.update(f"{array.dtype} {array.shape}".encode())
            digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()
