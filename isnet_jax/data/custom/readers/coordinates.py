"""Coordinates in annotations: numbers, in pixels, of an image of a known size."""

import math
import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final

from isnet_jax.data.custom.readers.samples import Rejected

_DECIMAL: Final = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)
_COUNTS: Final = {2: "two", 4: "four"}
_SECOND_CENTRE: Final = 1.5  # of the second pixel; below it there is the first one only


def is_number(value: Any) -> bool:
    """Whether a value of JSON is a number, which texts, true and false are not."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def of_json(value: Any) -> float:
    """A number of JSON; NaN for all else, and for what no float can hold."""
    try:
        return float(value) if is_number(value) else math.nan
    except OverflowError:
        return math.nan


def of_text(text: str | None) -> float:
    """A number as tables and XML write it; NaN for all else."""
    stripped = (text or "").strip()
    return float(stripped) if _DECIMAL.fullmatch(stripped) else math.nan


def numbers(given: Sequence[Any], read: Callable[[Any], float], what: str) -> list[float]:
    """Two or four numbers.

    Args:
        given: as the file has them.
        read: `of_json` or `of_text`.
        what: they are, such as "box".

    Raises:
        Rejected: some are none, or not finite.
    """
    found = [read(value) for value in given]
    if not all(map(math.isfinite, found)):
        shown = ", ".join(map(_short, given))
        raise Rejected(
            f"has the {what} {shown}, expected {_COUNTS[len(found)]} numbers", f"Correct its {what}"
        )
    return found


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 20 else f"{text[:17]}..."


def require_pixels(coordinates: Iterable[float], height: int, width: int) -> None:
    """Raises `Rejected` for coordinates that reach no pixel but the first: shares of the image."""
    highest = max(coordinates, default=math.inf)
    if highest < _SECOND_CENTRE < max(height, width):
        raise Rejected(
            f"has coordinates of at most {highest:g}, as shares of the image are; expected pixels",
            "Multiply them by the image's width and height",
        )


def require_size(annotated: tuple[int, int], height: int, width: int) -> None:
    """Raises `Rejected` unless the image has the height and width that were annotated."""
    if (height, width) != annotated:
        raise Rejected(
            f"is {width} x {height} pixels, but its annotations are for {annotated[1]} x "
            f"{annotated[0]}",
            "Use the images that were annotated, in their size",
        )
