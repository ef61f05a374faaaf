"""Data sets of TensorFlow Datasets: records with an image, its class, and a mask."""

import functools
import importlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
import tensorflow_datasets as tfds

from isnet_jax.data.custom.readers import names, splits
from isnet_jax.data.custom.readers.pictures import (
    PixelRules,
    binary,
    decode_numbers,
    decode_values,
    require_size,
)
from isnet_jax.data.custom.readers.samples import (
    Annotated,
    Contents,
    Listing,
    Record,
    Rejected,
    Sample,
    first_line,
    unique,
)
from isnet_jax.data.digits.sources import quiet_tfds
from isnet_jax.errors import UserError, printable, suggest


@dataclass(frozen=True)
class _Foreground:
    """What counts as foreground in a mask: these values, or all from a threshold on."""

    values: tuple[int, ...] = ()
    threshold: int | None = None


# Of masks that are not black and white: Oxford's pets have 1, 2 (background) and 3 (their border,
# which is theirs too); Caltech's birds the share of annotators who drew a pixel.
_KNOWN: Final[Mapping[str, _Foreground]] = {
    "oxford_iiit_pet": _Foreground(values=(1, 3)),
    "caltech_birds2011": _Foreground(threshold=128),
}
_FORMAT: Final = "array_record"


@dataclass(frozen=True)
class TfdsSource:
    """A data set of TFDS; its own splits train, validation and test are kept if it has them.

    Attributes:
        name: as `tfds.builder` takes it, such as "oxford_iiit_pet" or "mine/config:1.0.0".
        folder: TFDS's data_dir; TFDS's own default if left out.
        image: the feature with the image, a picture.
        label: the feature with the class, or a sequence of classes (multi-label).
        mask: the feature with the mask, a picture or an array of one channel; the one whose name
            says so if left out.
        foreground: the values that are foreground in the mask; if left out, what is known of the
            data set, or `rules.mask_threshold`, or all that is not 0.
        imports: modules that register builders of one's own, imported first.
        rules: how values in the pictures are understood.
    """

    name: str
    folder: Path | None = None
    image: str = "image"
    label: str = "label"
    mask: str | None = None
    foreground: tuple[int, ...] = ()
    imports: tuple[str, ...] = ()
    rules: PixelRules = field(default_factory=PixelRules)

    def listing(self) -> Listing:
        """Opens the data set; prepares it first, with a download, if it is not there yet.

        Raises:
            UserError: no such data set or feature, or it cannot be prepared.
        """
        builder = self._builder()
        features: Any = builder.info.features
        mask = self._check(features)
        label = features[self.label]
        multi_label = isinstance(label, tfds.features.Sequence)
        classes: Any = label.feature if multi_label else label
        class_names = tuple(map(names.normal, classes.names))
        names.require_distinct(class_names, self.name)
        found = list(builder.info.splits)
        meant = {name: splits.meant(name) for name in found}
        known = [name for name in found if splits.is_split(meant[name])]
        own = {meant[name].split("_")[0] for name in known} >= {"train", "test"}
        taken = known if own else found
        samples = []
        for split in taken:
            records = _Records(builder, split, tuple(n for n in (self.image, mask) if n))
            for number in range(len(records)):
                sample = f"{split}/{number:07d}"
                picture = Record(sample, functools.partial(records.picture, number, self.image))
                annotation = _FromRecord(records, number, self, mask, class_names, multi_label)
                samples.append(Sample(sample, picture, annotation, meant[split] if own else None))
        files = [Path(f) for s in taken for f in builder.info.splits[s].filepaths]
        return Listing(
            root=Path(builder.data_dir),
            samples=tuple(samples),
            problems=(),
            class_names=class_names,
            multi_label=multi_label,
            files=tuple(files),
        )

    def known(self) -> _Foreground:
        """What counts as foreground, by the options or because the data set is known."""
        if self.foreground or self.rules.mask_threshold is not None:
            return _Foreground(self.foreground, self.rules.mask_threshold)
        return _KNOWN.get(self.name.split("/")[0].split(":")[0], _Foreground())

    def _builder(self) -> tfds.core.DatasetBuilder:
        try:
            for module in self.imports:
                importlib.import_module(module)
            place: dict[str, Any] = {}
            if self.folder is not None:
                place["data_dir"] = str(self.folder.expanduser())
            with quiet_tfds():
                builder = tfds.builder(self.name, **place)
                builder.download_and_prepare(
                    file_format=_FORMAT,
                    download_config=tfds.download.DownloadConfig(try_download_gcs=False),
                )
        except ImportError as error:
            raise UserError(
                f"TFDS's {printable(self.name)} needs the module {error.name!r} to be prepared. "
                "Install it (tensorflow, for most), or correct --imports."
            ) from error
        except tfds.core.DatasetNotFoundError as error:
            raise UserError(
                f"TFDS knows no data set {printable(repr(self.name))}. Its names are on "
                "https://www.tensorflow.org/datasets/catalog; a builder of your own is registered "
                "by --imports MODULE."
            ) from error
        except (OSError, ValueError, RuntimeError, tfds.download.DownloadError) as error:
            raise UserError(
                f"TFDS's {printable(self.name)} cannot be prepared ({first_line(error)}). "
                "Prepare it where there is a network, and name its folder: --data-dir FOLDER."
            ) from error
        formats = str(builder.info.file_format.value)  # pyright: ignore
        if formats != _FORMAT:
            raise UserError(
                f"{printable(builder.data_dir)} holds {printable(self.name)} as {formats}; "
                f"expected {_FORMAT}. Prepare it so: tfds build --file_format={_FORMAT}."
            )
        return builder

    def _check(self, features: Any) -> str | None:
        """Whether the features are there and of the right kinds; the name of the mask's."""
        kinds = {name: type(feature).__name__ for name, feature in features.items()}
        for option, name in (("--image", self.image), ("--label", self.label)):
            if name not in kinds:
                raise UserError(f"{suggest(name, kinds, what='feature')} Correct {option}.")
        if not isinstance(features[self.image], tfds.features.Image):
            raise UserError(f"the feature {self.image!r} is {kinds[self.image]}; expected Image.")
        label = features[self.label]
        inner: Any = label.feature if isinstance(label, tfds.features.Sequence) else label
        if not (isinstance(inner, tfds.features.ClassLabel) and inner.names):
            raise UserError(
                f"the feature {self.label!r} is {kinds[self.label]}; expected ClassLabel with "
                "names, or a sequence of them. Choose another with --label."
            )
        if self.mask is None:
            likely = [name for name in kinds if "mask" in name or "segmentation" in name]
            if len(likely) > 1:
                raise UserError(f"the features {', '.join(likely)} may be the mask. Say --mask.")
            return likely[0] if likely else None
        if self.mask not in kinds:
            raise UserError(f"{suggest(self.mask, kinds, what='feature')} Correct --mask.")
        return self.mask


class _Records:
    """The records of a split, with their pictures as they are stored; the latest is remembered."""

    def __init__(self, builder: Any, split: str, pictures: tuple[str, ...]) -> None:
        features = builder.info.features
        skipped = {
            name: tfds.decode.SkipDecoding()
            for name in pictures
            if isinstance(features[name], tfds.features.Image)
        }
        self._source = builder.as_data_source(split, decoders=skipped)
        self.get = functools.lru_cache(1)(self._source.__getitem__)

    def __len__(self) -> int:
        return len(self._source)

    def picture(self, number: int, feature: str) -> bytes:
        return self.get(number)[feature]


@dataclass(frozen=True)
class _FromRecord:
    """Mask and classes of a record."""

    records: _Records
    number: int
    source: TfdsSource
    mask: str | None
    class_names: tuple[str, ...]
    multi_label: bool

    @property
    def files(self) -> tuple[Path, ...]:
        return ()

    def read(self, height: int, width: int, contents: Contents) -> Annotated:
        record = self.records.get(self.number)
        codes = np.atleast_1d(record[self.source.label]).tolist()
        labels = unique(self.class_names[code] for code in codes if code >= 0)
        if not labels and not self.multi_label:
            raise Rejected("has no label", "Leave it out")
        if self.mask is None:
            return Annotated(None, labels)
        try:
            return Annotated(self._mask(record[self.mask], height, width), labels)
        except Rejected as error:
            raise Rejected(f"has a bad {self.mask}: it {error.wrong}", error.remedy) from error

    def _mask(self, stored: Any, height: int, width: int) -> np.ndarray:
        wanted = self.source.known()
        if not isinstance(stored, bytes):
            values = np.asarray(stored)
            values = values[..., 0] if values.ndim == 3 and values.shape[-1] == 1 else values
            if values.ndim != 2:
                raise Rejected(f"has the shape {values.shape}", "Choose another with --mask")
        else:
            values = decode_numbers(stored) if wanted.values else decode_values(stored)
        require_size(values, height, width)
        if not wanted.values:
            return binary(values, wanted.threshold)
        mask = np.isin(values, wanted.values)
        if not mask.any():
            shown = ", ".join(map(str, np.unique(values)[:5]))
            raise Rejected(
                f"holds none of the values {wanted.values}, but {shown}", "Correct --foreground"
            )
        return mask
