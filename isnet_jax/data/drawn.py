"""Data sets that a program draws: what they have in common, and how they are written to disk."""

from __future__ import annotations

import dataclasses
import functools
import logging
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TypeVar

import numpy as np
import tensorflow_datasets as tfds
from absl import logging as absl_logging
from jaxtyping import Bool, Int64, UInt8
from PIL import Image

from isnet_jax.data.digits.sources import quiet_tfds
from isnet_jax.data.split import Split
from isnet_jax.errors import UserError, printable

Progress = Callable[[int, int], None]


class Example(NamedTuple):
    """One sample: an image, its foreground and its class."""

    image: UInt8[np.ndarray, "h w 3"]
    mask: Bool[np.ndarray, "h w"]
    label: int


class Drawn(Protocol):
    """The options of a drawn data set, which decide every pixel."""

    @property
    def class_names(self) -> tuple[str, ...]: ...

    @property
    def side(self) -> int:
        """Height and width of the images in pixels."""
        ...

    def members(self) -> Mapping[str, Int64[np.ndarray, " n"]]:
        """The numbers of the samples of every split, by the split's name."""
        ...

    def example(self, split: str, number: int) -> Example:
        """A sample; the same arguments always give the same pixels."""
        ...

    def tells(self, split: str, number: int) -> tuple[int, int]:
        """The class of a sample, and what the bias of its image says, for training images."""
        ...


class DrawnData(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """Writes a drawn data set with TFDS.

    Features: ``image`` uint8 (side, side, 3), ``mask`` uint8 (side, side, 1), 255 on the
    foreground and 0 elsewhere, ``label``, ``id`` (the sample's number).
    """

    # TFDS would import importlib_resources, which it does not install, to look for checksums here.
    code_path = None
    progress: Progress | None = None

    @property
    def drawn(self) -> Drawn:
        raise NotImplementedError

    def _info(self) -> tfds.core.DatasetInfo:
        side = self.drawn.side
        return tfds.core.DatasetInfo(
            builder=self,
            description=str(self.drawn),
            features=tfds.features.FeaturesDict(
                {
                    "image": tfds.features.Image(shape=(side, side, 3), encoding_format="png"),
                    "mask": tfds.features.Image(shape=(side, side, 1), encoding_format="png"),
                    "label": tfds.features.ClassLabel(names=self.drawn.class_names),
                    "id": tfds.features.Text(),
                }
            ),
            supervised_keys=("image", "label"),
            disable_shuffling=True,
        )

    def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
        members = self.drawn.members()
        report = _counted(self.progress, sum(map(len, members.values())))
        return {
            split: self._generate_examples(split, numbers, report)
            for split, numbers in members.items()
        }

    def _generate_examples(
        self, split: str, numbers: Int64[np.ndarray, " n"], report: Callable[[], None]
    ) -> Iterator[tuple[int, dict[str, Any]]]:
        for number in numbers.tolist():
            image, mask, label = self.drawn.example(split, number)
            yield (
                number,
                {
                    "image": Image.fromarray(image),
                    "mask": Image.fromarray(np.where(mask, np.uint8(255), np.uint8(0))),
                    "label": label,
                    "id": f"{number:05d}",
                },
            )
            report()

    def _log_download_bytes(self) -> None:
        """Nothing is downloaded here."""

    def _log_download_done(self) -> None:
        """Nothing is downloaded here."""


def with_training_groups(splits: Mapping[str, Split], drawn: Drawn) -> dict[str, Split]:
    """The splits of a drawn data set; train and validation know their groups.

    Samples of a group have one class, and images that tell this class or another one.
    """
    found = dict(splits)
    for name in ("train", "validation"):
        told = [drawn.tells(name, int(number)) for number in found[name].ids]
        groups = np.array([2 * label + (said != label) for label, said in told], np.int32)
        found[name] = dataclasses.replace(found[name], groups=groups)
    return found


Builder = TypeVar("Builder", bound=DrawnData)


def prepared(
    make: Callable[[Path], Builder], data_dir: str | Path, progress: Progress | None
) -> Builder:
    """The builder of a data set that is on disk, written now or at an earlier time.

    The data set becomes visible when it is complete: preparing that was interrupted leaves nothing
    behind but a folder ``incomplete.*``, which may be deleted. Several processes may prepare the
    same data set at once; the first to finish provides it.

    Args:
        make: gives a builder for the parent of the prepared folders.
        data_dir: this parent, made if need be.
        progress: called with the number of examples written so far and the number of all.

    Raises:
        UserError: what drawing raises, a place that cannot be written to, or files of a prepared
            data set are missing.
    """
    place = Path(data_dir).expanduser()
    if os.path.lexists(place) and not place.is_dir():
        raise UserError(
            f"{printable(place)} is no folder; expected the parent of prepared data sets. Choose "
            "another --data-dir."
        )
    make_here = functools.partial(make, place)
    builder = _quietly(make_here)
    if not builder.data_path.exists():
        builder.progress = progress
        try:
            with quiet_tfds():
                builder.download_and_prepare(
                    file_format="array_record",
                    download_config=tfds.download.DownloadConfig(try_download_gcs=False),
                )
        except (NotADirectoryError, PermissionError) as error:
            raise UserError(
                f"the data cannot be prepared in {printable(place)} ({error}). Choose another "
                "--data-dir."
            ) from error
        except OSError:
            if not builder.data_path.exists():
                raise
            # Another process was faster: its folder is in the place of ours.
            builder = _quietly(make_here)
    _check_files(builder)
    return builder


def _quietly(make: Callable[[], Builder]) -> Builder:
    logger = absl_logging.get_absl_logger()
    logger.addFilter(_unless_custom_config)
    try:
        return make()
    finally:
        logger.removeFilter(_unless_custom_config)


def _unless_custom_config(record: logging.LogRecord) -> bool:
    return not record.getMessage().startswith("Using custom data configuration")


def _check_files(builder: DrawnData) -> None:
    folder = builder.data_path
    remedy = f"Delete the folder {printable(folder)}; it will be prepared anew."
    splits = builder.drawn.members()
    absent = [name for name in splits if name not in builder.info.splits]
    if absent:
        raise UserError(
            f"the prepared data in {printable(folder)} do not have the splits {', '.join(absent)}: "
            f"dataset_info.json is missing or of something else. {remedy}"
        )
    files = [Path(path) for name in splits for path in builder.info.splits[name].filepaths]
    missing = [path.name for path in files if not path.exists()]
    if missing:
        raise UserError(
            f"{len(missing)} of {len(files)} files are missing from the prepared data: "
            f"{', '.join(missing)}. {remedy}"
        )


def _counted(progress: Progress | None, total: int) -> Callable[[], None]:
    done = 0

    def report() -> None:
        nonlocal done
        done += 1
        if progress is not None:
            progress(done, total)

    return report
