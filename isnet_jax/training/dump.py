"""The dump of a training step that went wrong: all that is needed to make it again."""

from __future__ import annotations

import dataclasses
import io
import json
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from isnet_jax.errors import UserError, printable
from isnet_jax.files import write_atomically
from isnet_jax.training.arrays import flattened
from isnet_jax.training.description import ModelDescription
from isnet_jax.training.serial import from_dict
from isnet_jax.training.step import TrainState

# What NumPy and the archive raise for other files.
_NO_DUMP = (
    OSError, EOFError, ValueError, KeyError, TypeError, AttributeError, zipfile.BadZipFile,
    zlib.error,
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Failure:
    """A step before it is made.

    Attributes:
      step: its number, from 1.
      steps: of the whole training, which the learning rate depends on.
      wrong: what was NaN or infinite after it.
      ids: of the batch's samples.
      checkpoint: step of the checkpoint that the state was computed from; None: from none.
      description: of the network.
      training: its `TrainConfig` in plain values.
      batch: what the step was given.
      state: the state's arrays by path.
    """

    step: int
    steps: int
    wrong: tuple[str, ...]
    ids: tuple[str, ...]
    checkpoint: int | None
    description: ModelDescription
    training: Mapping[str, Any]
    batch: Mapping[str, np.ndarray]
    state: Mapping[str, np.ndarray]

    def write(self, path: Path) -> None:
        """Write all of it as an npz file: "facts" (JSON), "batch/NAME", "state/PATH"."""
        facts = {
            field.name: getattr(self, field.name)
            for field in dataclasses.fields(self)
            if field.name not in ("batch", "state")
        } | {"description": dataclasses.asdict(self.description)}
        facts["dtypes"] = {name: str(array.dtype) for name, array in self.state.items()}
        arrays = {"facts": np.array(json.dumps(facts))}
        arrays |= {f"batch/{name}": array for name, array in self.batch.items()}
        arrays |= {f"state/{name}": array for name, array in self.state.items()}
        buffer = io.BytesIO()
        np.savez(buffer, allow_pickle=False, **arrays)
        write_atomically(path, buffer.getvalue())


def host_arrays(state: TrainState) -> dict[str, np.ndarray]:
    """The state's arrays by path, in the host's memory."""
    return {name: np.asarray(array) for name, array in jax.device_get(flattened(state)).items()}


def load_failure(path: Path) -> Failure:
    """Read a dump.

    Raises:
      UserError: it is none.
    """
    try:
        with np.load(path, allow_pickle=False) as arrays:
            facts = json.loads(str(arrays["facts"]))
            # NumPy knows bfloat16 as bytes only.
            dtypes = {name: jnp.dtype(kind) for name, kind in facts.pop("dtypes").items()}
            state = {name: arrays[f"state/{name}"].view(kind) for name, kind in dtypes.items()}
            batch = {
                name.removeprefix("batch/"): arrays[name]
                for name in arrays.files
                if name.startswith("batch/")
            }
        return from_dict(Failure, facts | {"batch": batch, "state": state}, str(path))
    except _NO_DUMP as error:
        raise UserError(
            f"{printable(path)} is no dump of a training step ({error}). Expected the "
            "nonfinite-step-N.npz of "
            "a run that stopped."
        ) from error
