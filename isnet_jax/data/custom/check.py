"""The first reading of own images: every file is decoded and checked before anything is written."""

import hashlib
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, get_args

import numpy as np

from isnet_jax.data.custom.fitting import Fit, fitted
from isnet_jax.data.custom.readers import (
    Annotated,
    Contents,
    Listing,
    PixelRules,
    Problem,
    Rejected,
    Sample,
)
from isnet_jax.data.custom.readers.pictures import decode_image
from isnet_jax.data.custom.readers.samples import relative
from isnet_jax.errors import UserError, suggest

Progress = Callable[[str, int, int], None]
SIDES: Final = (4, 8192)


@dataclass(frozen=True)
class OwnDataConfig:
    """How own images become a data set.

    Attributes:
        size: height and width of the prepared images; needed where the images differ in size.
        fit: how images get this size: "crop" fills it and cuts off what overhangs, "pad" adds
            black at two sides, "stretch" changes the proportions.
        validation_fraction: share of the validation split, above 0; of the training split where
            the source names splits but no validation.
        test_fraction: share of the test split, above 0, where the source names no splits.
        seed: decides who is in which split.
        allow_missing_masks: take images without a mask too: they are trained on without the
            heatmap loss.
        refine_masks: cut masks that are wider than the objects, boxes for example, to what looks
            unlike the image outside of them; needs OpenCV.
        skip_bad: leave out files that cannot be used; otherwise they stop the preparation.

    Raises:
        UserError: a value out of its range.
    """

    size: tuple[int, int] | None = None
    fit: Fit = "crop"
    validation_fraction: float = 0.1
    test_fraction: float = 0.2
    seed: int = 0
    allow_missing_masks: bool = False
    refine_masks: bool = False
    skip_bad: bool = False

    def __post_init__(self) -> None:
        low, high = SIDES
        if self.size is not None and not all(low <= side <= high for side in self.size):
            raise UserError(
                f"size is {self.size}, but height and width must be from {low} to {high}."
            )
        if self.fit not in get_args(Fit):
            raise UserError(suggest(self.fit, get_args(Fit), what="fit"))
        fractions = (self.validation_fraction, self.test_fraction)
        if not (min(fractions) > 0 and sum(fractions) < 1):
            raise UserError(
                f"validation_fraction is {fractions[0]} and test_fraction {fractions[1]}; both "
                "must be above 0 and together below 1, so that something is left to train on."
            )
        if self.seed < 0:
            raise UserError(f"seed is {self.seed}, but must be 0 or more.")


@dataclass(frozen=True)
class Usable:
    """What the first reading found out about a sample.

    Attributes:
        whole: the mask covers all of the image.
        pixels: a digest of what the image shows.
    """

    labels: tuple[str, ...]
    has_mask: bool
    whole: bool
    size: tuple[int, int]
    colour: bool
    dtype: np.dtype
    pixels: str


@dataclass(frozen=True)
class Checked:
    """What the first reading found out.

    Attributes:
        usable: samples by their id.
        contents: the files that were read.
        problems: the listing's and those found now.
    """

    usable: Mapping[str, Usable]
    contents: Contents
    problems: tuple[Problem, ...]

    def classes(self) -> dict[str, tuple[str, ...]]:
        """The classes of every sample."""
        return {name: found.labels for name, found in self.usable.items()}


def check(listing: Listing, config: OwnDataConfig, rules: PixelRules, report: Progress) -> Checked:
    """Decodes every sample once; what cannot be used is among the problems, not among the rest."""
    contents = Contents()
    problems = list(listing.problems)
    usable: dict[str, Usable] = {}
    for number, sample in enumerate(listing.samples):
        try:
            found = _usable(sample, contents, config, rules)
            if found is not None:
                usable[sample.id] = found
        except Rejected as error:
            place = sample.id if error.file is None else relative(error.file, listing.root)
            problems.append(Problem(place, error.wrong, error.remedy))
        report("checking", number + 1, len(listing.samples))
    for name, problem in _twins(listing, usable):
        problems.append(problem)
        del usable[name]
    return Checked(usable, contents, tuple(problems))


def _usable(
    sample: Sample, contents: Contents, config: OwnDataConfig, rules: PixelRules
) -> Usable | None:
    found = read(sample, contents, rules)
    if found is None:
        return None
    image, annotated = found
    if annotated.mask is None and not config.allow_missing_masks:
        raise Rejected(
            "has no mask", "Draw one, or take images without a mask too: --allow-missing-masks"
        )
    _, mask = fit_both(image, annotated, config)
    return Usable(
        labels=annotated.labels,
        has_mask=mask is not None,
        whole=mask is not None and bool(mask.all()),
        size=(image.shape[0], image.shape[1]),
        colour=image.ndim == 3,
        dtype=image.dtype,
        pixels=_shown(image),
    )


def _shown(image: np.ndarray) -> str:
    """SHA-256 of the picture in its plainest encoding: grey for grey RGB, 8 bits where they do."""
    if image.ndim == 3 and (image == image[..., :1]).all():
        image = image[..., 0]
    if image.dtype == np.uint16 and not (image % 257).any():
        image = (image // 257).astype(np.uint8)
    kind = f"{image.shape} {image.dtype}".encode()
    return hashlib.sha256(kind + np.ascontiguousarray(image).tobytes()).hexdigest()


def read(
    sample: Sample, contents: Contents, rules: PixelRules
) -> tuple[np.ndarray, Annotated] | None:
    """A sample's image with its mask and classes; None if it shows nothing that was asked for.

    Raises:
        Rejected: it cannot be used.
    """
    image = decode_image(contents.read(sample.image), sample.image.suffix, rules)
    annotated = sample.annotation.read(image.shape[0], image.shape[1], contents)
    return None if annotated is None else (image, annotated)


def fit_both(
    image: np.ndarray, annotated: Annotated, config: OwnDataConfig
) -> tuple[np.ndarray, np.ndarray | None]:
    """Image and mask in the size that is wanted.

    Raises:
        Rejected: the mask has no foreground in this size.
    """
    if config.size is None:
        return image, annotated.mask
    image = fitted(image, config.size, config.fit)
    if annotated.mask is None:
        return image, None
    mask = fitted(annotated.mask, config.size, config.fit)
    if not mask.any():
        raise Rejected(
            f"has no foreground left in {config.size[0]} x {config.size[1]} pixels",
            "Choose a larger --size, or --fit pad instead of crop",
        )
    return image, mask


def _twins(listing: Listing, usable: Mapping[str, Usable]) -> list[tuple[str, Problem]]:
    """Samples whose images show the same pixels: a test image must not be known from training."""
    by_content: dict[str, list[Sample]] = defaultdict(list)
    for sample in listing.samples:
        if sample.id in usable:
            by_content[usable[sample.id].pixels].append(sample)
    problems = []
    for same in by_content.values():
        agree = len({(usable[sample.id].labels, sample.split) for sample in same}) == 1
        differing = "" if agree else " with another class or split"
        for sample in same[1:] if agree else same:
            other = next(s for s in same if s is not sample)
            wrong = f"is the same picture as {other.id}{differing}"
            problems.append((sample.id, Problem(sample.id, wrong, "Keep one of them")))
    return problems
