"""Digits whose background gives the class away: the data set that ISNets are tested on."""

import dataclasses
import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
import tensorflow_datasets as tfds
from jaxtyping import Bool, Int64, UInt8
from PIL import Image

from isnet_jax.data.digits.marks import (
    BackgroundMark,
    biased_code,
    confounding_code,
    foreground_mask,
    paint,
)
from isnet_jax.data.digits.sources import Digits, Source, fingerprint, load_digits
from isnet_jax.errors import UserError

Tie = Literal["biased", "unbiased", "confounding"]
Progress = Callable[[int, int], None]

TEST_SPLITS: Final = ("test_biased", "test_unbiased", "test_confounding")
SPLITS: Final = ("train", "validation", *TEST_SPLITS)
_TIES: Final[dict[str, Tie]] = {
    "train": "biased",
    "validation": "biased",
    "test_biased": "biased",
    "test_unbiased": "unbiased",
    "test_confounding": "confounding",
}


@dataclass(frozen=True)
class BiasedDigitsConfig:
    """Everything that decides the content of the data set.

    Attributes:
        source: which digits: "mnist-mini", 5,000 of MNIST that need no network; "mnist", all
            70,000, downloaded once; "idx", a folder of your own in MNIST's format.
        folder: for "idx", the folder with the four files; for "mnist", where to look and download.
        limit: use this many of them only, in equal shares of the classes.
        mark: the mark that gives the class away.
        mask_dilation: rim around the digit that counts as foreground too, in pixels: it belongs to
            the masks, and marks keep off it.
        validation_fraction: share of all digits in the validation split, above 0.
        test_fraction: share of all digits in the test splits, above 0; the rest is for training.
        canvas: side of the images in pixels, at least 28; digits sit in the middle.
        seed: decides splits, places of marks, and the classes of confounding marks; at least 0.

    Raises:
        UserError: a value out of its range.
    """

    source: Source = "mnist-mini"
    folder: Path | None = None
    limit: int | None = None
    mark: BackgroundMark = field(default_factory=BackgroundMark)
    mask_dilation: int = 0
    validation_fraction: float = 0.1
    test_fraction: float = 0.2
    canvas: int = 32
    seed: int = 0

    def __post_init__(self) -> None:
        if self.mask_dilation < 0:
            raise UserError(f"mask_dilation is {self.mask_dilation} pixels, but must be 0 or more.")
        if self.canvas < 28:
            raise UserError(f"canvas is {self.canvas} pixels, but digits need at least 28.")
        if self.seed < 0:
            raise UserError(f"seed is {self.seed}, but must be 0 or more.")
        fractions = (self.validation_fraction, self.test_fraction)
        if not (min(fractions) > 0 and sum(fractions) < 1):
            raise UserError(
                f"validation_fraction is {fractions[0]} and test_fraction {fractions[1]}; both "
                "must be above 0 and together below 1, so that something is left to train on."
            )

    def name(self) -> str:
        """A name for the prepared folder: data sets with different content never share it.

        Raises:
            UserError: the digits themselves are missing.
        """
        options = dataclasses.asdict(self)
        del options["folder"]
        options["source"] = fingerprint(self.source, self.folder)
        digest = hashlib.sha256(json.dumps(options, sort_keys=True).encode()).hexdigest()
        return f"{self.source}-{self.mark.kind}-{digest[:12]}"


@dataclass(eq=False)
class BiasedDigitsBuilderConfig(tfds.core.BuilderConfig):
    """What TFDS asks of a builder's options."""

    options: BiasedDigitsConfig = field(default_factory=BiasedDigitsConfig)


class BiasedDigits(tfds.core.GeneratorBasedBuilder):
    """Digits with masks and a mark that is tied to the class, for ``prepare`` to build.

    The splits ``train`` and ``validation`` carry the mark of the class (see ``BackgroundMark`` for
    how strictly). The three test splits hold the same digits in the same order: ``test_biased``
    with the same tie, ``test_unbiased`` without marks, ``test_confounding`` with the mark of a
    uniformly random other class. Digits are split by class in equal shares.

    Features: ``image`` uint8 (canvas, canvas, 3), ``mask`` uint8 (canvas, canvas, 1), 255 on the
    foreground and 0 elsewhere, ``label``, ``id`` (the digit's number in its source).
    """

    VERSION = tfds.core.Version("1.0.0")
    # TFDS would import importlib_resources, which it does not install, to look for checksums here.
    code_path = None
    progress: Progress | None = None

    @property
    def options(self) -> BiasedDigitsConfig:
        config = self.builder_config
        assert isinstance(config, BiasedDigitsBuilderConfig)
        return config.options

    def _info(self) -> tfds.core.DatasetInfo:
        side = self.options.canvas
        return tfds.core.DatasetInfo(
            builder=self,
            description=f"Digits with a background mark tied to the class: {self.options}",
            features=tfds.features.FeaturesDict(
                {
                    "image": tfds.features.Image(shape=(side, side, 3), encoding_format="png"),
                    "mask": tfds.features.Image(shape=(side, side, 1), encoding_format="png"),
                    "label": tfds.features.ClassLabel(names=self._digits().class_names),
                    "id": tfds.features.Text(),
                }
            ),
            supervised_keys=("image", "label"),
            disable_shuffling=True,
        )

    def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
        digits = self._digits()
        members = split_members(digits, self.options)
        report = _counted(self.progress, sum(len(indices) for indices in members.values()))
        return {
            name: self._generate_examples(digits, indices, _TIES[name], report)
            for name, indices in members.items()
        }

    def _generate_examples(
        self,
        digits: Digits,
        indices: Int64[np.ndarray, " n"],
        tie: Tie,
        report: Callable[[], None],
    ) -> Iterator[tuple[int, dict[str, Any]]]:
        for index in indices.tolist():
            image, mask = make_example(digits, index, tie, self.options)
            yield (
                index,
                {
                    "image": Image.fromarray(image),
                    "mask": Image.fromarray(np.where(mask, np.uint8(255), np.uint8(0))),
                    "label": int(digits.labels[index]),
                    "id": f"{index:05d}",
                },
            )
            report()

    def _digits(self) -> Digits:
        return load_digits(self.options.source, self.options.folder, self.options.limit)

    def _log_download_bytes(self) -> None:
        """Nothing is downloaded here."""

    def _log_download_done(self) -> None:
        """Nothing is downloaded here."""


def split_members(digits: Digits, config: BiasedDigitsConfig) -> dict[str, Int64[np.ndarray, " n"]]:
    """Which digits each split holds: ascending positions, by split name.

    Raises:
        UserError: a class has too few digits to appear in every split.
    """
    parts: dict[str, list[np.ndarray]] = {"train": [], "validation": [], "test": []}
    rng = np.random.default_rng(config.seed)
    for code in range(len(digits.class_names)):
        of_class = rng.permutation(np.flatnonzero(digits.labels == code))
        count = len(of_class)
        tests = max(1, round(config.test_fraction * count))
        validations = max(1, round(config.validation_fraction * count))
        if tests + validations >= count:
            raise UserError(
                f"class {digits.class_names[code]!r} has {count} digits, too few to be in the "
                f"training, validation ({config.validation_fraction:.0%}) and test "
                f"({config.test_fraction:.0%}) splits. Raise limit, or the fractions."
            )
        parts["test"].append(of_class[:tests])
        parts["validation"].append(of_class[tests : tests + validations])
        parts["train"].append(of_class[tests + validations :])
    joined = {name: np.sort(np.concatenate(members)) for name, members in parts.items()}
    test = joined.pop("test")
    return joined | dict.fromkeys(TEST_SPLITS, test)


def make_example(
    digits: Digits, index: int, tie: Tie, config: BiasedDigitsConfig
) -> tuple[UInt8[np.ndarray, "canvas canvas 3"], Bool[np.ndarray, "canvas canvas"]]:
    """One image and its foreground mask; the same arguments always give the same pixels."""
    side = digits.images.shape[1]
    first = (config.canvas - side) // 2
    grey = np.zeros((config.canvas, config.canvas), dtype=np.uint8)
    grey[first : first + side, first : first + side] = digits.images[index]
    image = np.repeat(grey[..., None], 3, axis=-1)
    mask = foreground_mask(grey, config.mask_dilation)
    if tie == "unbiased":
        return image, mask
    label, num_classes = int(digits.labels[index]), len(digits.class_names)
    choose = biased_code if tie == "biased" else _confounding
    # Separate generators: the place of the mark is the same in all test splits.
    code = choose(config.mark, label, num_classes, np.random.default_rng((config.seed, index, 0)))
    place = np.random.default_rng((config.seed, index, 1))
    return paint(config.mark, image, mask, code, num_classes, place), mask


def _confounding(_: BackgroundMark, label: int, num_classes: int, rng: np.random.Generator) -> int:
    return confounding_code(label, num_classes, rng)


def _counted(progress: Progress | None, total: int) -> Callable[[], None]:
    done = 0

    def report() -> None:
        nonlocal done
        done += 1
        if progress is not None:
            progress(done, total)

    return report
