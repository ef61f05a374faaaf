"""Masks where there are none: made by a network or by another program."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from jaxtyping import Bool

from isnet_jax.data.custom.readers.pictures import PixelRules, decode_image
from isnet_jax.data.custom.readers.samples import (
    Annotated,
    Annotation,
    Contents,
    Listing,
    Record,
    Rejected,
    Source,
)
from isnet_jax.errors import UserError

Segment = Callable[[np.ndarray], tuple[Bool[np.ndarray, "h w"], float]]
"""Pixels as `decode_image` gives them -> the foreground, and how sure it is, in [0, 1]."""


class NoMask(Rejected):
    """There is no mask to be had for an image; without one it may do."""


class MaskMaker(Protocol):
    """Makes a mask for an image that has none."""

    @property
    def options(self) -> dict[str, Any]:
        """What decides the masks; recorded with the data."""
        ...

    def make(
        self, image: Path | Record, pixels: np.ndarray, rules: PixelRules
    ) -> Bool[np.ndarray, "h w"]:
        """The foreground of an image.

        Args:
            pixels: of the image, as `decode_image` gives them.
            rules: how values of masks are understood.

        Raises:
            NoMask: there is none.
            Rejected: it cannot be used.
        """
        ...


@dataclass(frozen=True)
class MaskedSource:
    """A source whose samples without a mask get one that is made.

    Attributes:
        source: the other source.
        maker: makes the masks.
        keep_bare: samples that get none either stay without one; else they are refused.
    """

    source: Source
    maker: MaskMaker
    keep_bare: bool

    @property
    def rules(self) -> Any:
        return self.source.rules

    def listing(self) -> Listing:
        """The other source's, with masks that are made when they are read."""
        listing = self.source.listing()
        made: dict[str, np.ndarray | NoMask] = {}
        samples = (
            replace(s, annotation=_Made(s.annotation, s.image, self, made)) for s in listing.samples
        )
        return replace(listing, samples=tuple(samples))


@dataclass(frozen=True)
class _Made:
    """A sample's own annotation, with a mask that is made where it has none."""

    given: Annotation
    image: Path | Record
    source: MaskedSource
    made: dict[str, np.ndarray | NoMask]  # at earlier readings; masks in bits

    @property
    def files(self) -> tuple[Path, ...]:
        return self.given.files

    def read(self, height: int, width: int, contents: Contents) -> Annotated | None:
        given = self.given.read(height, width, contents)
        if given is None or given.mask is not None:
            return given
        data = contents.read(self.image)
        digest = contents.digests[self.image]
        if digest not in self.made:
            self.made[digest] = self._make(data)
        found = self.made[digest]
        if not isinstance(found, NoMask):
            bits = np.unpackbits(found, count=height * width)
            return replace(given, mask=bits.reshape(height, width).astype(bool))
        if self.source.keep_bare:
            return given
        raise found

    def _make(self, data: bytes) -> np.ndarray | NoMask:
        rules = self.source.rules
        pixels = decode_image(data, self.image.suffix, rules)
        try:
            return np.packbits(self.source.maker.make(self.image, pixels, rules))
        except NoMask as error:
            return error


@dataclass(frozen=True)
class BySegmenter:
    """Masks of a network, where it is sure.

    Attributes:
        segmenter: names the network, by a digest of its weights.
        confidence: the least that a mask is taken with, in [0, 1].
        segment: finds masks.
    """

    segmenter: str
    confidence: float
    segment: Segment = field(compare=False)

    def __post_init__(self) -> None:
        if not 0 <= self.confidence <= 1:
            raise UserError(f"mask_confidence is {self.confidence}; expected in [0, 1].")

    @property
    def options(self) -> dict[str, Any]:
        return {"segmenter": self.segmenter, "mask_confidence": self.confidence}

    def make(
        self, image: Path | Record, pixels: np.ndarray, rules: PixelRules
    ) -> Bool[np.ndarray, "h w"]:
        mask, confidence = self.segment(pixels)
        if mask.any() and confidence >= self.confidence:
            return mask
        raise NoMask(
            f"has no mask, and the segmenter is sure of one at {confidence:.2f} only",
            "Draw one, lower --mask-confidence, or take images without a mask too: "
            "--allow-missing-masks",
        )
