"""Bounding boxes as coarse masks: all pixels whose centres lie in one."""

import math
import xml.etree.ElementTree as ElementTree
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from isnet_jax.data.custom.readers import choice, segments
from isnet_jax.data.custom.readers.names import normal
from isnet_jax.data.custom.readers.samples import Annotated, Contents, Rejected

# Left, top, right, bottom in pixels, from the image's corner; the last two are not inside.
Box = tuple[float, float, float, float]

_REMEDY: Final = "Correct its box"


def box(left: Any, top: Any, right: Any, bottom: Any, *, first: int = 0) -> Box:
    """A box of numbers, or of texts that are numbers.

    Args:
        first: what the first pixel is called, if the sides are numbers of pixels that are inside.

    Raises:
        Rejected: they are none, or leave nothing inside.
    """
    given = (left, top, right, bottom)
    try:
        x0, y0, x1, y1 = map(float, given)
    except (TypeError, ValueError):
        x0 = y0 = x1 = y1 = math.nan
    if not all(map(math.isfinite, (x0, y0, x1, y1))):
        shown = ", ".join(str(side)[:20] for side in given)
        raise Rejected(f"has the box {shown}, expected four numbers", _REMEDY)
    corners = (x0 - first, y0 - first, x1, y1)
    if not (corners[0] < x1 and corners[1] < y1):
        raise Rejected(f"has a box without an inside: {', '.join(map(str, corners))}", _REMEDY)
    return corners


def polygon(corners: Box) -> list[list[float]]:
    """The box as a segment that `segments` draws."""
    left, top, right, bottom = corners
    return [[left, top, right, top, right, bottom, left, bottom]]


def drawn(boxes: Sequence[Box], height: int, width: int) -> np.ndarray:
    """The mask of boxes in an image of this size.

    Raises:
        Rejected: a box lies outside, or no pixel's centre lies in one.
    """
    mask = np.zeros((height, width), bool)
    for corners in boxes:
        segments.check(polygon(corners), height, width)
        segments.draw(polygon(corners), mask)
    if not mask.any():
        raise Rejected("has boxes that cover no pixel", _REMEDY)
    return mask


@dataclass(frozen=True)
class GivenBoxes:
    """Boxes and classes that a table names."""

    boxes: tuple[Box, ...]
    labels: tuple[str, ...]

    @property
    def files(self) -> tuple[Path, ...]:
        return ()

    def read(self, height: int, width: int, contents: Contents) -> Annotated:
        return Annotated(drawn(self.boxes, height, width), self.labels)


@dataclass(frozen=True)
class VocBoxes:
    """The objects of an XML file as in Pascal VOC, whose pixels are numbered from 1.

    Attributes:
        path: the file.
        names: of all classes.
        categories: names of those that count; all if empty.
        label: the class of an image with several.
    """

    path: Path
    names: tuple[str, ...]
    categories: tuple[str, ...]
    label: choice.Label

    @property
    def files(self) -> tuple[Path, ...]:
        return (self.path,)

    def read(self, height: int, width: int, contents: Contents) -> Annotated | None:
        try:
            return self._read(contents.read(self.path), height, width)
        except Rejected as error:
            raise Rejected(error.wrong, error.remedy, self.path) from error

    def _read(self, data: bytes, height: int, width: int) -> Annotated | None:
        found: dict[str, list[Box]] = defaultdict(list)
        for name, corners in _objects(data):
            if name not in self.names:
                raise Rejected(
                    f"names the class {name!r}, which is none of the {len(self.names)} classes",
                    "Correct it, or name the classes in class_names.txt",
                )
            if name in (self.categories or self.names):
                found[name].append(corners)
        if not found:
            if self.categories:
                return None
            raise Rejected("names no object", "Draw a box, or remove the sample")
        areas = {n: float(drawn(boxes, height, width).sum()) for n, boxes in found.items()}
        labels = choice.chosen(areas, self.label)
        boxes = [corners for name in labels for corners in found[name]]
        return Annotated(drawn(boxes, height, width), labels)


def _objects(data: bytes) -> list[tuple[str, Box]]:
    try:
        root = ElementTree.fromstring(data)
    except (ElementTree.ParseError, ValueError, LookupError) as error:
        raise Rejected(f"is not XML ({error})", "Save the annotation again") from error
    found = []
    for entry in root.iter("object"):
        sides = [entry.findtext(f"bndbox/{side}") for side in ("xmin", "ymin", "xmax", "ymax")]
        name = normal((entry.findtext("name") or "").strip())
        found.append((name, box(*sides, first=1)))
    return found
