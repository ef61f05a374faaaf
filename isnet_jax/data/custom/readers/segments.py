"""COCO's encodings of a segment: polygons and run lengths."""

from collections.abc import Iterable
from typing import Any, Final

import numpy as np
from jaxtyping import Bool, Float64

from isnet_jax.data.custom.readers import coordinates
from isnet_jax.data.custom.readers.samples import Rejected

# Annotation tools place corners on the border, and round.
_MARGIN: Final = 1.0
_CROSSINGS: Final = 1 << 16
_REMEDY: Final = "Correct its segmentation"


def check(segmentation: Any, height: int, width: int) -> None:
    """Whether a segment can be drawn.

    Args:
        segmentation: a list of polygons [x1, y1, x2, y2, ...], or run lengths {"counts", "size"}.
        height, width: of its image.

    Raises:
        Rejected: it is neither, or does not fit the image.
    """
    if isinstance(segmentation, dict):
        _runs(segmentation, height, width)
        return
    if not isinstance(segmentation, list) or not segmentation:
        remedy = f"{_REMEDY}, or draw masks from the boxes: --boxes"
        raise Rejected("has a segment that is neither polygons nor run lengths", remedy)
    for polygon in segmentation:
        _require_polygon(polygon, height, width)


def require_pixels(segmentations: Iterable[Any], height: int, width: int) -> None:
    """Raises `Rejected` where all polygons of an image are in shares of it; `check` has passed."""
    shapes = list(segmentations)
    if not any(isinstance(shape, dict) for shape in shapes):
        corners = (value for shape in shapes for polygon in shape for value in polygon)
        coordinates.require_pixels(corners, height, width)


def draw(segmentation: Any, mask: Bool[np.ndarray, "h w"]) -> None:
    """Set the pixels of a segment that `check` has passed: those whose centre is inside."""
    height, width = mask.shape
    if isinstance(segmentation, dict):
        ends = np.cumsum(_runs(segmentation, height, width))
        for start, end in zip(ends[::2], ends[1::2], strict=False):
            _set_run(mask, int(start), int(end))
        return
    for polygon in segmentation:
        _fill(np.array(polygon, np.float64), mask)


def _set_run(mask: Bool[np.ndarray, "h w"], start: int, end: int) -> None:
    """The pixels from start to before end, counted column by column."""
    height = len(mask)
    (first, top), (last, bottom) = divmod(start, height), divmod(end, height)
    if first == last:
        mask[top:bottom, first] = True
        return
    mask[top:, first] = True
    mask[:, first + 1 : last] = True
    if bottom:
        mask[:bottom, last] = True


def _fill(polygon: Float64[np.ndarray, " coordinates"], mask: Bool[np.ndarray, "h w"]) -> None:
    """Even-odd filling: along a row of centres, every edge that is crossed changes the side."""
    height, width = mask.shape
    x, y = polygon[::2], polygon[1::2]
    (left, top), (right, bottom) = (
        np.clip((side(x), side(y)), 0, (width, height)).astype(int) for side in (_low, _high)
    )
    edges = np.stack([x, y, np.roll(x, -1), np.roll(y, -1)], axis=1)
    changes = np.zeros((bottom - top, right - left + 1), np.uint8)
    step = max(width, _CROSSINGS // max(1, bottom - top))
    for start in range(0, len(edges), step):  # Crossings are few, or as many as there are pixels.
        x0, y0, x1, y1 = edges[start : start + step].T
        first_row, end_row = (
            np.clip(np.ceil(side(y0, y1) - 0.5), top, bottom).astype(int)
            for side in (np.minimum, np.maximum)
        )
        counts = end_row - first_row
        edge = np.repeat(np.arange(len(counts)), counts)
        before = np.cumsum(counts) - counts
        row = np.arange(len(edge)) - before[edge] + first_row[edge]
        slope = (x1[edge] - x0[edge]) / (y1[edge] - y0[edge])
        crossing = x0[edge] + (row + 0.5 - y0[edge]) * slope
        first = np.clip(np.ceil(crossing - 0.5), left, right).astype(int) - left
        np.add.at(changes, (row - top, first), 1)
    np.cumsum(changes, axis=1, dtype=np.uint8, out=changes)
    mask[top:bottom, left:right] |= (changes[:, :-1] & 1).view(bool)


def _low(values: np.ndarray) -> float:
    return np.floor(values.min())


def _high(values: np.ndarray) -> float:
    return np.ceil(values.max())


def _require_polygon(polygon: Any, height: int, width: int) -> None:
    numbers = isinstance(polygon, list) and all(map(coordinates.is_number, polygon))
    if not numbers or len(polygon) < 6 or len(polygon) % 2:
        raise Rejected("has a polygon that is not a list of three or more points x, y", _REMEDY)
    for values, limit, axis in ((polygon[::2], width, "x"), (polygon[1::2], height, "y")):
        bad = [v for v in values if not -_MARGIN <= v <= limit + _MARGIN]
        if bad:
            place = f"{axis} = {str(bad[0])[:20]}"
            raise Rejected(
                f"has a polygon with {place}, outside of its image of {width} x {height}", _REMEDY
            )


def _runs(segmentation: dict[str, Any], height: int, width: int) -> list[int]:
    """Lengths of the runs, alternately background and foreground, column by column."""
    counts, size = segmentation.get("counts"), segmentation.get("size")
    if size != [height, width]:
        raise Rejected(
            f"has run lengths for the size {str(size)[:40]}, but its image is [{height}, {width}]",
            _REMEDY,
        )
    if isinstance(counts, str):
        counts = _uncompressed(counts, height * width)
    runs = counts if isinstance(counts, list) else []
    valid = all(type(run) is int and run >= 0 for run in runs)
    if not valid or sum(runs) != height * width:
        raise Rejected(f"has run lengths that do not add up to {height} x {width}", _REMEDY)
    return runs


def _uncompressed(text: str, pixels: int) -> list[int]:
    """Run lengths from COCO's string: 5 bits a character, from the fourth on as differences.

    Characters are 48 plus: bit 5, more characters follow; bits 4 to 0, the next bits of the number
    from the low end, the highest of the last ones being the sign.
    """
    counts: list[int] = []
    value = shift = 0
    for character in text:
        code = ord(character) - 48
        if not 0 <= code < 64 or shift > 40:
            raise Rejected("has run lengths in an unknown encoding", _REMEDY)
        value |= (code & 31) << shift
        shift += 5
        if code & 32:
            continue
        if code & 16:
            value -= 1 << shift
        if len(counts) > 2:
            value += counts[-2]
        if not 0 <= value <= pixels:
            raise Rejected("has run lengths that do not fit its image", _REMEDY)
        counts.append(value)
        value = shift = 0
    if shift:
        raise Rejected("has run lengths that break off", _REMEDY)
    return counts
