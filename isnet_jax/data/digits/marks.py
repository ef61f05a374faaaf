"""Foreground masks, and the background mark that tempts a classifier to look away from them."""

import itertools
from dataclasses import dataclass
from typing import Final, Literal, TypeVar, get_args

import numpy as np
from jaxtyping import Bool, Float64, UInt8
from scipy import ndimage

from isnet_jax.errors import UserError, suggest

MarkKind = Literal["coloured-position", "position", "shape", "colour"]
Image = TypeVar("Image", bound=np.ndarray)

# What of a mark depends on the class.
_TRAITS: Final[dict[MarkKind, tuple[str, ...]]] = {
    "coloured-position": ("colour", "position"),
    "position": ("position",),
    "shape": ("shape",),
    "colour": ("colour",),
}

# Patterns of 3 x 3 cells, row by row, enlarged to the size of the mark.
_GLYPHS: Final = tuple(
    np.array([[cell == "1" for cell in row] for row in glyph.split()])
    for glyph in (
        "111 111 111",
        "111 101 111",
        "010 111 010",
        "101 010 101",
        "111 000 111",
        "101 101 101",
        "100 010 001",
        "001 010 100",
        "111 010 010",
        "100 100 111",
        "000 111 000",
        "010 010 010",
    )
)


@dataclass(frozen=True)
class BackgroundMark:
    """A small square mark on the background that encodes a class.

    Attributes:
        kind: what tells the class. "position": a white square at the class's own place along
            the border; "shape": a white glyph at a random place (up to 12 classes);
            "colour": a coloured square at a random place (up to 19 classes);
            "coloured-position": a square of the class's colour at the class's place, the
            shortcut that plain networks fall for most.
        size: side of the mark in pixels, at least 1, and at least 3 for shapes.
        intensity: brightness of the mark's brightest channel, above 0 and up to 1 (white).
        strength: probability that the mark of a training image is its own class's, 0 to 1;
            otherwise it is that of another class, uniformly random.

    Raises:
        UserError: a value out of its range.
    """

    kind: MarkKind = "coloured-position"
    size: int = 3
    intensity: float = 1.0
    strength: float = 1.0

    def __post_init__(self) -> None:
        if self.kind not in get_args(MarkKind):
            raise UserError(suggest(self.kind, get_args(MarkKind), what="kind of mark"))
        smallest = 3 if self.kind == "shape" else 1
        if self.size < smallest:
            raise UserError(
                f"the size of a {self.kind} mark is {self.size} pixels, but must be at least "
                f"{smallest}. Make it larger."
            )
        if not 0 < self.intensity <= 1:
            raise UserError(
                f"the mark's intensity is {self.intensity}, but must be above 0 and at most 1, "
                "the pixel range of the images."
            )
        if not 0 <= self.strength <= 1:
            raise UserError(
                f"the mark's strength is {self.strength}, but it is a probability: give a number "
                "from 0 to 1, where 1 ties every training image's mark to its class."
            )

    def check(self, num_classes: int, height: int, width: int) -> None:
        """Makes sure that every class can have a mark of its own on images of this size.

        Raises:
            UserError: too many classes for the kind or for the border, fewer than two classes, or
                a mark larger than the image.
        """
        if num_classes < 2:
            raise UserError(f"marks tell classes apart, but there is {num_classes} class only.")
        if self.size > min(height, width):
            raise UserError(
                f"a mark of {self.size} x {self.size} pixels does not fit on an image of "
                f"{height} x {width}. Make it smaller."
            )
        rooms = {
            "position": 2 * (height + width - 2 * self.size) // self.size,
            "shape": len(_GLYPHS),
            "colour": len(_COLOURS),
        }
        room = min(rooms[trait] for trait in _TRAITS[self.kind])
        if num_classes > room:
            raise UserError(
                f"{num_classes} classes, but marks of kind {self.kind!r} and size {self.size} can "
                f"tell only {room} apart on images of {height} x {width}. Choose another kind"
                + (" or a smaller size." if room == rooms["position"] else ".")
            )


def foreground_mask(image: UInt8[np.ndarray, "h w"], dilation: int = 0) -> Bool[np.ndarray, "h w"]:
    """The object on a black background: every pixel above 0, and the holes it encloses.

    Args:
        image: grey image.
        dilation: rim added around the object, in pixels (also diagonally), at least 0.
    """
    mask = ndimage.binary_fill_holes(image > 0)
    assert mask is not None
    return grown(mask, dilation)


def grown(mask: Bool[np.ndarray, "h w"], dilation: int) -> Bool[np.ndarray, "h w"]:
    """The mask with a rim of this many pixels around it."""
    if dilation < 0:
        raise UserError(f"the mask's dilation is {dilation}, but it must be 0 or more pixels.")
    if dilation == 0:
        return mask
    return ndimage.binary_dilation(mask, np.ones((3, 3), dtype=bool), iterations=dilation)


def paint(
    mark: BackgroundMark,
    image: Image,
    mask: Bool[np.ndarray, "h w"],
    code: int,
    num_classes: int,
    rng: np.random.Generator,
) -> Image:
    """A copy of the image with the mark of class ``code`` on its background.

    Shapes and colours go to a random place free of foreground; where there is none, to the place
    with the least foreground. Where the kind names the position, the class fixes the place. The
    part of a mark that would lie on the foreground is left out: foreground pixels never change.

    Args:
        mark: what to paint.
        image: (h, w, 3), uint8 from 0 to 255 or floating point from 0 to 1.
        mask: True on the foreground, dilated already if it should be.
        code: the class to encode, 0 to ``num_classes - 1``.
        num_classes: number of classes that marks must tell apart.
        rng: draws the place, where the class does not fix it.

    Raises:
        UserError: the class cannot be encoded (see ``BackgroundMark.check``), or the foreground
            leaves no pixel to the mark.
    """
    height, width = mask.shape
    mark.check(num_classes, height, width)
    if not 0 <= code < num_classes:
        raise UserError(f"class {code} has no mark: give a class from 0 to {num_classes - 1}.")
    if "position" in _TRAITS[mark.kind]:
        top, left = _slot(code, num_classes, height - mark.size, width - mark.size)
    else:
        top, left = _free_place(mask, mark.size, rng)
    window = np.s_[top : top + mark.size, left : left + mark.size]
    visible = _pattern(mark, code) & ~mask[window]
    if not visible.any():
        raise UserError(
            f"the foreground leaves no background to a mark of {mark.size} x {mark.size} pixels: "
            f"it covers {mask.mean():.0%} of the image. Lower the mask's dilation, use a larger "
            "canvas, or choose another kind of mark."
        )
    colour = mark.intensity * (_COLOURS[code] if "colour" in _TRAITS[mark.kind] else np.ones(3))
    if np.issubdtype(image.dtype, np.integer):
        colour = np.rint(255 * colour)
    marked = image.copy()
    marked[window][visible] = colour.astype(image.dtype)
    return marked


def biased_code(
    mark: BackgroundMark, label: int, num_classes: int, rng: np.random.Generator
) -> int:
    """The class whose mark a biased image gets: its own with probability ``mark.strength``."""
    own = rng.random() < mark.strength
    return label if own else confounding_code(label, num_classes, rng)


def confounding_code(label: int, num_classes: int, rng: np.random.Generator) -> int:
    """A uniformly random class other than ``label``."""
    return (label + int(rng.integers(1, num_classes))) % num_classes


def _pattern(mark: BackgroundMark, code: int) -> Bool[np.ndarray, "size size"]:
    if mark.kind != "shape":
        return np.ones((mark.size, mark.size), dtype=bool)
    cells = np.arange(mark.size) * 3 // mark.size
    return _GLYPHS[code][np.ix_(cells, cells)]


def _slot(code: int, num_classes: int, bottom: int, right: int) -> tuple[int, int]:
    """Top left corner of a class's place: equal steps clockwise along the border."""
    along = code * 2 * (bottom + right) // num_classes
    if along < right:
        return 0, along
    along -= right
    if along < bottom:
        return along, right
    along -= bottom
    if along < right:
        return bottom, right - along
    return bottom - (along - right), 0


def _free_place(
    mask: Bool[np.ndarray, "h w"], size: int, rng: np.random.Generator
) -> tuple[int, int]:
    sums = np.zeros((mask.shape[0] + 1, mask.shape[1] + 1), dtype=np.int64)
    sums[1:, 1:] = mask.cumsum(0).cumsum(1)
    covered = sums[size:, size:] - sums[:-size, size:] - sums[size:, :-size] + sums[:-size, :-size]
    places = np.argwhere(covered == covered.min())
    top, left = places[rng.integers(len(places))].tolist()
    return top, left


def _separated_colours() -> Float64[np.ndarray, "19 3"]:
    """Colours of full brightness: the first seven are 1 apart in RGB, ten 0.7, all of them 0.5."""
    grid = [c for c in itertools.product((1.0, 0.5, 0.0), repeat=3) if max(c) == 1.0]
    corners_centres_edges = (0, 2, 1)
    return np.array(sorted(grid, key=lambda c: corners_centres_edges.index(c.count(0.5))))


_COLOURS: Final = _separated_colours()
