"""Digits whose background gives the class away: the data set that ISNets are tested on."""

import dataclasses
import functools
import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal, Protocol

import numpy as np
import tensorflow_datasets as tfds
from jaxtyping import Bool, Int64, UInt8

from isnet_jax.data.checks import check_drawn
from isnet_jax.data.digits.marks import (
    BackgroundMark,
    biased_code,
    confounding_code,
    foreground_mask,
    paint,
)
from isnet_jax.data.digits.sources import Digits, Source, fingerprint, load_digits
from isnet_jax.data.drawn import DrawnData, Example
from isnet_jax.errors import UserError

Tie = Literal["biased", "unbiased", "confounding"]

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
        check_drawn(canvas=self.canvas, mask_dilation=self.mask_dilation, seed=self.seed)
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

    @functools.cached_property
    def digits(self) -> Digits:
        return load_digits(self.source, self.folder, self.limit)

    @property
    def class_names(self) -> tuple[str, ...]:
        return self.digits.class_names

    @property
    def side(self) -> int:
        return self.canvas

    def members(self) -> dict[str, Int64[np.ndarray, " n"]]:
        """See `split_members`."""
        return split_members(self.digits, self)

    def example(self, split: str, number: int) -> Example:
        """See `make_example`."""
        image, mask = make_example(self.digits, number, _TIES[split], self)
        return Example(image, mask, int(self.digits.labels[number]))

    def tells(self, split: str, number: int) -> tuple[int, int]:
        assert _TIES[split] == "biased"
        label = int(self.digits.labels[number])
        rng = np.random.default_rng((self.seed, number, 0))
        return label, biased_code(self.mark, label, len(self.class_names), rng)


@dataclass(eq=False)
class BiasedDigitsBuilderConfig(tfds.core.BuilderConfig):
    """What TFDS asks of a builder's options."""

    options: BiasedDigitsConfig = field(default_factory=BiasedDigitsConfig)


class BiasedDigits(DrawnData):
    """Digits with masks and a mark that is tied to the class, for ``prepare`` to build.

    The splits ``train`` and ``validation`` carry the mark of the class (see ``BackgroundMark`` for
    how strictly). The three test splits hold the same digits in the same order: ``test_biased``
    with the same tie, ``test_unbiased`` without marks, ``test_confounding`` with the mark of a
    uniformly random other class. Digits are split by class in equal shares.
    """

    VERSION = tfds.core.Version("1.0.0")

    @property
    def drawn(self) -> BiasedDigitsConfig:
        config = self.builder_config
        assert isinstance(config, BiasedDigitsBuilderConfig)
        return config.options


class Shares(Protocol):
    """What `split_members` goes by."""

    @property
    def validation_fraction(self) -> float: ...

    @property
    def test_fraction(self) -> float: ...

    @property
    def seed(self) -> int: ...


def split_members(digits: Digits, config: Shares) -> dict[str, Int64[np.ndarray, " n"]]:
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
