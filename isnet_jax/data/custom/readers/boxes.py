"""Bounding boxes as coarse masks: all pixels whose centres lie in one."""

import xml.etree.ElementTree as ElementTree
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from isnet_jax.data.custom.readers import choice, coordinates, segments
from isnet_jax.data.custom.readers.names import normal
from isnet_jax.data.custom.readers.samples import Annotated, Contents, Rejected, blamed

# Left, top, right, bottom in pixels, from the image's corner; the last two are not inside.
Box = tuple[float, float, float, float]

_REMEDY: Final = "Correct its box"


def box(left: float, top: float, right: float, bottom: float, *, first: int = 0) -> Box:
    """A box by its sides.

    Args:
        first: what the first pixel is called, if the sides are numbers of pixels that are inside.

    Raises:
        Rejected: they leave nothing inside.
    """
    corners = (left - first, top - first, right, bottom)
    if not (corners[0] < right and corners[1] < bottom):
        raise Rejected(f"has a box without an inside: {', '.join(map(str, corners))}", _REMEDY)
    return corners


def polygon(corners: Box) -> list[list[float]]:
    """The box as a segment that `segments` draws."""
    left, top, right, bottom = corners
    return [[left, top, right, top, right, bottom, left, bottom]]


def drawn(boxes: Sequence[Box], height: int, width: int) -> np.ndarray:
    """The mask of boxes in an image of this size.

    Raises:
        Rejected: a box lies outside, is none of pixels, or no pixel's centre lies in one.
    """
    coordinates.require_pixels((side for corners in boxes for side in corners), height, width)
    mask = np.zeros((height, width), bool)
    for corners in boxes:
        segments.check(polygon(corners), height, width)
        segments.draw(polygon(corners), mask)
    if not mask.any():
        raise Rejected("has boxes that cover no pixel", _REMEDY)
    return mask


@dataclass(frozen=True)
class GivenBoxes:
    """Boxes and classes that a table names.

    Attributes:
        size: height and width that were annotated; None where they are not told.
    """

    boxes: tuple[Box, ...]
    labels: tuple[str, ...]
    size: tuple[int, int] | None = None

    @property
    def files(self) -> tuple[Path, ...]:
        return ()

    def read(self, height: int, width: int, contents: Contents) -> Annotated:
        if self.size is not None:
            coordinates.require_size(self.size, height, width)
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
        with blamed(self.path):
            size, objects = _parsed(contents.read(self.path))
        if size is not None:
            coordinates.require_size(size, height, width)
        with blamed(self.path):
            return self._drawn(objects, height, width)

    def _drawn(self, objects: list[tuple[str, Box]], height: int, width: int) -> Annotated | None:
        found: dict[str, list[Box]] = defaultdict(list)
        for name, corners in objects:
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


def _parsed(data: bytes) -> tuple[tuple[int, int] | None, list[tuple[str, Box]]]:
    """Height and width that were annotated, None where they are not told, and the objects."""
    try:
        root = ElementTree.fromstring(data)
    except (ElementTree.ParseError, ValueError, LookupError) as error:
        raise Rejected(f"is not XML ({error})", "Save the annotation again") from error
    found = []
    for entry in root.iter("object"):
        for part in ("name", "bndbox"):
            if len(entry.findall(part)) > 1:
                raise Rejected(f"has an object with two of {part}", "Keep one, or part the object")
        given = [entry.findtext(f"bndbox/{side}") for side in ("xmin", "ymin", "xmax", "ymax")]
        sides = coordinates.numbers(given, coordinates.of_text, "box")
        name = normal((entry.findtext("name") or "").strip())
        found.append((name, box(*sides, first=1)))
    return _size(root), found


def _size(root: ElementTree.Element) -> tuple[int, int] | None:
    """Height and width; tools write 0 where they do not know them."""
    given = [root.findtext(f"size/{side}") for side in ("height", "width")]
    if not any(given):
        return None
    height, width = map(int, coordinates.numbers(given, coordinates.of_text, "size"))
    return (height, width) if height and width else None
