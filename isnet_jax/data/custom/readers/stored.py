"""How picture files store shades, where decoding hides it."""

from typing import Any, Final, NamedTuple

import numpy as np

from isnet_jax.data.custom.readers.samples import Rejected

WIDE_GREY: Final = ("I;16", "I;16L", "I;16B", "I;16N", "I")
_PNG_DEPTH: Final = 24  # place of the byte in the file
_DEPTH, _COMPRESSION, _PHOTOMETRIC, _SAMPLE_FORMAT = 258, 259, 262, 339  # TIFF's tags
_LOSSY: Final = frozenset((6, 7, 34712, 34887, 50001, 50002))  # JPEG, JPEG 2000, LERC, WebP, JXL
_SIGNED: Final = 2


class Stored(NamedTuple):
    """What decoding hides.

    Attributes:
        white_is_zero: 0 is white.
        highest: the number of the lightest shade; None if it is that of the decoded type.
        shown: what decoding makes of the highest.
        lossy: compression may have changed the numbers.
        renumbered: it is of a kind whose programs number colours anew.
        colours: entries of the palette.
        deep: of a picture of 16 bits a channel, in colour or with alpha, all bits: uint16 (h, w),
            or (h, w, 3) in colour.
    """

    white_is_zero: bool = False
    highest: int | None = None
    shown: int | None = None
    lossy: bool = False
    renumbered: bool = False
    colours: int = 0
    deep: np.ndarray | None = None


def stored(picture: Any, data: bytes) -> Stored:
    """Of a picture of Pillow's that is not decoded yet, and of its file's bytes."""
    if picture.mode == "P":
        renumbered = picture.format == "GIF"
        return Stored(
            lossy=_lossy(picture), renumbered=renumbered, colours=_colours(picture.palette)
        )
    if picture.format == "TIFF":
        depth = picture.tag_v2.get(_DEPTH, (1,))[0]
        grey = picture.mode in ("1", "L", *WIDE_GREY)
        white_is_zero = grey and picture.tag_v2.get(_PHOTOMETRIC) == 0
        return Stored(white_is_zero, *_stretched(depth), lossy=_lossy(picture))
    if picture.format == "PNG" and picture.mode == "L":
        return Stored(False, *_stretched(data[_PNG_DEPTH]))
    if picture.format == "PPM" and picture.mode != "1":
        decoder, *_, arguments = picture.tile[0]
        if decoder.startswith("ppm"):
            return Stored(False, arguments[-1], 255 if picture.mode == "L" else 65535)
    return Stored(lossy=_lossy(picture))


def require_unsigned(picture: Any) -> None:
    """Raises `Rejected` for shades of 8 bits below 0, which Pillow takes for others."""
    if picture.format == "TIFF" and picture.mode == "L":
        signed = _SIGNED in picture.tag_v2.get(_SAMPLE_FORMAT, ())
        if signed and picture.getextrema()[1] > 127:
            raise Rejected("holds values below 0, expected 0 to 255", "Save it as 8-bit grey")


def _stretched(depth: int) -> tuple[int, int] | tuple[None, None]:
    """The highest shade of so many bits, and what it is decoded to."""
    highest = 2**depth - 1
    if 1 < depth < 8:
        return highest, 255
    return (highest, highest) if 8 < depth < 16 else (None, None)


def _lossy(picture: Any) -> bool:
    if picture.format == "TIFF":
        return picture.tag_v2.get(_COMPRESSION) in _LOSSY
    return picture.format in ("JPEG", "MPO")


def _colours(palette: Any) -> int:
    if palette is None:
        return 0
    kind, entries = palette.getdata()
    return len(entries) // (4 if kind in ("BGRX", "BGRA", "RGBX", "RGBA") else 3)
