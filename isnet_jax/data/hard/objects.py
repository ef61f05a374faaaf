"""Objects of one class each, and the splits they are in: what the drawn sets put on backgrounds."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Final, Literal, get_args

import numpy as np
from jaxtyping import Bool, Int64, UInt8
from scipy import ndimage

from isnet_jax.data.checks import check_drawn
from isnet_jax.data.digits.builder import split_members
from isnet_jax.data.digits.marks import grown
from isnet_jax.data.digits.sources import Digits, Source, fingerprint, load_digits
from isnet_jax.data.refine import opencv, refined
from isnet_jax.errors import UserError, suggest

Outline = Literal["exact", "box"]

_SIDE: Final = 28  # of the objects' own images.
_DARK: Final = 10  # Grey levels up to here are background.


@dataclass(frozen=True, kw_only=True)
class ObjectSet:
    """Options that the sets of grey objects share.

    Attributes:
        source: which objects: "mnist-mini", 5,000 digits of MNIST that need no network; "mnist",
            all 70,000, downloaded once; "idx", a folder in MNIST's format, such as Fashion-MNIST.
        folder: for "idx", the folder with the four files; for "mnist", where to look and download.
        limit: use this many of them only, in equal shares of the classes.
        canvas: side of the images in pixels, at least 28; objects are enlarged by the whole number
            of times that they fit, and sit in the middle.
        outline: what the masks show: the object, or the smallest box around it.
        mask_dilation: rim around this that the masks count as foreground too, in pixels.
        refine: cut such coarse masks to what they hold: see `isnet_jax.data.refine`.
        strength: probability that what gives a training image's class away is its own class's, 0 to
            1; otherwise it is that of another class, uniformly random.
        validation_fraction: share of all objects in the validation split, above 0.
        test_fraction: share of all objects in the test splits, above 0; the rest is for training.
        seed: decides splits and backgrounds; at least 0.

    Raises:
        UserError: a value out of its range.
    """

    version: ClassVar[str] = "1.0.0"
    test_splits: ClassVar[tuple[str, ...]] = (
        "test_biased",
        "test_unbiased",
        "test_confounding",
        "test_unseen",
    )

    source: Source = "mnist-mini"
    folder: Path | None = None
    limit: int | None = None
    canvas: int = 32
    outline: Outline = "exact"
    mask_dilation: int = 0
    refine: bool = False
    strength: float = 1.0
    validation_fraction: float = 0.1
    test_fraction: float = 0.2
    seed: int = 0

    def __post_init__(self) -> None:
        if self.outline not in get_args(Outline):
            raise UserError(suggest(self.outline, get_args(Outline), what="outline of masks"))
        if self.refine:
            opencv()  # Refuses where it is not installed.
        check_drawn(canvas=self.canvas, mask_dilation=self.mask_dilation, seed=self.seed)
        if not 0 <= self.strength <= 1:
            raise UserError(f"strength is {self.strength}, but must be a probability, 0 to 1.")
        fractions = (self.validation_fraction, self.test_fraction)
        if not (min(fractions) > 0 and sum(fractions) < 1):
            raise UserError(
                f"validation_fraction is {fractions[0]} and test_fraction {fractions[1]}; both "
                "must be above 0 and together below 1, so that something is left to train on."
            )

    @property
    def side(self) -> int:
        return self.canvas

    @property
    def class_names(self) -> tuple[str, ...]:
        return self.objects.class_names

    def fingerprint(self) -> str:
        return fingerprint(self.source, self.folder)

    @functools.cached_property
    def objects(self) -> Digits:
        return load_digits(self.source, self.folder, self.limit)

    def members(self) -> dict[str, Int64[np.ndarray, " n"]]:
        """See `split_members`; all test splits hold the same objects."""
        found = split_members(self.objects, self)
        tests = dict.fromkeys(self.test_splits, found["test_biased"])
        return {name: found[name] for name in ("train", "validation")} | tests

    def tells(self, split: str, number: int) -> tuple[int, int]:
        label = int(self.objects.labels[number])
        code = self.code(split, label, number)
        assert code is not None
        return label, code

    def draw(
        self, number: int
    ) -> tuple[UInt8[np.ndarray, "side side"], Bool[np.ndarray, "side side"], int]:
        """An object in the middle of the canvas, exactly where it is, and its class."""
        objects = self.objects
        times = self.canvas // _SIDE
        enlarged = np.kron(objects.images[number], np.ones((times, times), np.uint8))
        first = (self.canvas - len(enlarged)) // 2
        grey = np.zeros((self.canvas, self.canvas), np.uint8)
        grey[first : first + len(enlarged), first : first + len(enlarged)] = enlarged
        bright = grey > min(_DARK, int(grey.max()) - 1)
        filled = ndimage.binary_fill_holes(bright)
        assert filled is not None
        return grey, filled, int(objects.labels[number])

    def annotated(
        self, exact: Bool[np.ndarray, "side side"], image: UInt8[np.ndarray, "side side 3"]
    ) -> Bool[np.ndarray, "side side"]:
        """The mask that is given for an object in this image, as the options say."""
        mask = exact
        if self.outline == "box":
            mask = np.zeros_like(exact)
            rows, columns = np.flatnonzero(exact.any(1)), np.flatnonzero(exact.any(0))
            mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1] = True
        mask = grown(mask, self.mask_dilation)
        return refined(image, mask) if self.refine else mask

    def code(self, split: str, label: int, number: int) -> int | None:
        """The class that the bias of a sample tells, None for none that was trained with.

        The same class's with probability `strength` in the training, validation and biased splits;
        any in the unbiased one; another in the confounding one.
        """
        classes = len(self.objects.class_names)
        rng = np.random.default_rng((self.seed, number, 0))
        own, other = rng.random() < self.strength, (label + int(rng.integers(1, classes))) % classes
        match split:
            case "train" | "validation" | "test_biased":
                return label if own else other
            case "test_unbiased":
                return int(rng.integers(classes))
            case "test_confounding":
                return other
            case _:
                return None
