"""Masks where there are none: found by a network, for the samples of another source."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool

from isnet_jax.data.custom.readers.pictures import decode_image
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


@dataclass(frozen=True)
class SegmentedSource:
    """A source whose samples without a mask get one from a network, where that is sure.

    Attributes:
        source: the other source.
        segmenter: names the network, by a digest of its weights.
        confidence: the least that a mask is taken with, in [0, 1].
        keep_unsure: samples whose mask is not sure stay without one; else they are refused.
        segment: finds masks.
    """

    source: Source
    segmenter: str
    confidence: float
    keep_unsure: bool
    segment: Segment = field(compare=False)

    def __post_init__(self) -> None:
        if not 0 <= self.confidence <= 1:
            raise UserError(f"mask_confidence is {self.confidence}; expected in [0, 1].")

    @property
    def rules(self) -> Any:
        return self.source.rules

    def listing(self) -> Listing:
        """The other source's, with masks that are found when they are read."""
        listing = self.source.listing()
        found: dict[str, tuple[np.ndarray, float]] = {}
        samples = (
            replace(s, annotation=_Segmented(s.annotation, s.image, self, found))
            for s in listing.samples
        )
        return replace(listing, samples=tuple(samples))


@dataclass(frozen=True)
class _Segmented:
    """A sample's own annotation, with a mask that is found where it has none."""

    given: Annotation
    image: Path | Record
    source: SegmentedSource
    found: dict[str, tuple[np.ndarray, float]]  # of earlier readings, in bits

    @property
    def files(self) -> tuple[Path, ...]:
        return self.given.files

    def read(self, height: int, width: int, contents: Contents) -> Annotated | None:
        given = self.given.read(height, width, contents)
        if given is None or given.mask is not None:
            return given
        data = contents.read(self.image)
        digest = contents.digests[self.image]
        if digest not in self.found:
            pixels = decode_image(data, self.image.suffix, self.source.rules)
            mask, confidence = self.source.segment(pixels)
            self.found[digest] = np.packbits(mask), confidence
        bits, confidence = self.found[digest]
        mask = np.unpackbits(bits, count=height * width).reshape(height, width).astype(bool)
        if mask.any() and confidence >= self.source.confidence:
            return replace(given, mask=mask)
        if self.source.keep_unsure:
            return given
        raise Rejected(
            f"has no mask, and the segmenter is sure of one at {confidence:.2f} only",
            "Draw one, lower --mask-confidence, or take images without a mask too: "
            "--allow-missing-masks",
        )
