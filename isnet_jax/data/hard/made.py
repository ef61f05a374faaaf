"""A hard data set on disk, each with a builder of its name."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol

import tensorflow_datasets as tfds

from isnet_jax.data.drawn import Drawn, DrawnData, Progress, prepared


class MadeSet(Drawn, Protocol):
    """The options of a hard data set: a frozen dataclass.

    Attributes:
        kind: the data set's name.
        version: raised whenever the same options give other pixels.
    """

    kind: ClassVar[str]
    version: ClassVar[str]

    def fingerprint(self) -> str:
        """Identifies the files that the samples are drawn from."""
        ...


@dataclass(eq=False)
class _BuilderConfig(tfds.core.BuilderConfig):
    made: Any = None


class _MadeData(DrawnData, skip_registration=True):
    @property
    def drawn(self) -> MadeSet:
        config = self.builder_config
        assert isinstance(config, _BuilderConfig)
        return config.made


def prepare_made(
    made: MadeSet, data_dir: str | Path, progress: Progress | None = None
) -> DrawnData:
    """Writes the data set below ``data_dir``, or finds it there: see `drawn.prepared`.

    Args:
        made: what to prepare; other options get a folder of their own.
        data_dir: parent of the prepared folders, made if need be.
        progress: called with the number of examples written so far and the number of all.

    Returns:
        A builder for ``load_split``, or for TFDS's own ``builder.as_data_source(split)``.

    Raises:
        UserError: what the samples are drawn from is missing, the options ask for more than it can
            give, or files of a prepared data set are missing.
    """
    members = {"name": made.kind, "VERSION": tfds.core.Version(made.version)}
    builder = type(made.kind, (_MadeData,), members, skip_registration=True)
    config = _BuilderConfig(name=folder_name(made), made=made)
    return prepared(lambda place: builder(data_dir=place, config=config), data_dir, progress)


def folder_name(made: MadeSet) -> str:
    """A name for the prepared folder: data sets of other content never share it."""
    assert dataclasses.is_dataclass(made)
    options = dataclasses.asdict(made) | {"folder": None, "from": made.fingerprint()}
    return hashlib.sha256(json.dumps(options, sort_keys=True).encode()).hexdigest()[:12]
