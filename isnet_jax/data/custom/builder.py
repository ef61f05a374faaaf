"""Own images as a TFDS data set: the builder that writes them, and reading what it wrote."""

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol

import numpy as np
import tensorflow_datasets as tfds
from PIL import Image

from isnet_jax.data.prepared import digest_of
from isnet_jax.errors import UserError, printable

MANIFEST: Final = "preparation.json"
_DESCRIBING: Final = ("dataset_info.json", "features.json", "metadata.json")
# Older readers must not misread data of a newer layout.
LAYOUT: Final = "1.0.0"
# TFDS imports the modules that features.json names: only these are let through.
_DICTIONARY, *_FEATURES = (
    f"{kind.__module__}.{kind.__qualname__}"
    for kind in (
        tfds.features.FeaturesDict,
        tfds.features.Image,
        tfds.features.Tensor,
        tfds.features.Scalar,
        tfds.features.Text,
    )
)


@dataclass(frozen=True)
class Contained:
    """What a prepared data set holds.

    Attributes:
        size: height and width of the images.
        channels: 1 for grey, 3 for colour.
        dtype: uint8, or uint16 for grey images of more than 8 bits.
        class_names: the classes in the order of their numbers.
        multi_label: labels are a 0 or 1 for each class.
        partly_annotated: some samples have no mask.
        members: split -> ids of its samples.
    """

    size: tuple[int, int]
    channels: int
    dtype: Any
    class_names: tuple[str, ...]
    multi_label: bool
    partly_annotated: bool
    members: Mapping[str, list[str]]


class Decode(Protocol):
    """Gives the image, mask and classes of a sample."""

    def __call__(self, sample: str, /) -> tuple[np.ndarray, np.ndarray | None, tuple[str, ...]]: ...


class OwnData(tfds.core.GeneratorBasedBuilder):
    """Images of one size with masks, for `prepare_own` to build.

    Features: `image` uint8 (h, w, 1 or 3) or uint16 (h, w, 1); `mask` uint8 (h, w, 1), 255 on the
    foreground and 0 elsewhere; `label`, a class, or for multi-label data uint8 (classes,) of 0 and
    1; `id`; and `has_mask`, False where the mask is all 0 because nobody drew it, if the data set
    has such samples.
    """

    VERSION = tfds.core.Version(LAYOUT)
    code_path = None  # See `BiasedDigits`.

    def __init__(
        self,
        contained: Contained,
        decode: Decode,
        report: Callable[[], None],
        **options: Any,
    ) -> None:
        self.contained, self.decode, self.report = contained, decode, report
        super().__init__(**options)

    def _info(self) -> tfds.core.DatasetInfo:
        held = self.contained
        features: dict[str, Any] = {
            "image": tfds.features.Image(
                shape=(*held.size, held.channels), dtype=held.dtype, encoding_format="png"
            ),
            "mask": tfds.features.Image(shape=(*held.size, 1), encoding_format="png"),
            "label": tfds.features.Tensor(shape=(len(held.class_names),), dtype=np.uint8)
            if held.multi_label
            else tfds.features.Scalar(np.int64),
            "id": tfds.features.Text(),
        }
        if held.partly_annotated:
            features["has_mask"] = tfds.features.Scalar(np.bool_)
        return tfds.core.DatasetInfo(
            builder=self,
            description="Images with foreground masks, prepared by isnet_jax.",
            features=tfds.features.FeaturesDict(features),
            metadata=tfds.core.MetadataDict(
                class_names=list(held.class_names),
                members={split: digest_of(samples) for split, samples in held.members.items()},
            ),
            disable_shuffling=True,
        )

    def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
        return {
            split: self._generate_examples(samples)
            for split, samples in self.contained.members.items()
        }

    def _generate_examples(self, samples: list[str]) -> Iterator[tuple[int, dict[str, Any]]]:
        held = self.contained
        for number, sample in enumerate(samples):
            image, mask, labels = self.decode(sample)
            drawn = np.zeros(held.size, dtype=bool) if mask is None else mask
            codes = [held.class_names.index(name) for name in labels]
            example = {
                "image": Image.fromarray(image),
                "mask": Image.fromarray(np.where(drawn, np.uint8(255), np.uint8(0))),
                "label": np.isin(np.arange(len(held.class_names)), codes).astype(np.uint8)
                if held.multi_label
                else codes[0],
                "id": sample,
            }
            if held.partly_annotated:
                example["has_mask"] = mask is not None
            yield number, example
            self.report()

    def _log_download_bytes(self) -> None:
        """Nothing is downloaded here."""

    def _log_download_done(self) -> None:
        """Nothing is downloaded here."""


def open_prepared(folder: str | Path) -> tfds.core.DatasetBuilder:
    """The data set that `prepare_own` wrote into a folder, for `load_split`.

    Raises:
        UserError: there is none, or files of it are missing.
    """
    place = Path(folder).expanduser()
    if not (place / MANIFEST).is_file():
        found = "has no " + MANIFEST if place.is_dir() else "is no folder"
        raise UserError(
            f"{printable(place)} {found}: it holds no prepared data. Prepare some with `isnet-jax "
            "prepare "
            "folder SOURCE --out " + f"{printable(place)}`, or csv, coco or voc instead of folder."
        )
    try:
        _require_regular(place)
        _require_known_features(place / "features.json")
        _require_intact(place)
        builder = tfds.builder_from_directory(place)
        _require_form(builder)
        files = [Path(f) for split in builder.info.splits.values() for f in split.filepaths]
        missing = [path.name for path in files if not path.exists()]
        if not files:
            missing.append("dataset_info.json")
    except Exception as error:
        # TFDS reads several JSON files and raises what each of their parsers raises.
        raise UserError(
            f"the prepared data in {printable(place)} cannot be read ({error}). Delete the folder "
            "and prepare "
            "them again."
        ) from error
    if missing:
        raise UserError(
            f"missing from the prepared data in {printable(place)}: {', '.join(missing)}. Delete "
            "the folder "
            "and prepare them again."
        )
    return builder


def digests(folder: Path) -> dict[str, str]:
    """SHA-256 of the files that say what the records of prepared data mean."""
    return {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in _DESCRIBING}


def _require_regular(folder: Path) -> None:
    for path in folder.iterdir():
        if path.exists() and not (path.is_file() or path.is_dir()):
            raise ValueError(f"{path.name} is not a regular file")


def _require_intact(folder: Path) -> None:
    recorded = json.loads((folder / MANIFEST).read_text()).get("digests", {})
    for name, digest in digests(folder).items() if recorded else ():
        if recorded[name] != digest:
            raise ValueError(f"{name} was changed since: its digest differs")


def _require_form(builder: tfds.core.DatasetBuilder) -> None:
    info: Any = builder.info
    features, names = info.features, info.metadata["class_names"]
    if not (names and all(isinstance(name, str) for name in names) and len({*names}) == len(names)):
        raise ValueError("metadata.json has no class_names that are texts and differ")
    (*size, channels), label = features["image"].shape, features["label"].shape
    if not (
        len(size) == 2
        and all(isinstance(side, int) and side > 0 for side in size)
        and channels in (1, 3)
        and features["mask"].shape == (*size, 1)
        and label in ((), (len(names),))
        and features["id"].shape == ()
    ):
        raise ValueError("features.json has other shapes than isnet_jax writes")


def _require_known_features(path: Path) -> None:
    content = json.loads(path.read_text())
    if set(content) != {"pythonClassName", "featuresDict"}:
        raise ValueError(f"{path.name} is not of the form that isnet_jax writes")
    if content["pythonClassName"] != _DICTIONARY:
        raise ValueError(f"{path.name} names the class {content['pythonClassName']!r}")
    for name, feature in content["featuresDict"]["features"].items():
        if not set(feature) <= {"pythonClassName", "image", "tensor", "text"}:
            raise ValueError(f"{path.name} has unknown entries in {name!r}")
        if feature["pythonClassName"] not in _FEATURES:
            raise ValueError(f"{path.name} names the class {feature['pythonClassName']!r}")
