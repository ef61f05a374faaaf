"""Decoding of image and mask files: what they hold, or why they cannot be used."""

import io
import warnings
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
from jaxtyping import Bool, Shaped
from PIL import Image, ImageOps

from isnet_jax.data.custom.readers import dicom
from isnet_jax.data.custom.readers.samples import Annotated, Contents, Problem, Rejected
from isnet_jax.data.formats import FORMATS
from isnet_jax.errors import UserError

MAX_PIXELS: Final = 89_000_000
SUFFIXES: Final = frozenset(
    (
        ".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".gif", ".webp", ".ppm", ".pgm", ".pbm",
        ".mpo", ".dcm", ".dicom",
    )
)  # fmt: skip
_PNG_DEPTH: Final = 24  # place of the byte in the file
_TIFF_DEPTH, _TIFF_PHOTOMETRIC = 258, 262  # tags
CONVERT: Final = "Convert it to PNG or JPEG"
# Pictures that cameras and programs write and that are not read here.
_FOREIGN: Final = frozenset(
    (
        ".heic", ".heif", ".avif", ".jp2", ".j2k", ".jxl", ".psd", ".svg", ".eps", ".pdf", ".exr",
        ".raw", ".dng", ".cr2", ".cr3", ".nef", ".arw", ".orf", ".rw2", ".raf", ".nii", ".npy",
    )
)  # fmt: skip
_PNG_SIGNATURE: Final = b"\x89PNG\r\n\x1a\n"
_EIGHT_BIT_GREY: Final = ("1", "L", "LA")
_WIDE_GREY: Final = ("I;16", "I;16L", "I;16B", "I;16N", "I")


@dataclass(frozen=True)
class PixelRules:
    """How values in files are understood.

    Attributes:
        mask_threshold: mask values from this one on are foreground, 1 to 255 (to 65,535 in 16-bit
            masks). Left out, a mask may hold 0 and one other value only.
        white: the value of white in 16-bit grey images, such as 4095 where they hold 12 bits of
            data; 65,535 if left out. Not for DICOM, which says it itself.

    Raises:
        UserError: a value out of its range.
    """

    mask_threshold: int | None = None
    white: int | None = None

    def __post_init__(self) -> None:
        if self.mask_threshold is not None and not 1 <= self.mask_threshold <= 65535:
            raise UserError(
                f"mask_threshold is {self.mask_threshold}, but must be from 1 to 255, or to 65,535 "
                "for 16-bit masks."
            )
        if self.white is not None and not 256 <= self.white <= 65535:
            raise UserError(
                f"white is {self.white}, but must be from 256 to 65,535: it is the value of white "
                "in 16-bit images."
            )


@dataclass(frozen=True)
class MaskFile:
    """A mask as a picture of its own, and given classes.

    Attributes:
        path: the mask; None where there is none.
        labels: classes of the sample.
        rules: how the mask's values are understood.
    """

    path: Path | None
    labels: tuple[str, ...]
    rules: PixelRules

    @property
    def files(self) -> tuple[Path, ...]:
        return () if self.path is None else (self.path,)

    def read(self, height: int, width: int, contents: Contents) -> Annotated:
        if self.path is None:
            return Annotated(None, self.labels)
        try:
            values = decode_values(contents.read(self.path))
            require_size(values, height, width)
            return Annotated(binary(values, self.rules.mask_threshold), self.labels)
        except Rejected as error:
            raise Rejected(error.wrong, error.remedy, self.path) from error


def no_picture(path: Path, place: str) -> Problem:
    """What is wrong with a file whose suffix is none of `SUFFIXES`."""
    suffix = path.suffix.lower()
    remedy = CONVERT if suffix in _FOREIGN else "Remove or rename it"
    return Problem(place, f"is no image by its name (suffix {path.suffix!r})", remedy)


def decode_image(
    data: bytes, suffix: str, rules: PixelRules
) -> Shaped[np.ndarray, "h w"] | Shaped[np.ndarray, "h w 3"]:
    """Pixels of an image file; black is 0 and white the largest value of the type.

    Args:
        data: the file's bytes.
        suffix: of its name; DICOM files are told by it or by their content.
        rules: what is white in 16-bit images.

    Returns:
        uint8 (h, w) or (h, w, 3), or uint16 (h, w) for images of more than 8 bits.

    Raises:
        Rejected: it is not a picture that can be used.
        UserError: it is DICOM and pydicom is not installed.
    """
    if suffix.lower() in (".dcm", ".dicom") or data[128:132] == b"DICM":
        return dicom.decode(data, MAX_PIXELS)
    picture, stored = _open(data)
    if picture.mode in _WIDE_GREY:
        return _wide_grey(np.asarray(picture), rules.white, stored.white_is_zero)
    picture = _opaque(picture)
    if picture.mode in ("F", "LAB", "HSV"):
        raise Rejected(
            f"holds values of the kind {picture.mode!r}, whose black and white are not known",
            "Save it as grey or RGB",
        )
    return np.asarray(picture.convert("L" if picture.mode in _EIGHT_BIT_GREY else "RGB"))


def decode_values(data: bytes) -> Shaped[np.ndarray, "h w"]:
    """The grey values of a mask file.

    Raises:
        Rejected: it cannot be read, or has colours.
    """
    picture, stored = _open(data)
    if picture.mode in _WIDE_GREY:
        values = np.asarray(picture)
        return 65535 - values if stored.white_is_zero else values
    picture = _opaque(picture)
    if picture.mode in _EIGHT_BIT_GREY:
        return np.asarray(picture.convert("L"))
    if picture.mode not in ("P", "RGB"):
        raise Rejected(f"is a mask of the kind {picture.mode!r}", "Save it as black and white PNG")
    colours = np.asarray(picture.convert("RGB"))
    if (colours != colours[..., :1]).any():
        raise Rejected(
            "is a mask with colours",
            "Save it in black and white; where colours number classes, use `isnet-jax prepare voc`",
        )
    return colours[..., 0]


def decode_numbers(data: bytes) -> Shaped[np.ndarray, "h w"]:
    """The numbers of a mask whose colours are a palette, as VOC's, or that is grey.

    Raises:
        Rejected: it cannot be read, or has no numbers.
    """
    picture, stored = _open(data)
    if picture.mode not in ("P", "1", "L", *_WIDE_GREY) or stored.white_is_zero:
        found = "grey with 0 as white" if stored.white_is_zero else f"of the kind {picture.mode!r}"
        raise Rejected(
            f"is {found}, expected a palette or grey image of numbers",
            "Save the mask with its palette",
        )
    numbers = np.asarray(picture)
    if stored.highest is None or picture.mode == "P":
        return numbers.astype(np.uint8) if picture.mode == "1" else numbers
    # Pillow stretches shades of other depths to 8 or 16 bits.
    shown = 255 if picture.mode == "L" else 65535
    return np.rint(numbers * (stored.highest / shown)).astype(numbers.dtype)


def binary(values: Shaped[np.ndarray, "h w"], threshold: int | None) -> Bool[np.ndarray, "h w"]:
    """The foreground of a mask.

    With a threshold, foreground is what reaches it. Without, it is every pixel above 0, and all of
    them must have the same value.

    Raises:
        Rejected: there are several values above 0, or no foreground.
    """
    if threshold is not None:
        mask = values >= threshold
        if not mask.any():
            raise Rejected(
                f"is a mask without foreground: no value reaches the threshold {threshold}, the "
                f"highest is {values.max()}",
                "Draw the mask or lower --mask-threshold",
            )
        return mask
    highest = values.max()
    if not highest:
        raise Rejected(
            "is an empty mask: all its pixels are 0", "Draw the mask, or remove the sample"
        )
    grey = np.unique(values[(values != 0) & (values != highest)])
    if len(grey):
        shown = ", ".join(map(str, grey[:3])) + (" and more" if len(grey) > 3 else "")
        raise Rejected(
            f"is a mask with grey values: {shown} between 0 and {highest}",
            "Save it in black and white without smoothing, or say from which value on pixels are "
            "foreground: --mask-threshold 128",
        )
    return values > 0


def require_size(mask: np.ndarray, height: int, width: int) -> None:
    """Raises `Rejected` unless the mask has the image's size."""
    if mask.shape != (height, width):
        raise Rejected(
            f"is {mask.shape[1]} x {mask.shape[0]} pixels, but its image {width} x {height}",
            "Draw the mask on the image as it is, or resize it without interpolation",
        )


class _Stored(NamedTuple):
    """How a file stores shades, where decoding hides it.

    Attributes:
        white_is_zero: 0 is white.
        highest: the number of the lightest shade; None if it is that of the decoded type.
    """

    white_is_zero: bool
    highest: int | None


def _stored(picture: Any, data: bytes) -> _Stored:
    """Of a picture that is not decoded yet."""
    depth = 8
    if picture.format == "TIFF":
        depth = picture.tag_v2.get(_TIFF_DEPTH, (1,))[0]
        grey = picture.mode in ("1", "L", *_WIDE_GREY)
        white_is_zero = grey and picture.tag_v2.get(_TIFF_PHOTOMETRIC) == 0
        return _Stored(white_is_zero, 2**depth - 1 if 1 < depth < 8 else None)
    if picture.format == "PNG" and picture.mode == "L":
        depth = data[_PNG_DEPTH]
    if picture.format == "PPM" and picture.tile[0].codec_name.startswith("ppm"):
        return _Stored(False, picture.tile[0].args[-1])
    return _Stored(False, 2**depth - 1 if 1 < depth < 8 else None)


def _open(data: bytes) -> tuple[Image.Image, _Stored]:
    """A decoded picture of one frame, upright; of a photograph with previews the photograph."""
    if data[4:8] == b"ftyp":
        raise Rejected("is a HEIC, AVIF or film file", CONVERT)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            picture = Image.open(io.BytesIO(data), formats=FORMATS)
            _require_sane(picture)
            if picture.format == "PNG":
                _require_whole_png(data)
            stored = _stored(picture, data)
            picture.load()
            return ImageOps.exif_transpose(picture), stored
    except Rejected:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise _too_large() from error
    except Exception as error:
        # Pillow's decoders raise nearly everything on damaged files.
        raise Rejected(
            f"cannot be decoded ({_first_line(error)})",
            "Copy it again, or save it as PNG or JPEG",
        ) from error


def _require_sane(picture: Any) -> None:
    width, height = picture.size
    if width * height > MAX_PIXELS:
        raise _too_large(f"{width} x {height} pixels")
    if width < 1 or height < 1:
        raise Rejected("has no pixels", "Copy it again")
    # Cameras and phones put previews, depth and gain maps behind the photograph (MPO).
    if picture.format != "MPO" and getattr(picture, "n_frames", 1) > 1:
        raise Rejected(f"holds {picture.n_frames} pictures", "Save one picture a file")


def _require_whole_png(data: bytes) -> None:
    """Checks every chunk up to the end; Pillow ignores some checksums, among them the pixels'."""
    place, kind = len(_PNG_SIGNATURE), b""
    while kind != b"IEND":
        end = place + 8 + int.from_bytes(data[place : place + 4], "big")
        kind, checksum = data[place + 4 : place + 8], data[end : end + 4]
        if zlib.crc32(data[place + 4 : end]).to_bytes(4, "big") != checksum:
            raise Rejected("is a damaged or truncated PNG", "Copy it again")
        place = end + 4


def _too_large(size: str = "too many pixels") -> Rejected:
    return Rejected(f"has {size}; at most {MAX_PIXELS:,} are decoded", "Make it smaller")


def _opaque(picture: Image.Image) -> Image.Image:
    """The picture without its alpha channel.

    Raises:
        Rejected: parts of it are transparent: they have no colour of their own.
    """
    if picture.has_transparency_data:
        low = picture.convert("RGBA").getchannel("A").getextrema()[0]
        if isinstance(low, int | float) and low < 255:
            raise Rejected("has transparent parts", "Flatten it onto a background")
        if picture.mode in ("RGBA", "P", "PA", "RGB"):
            return picture.convert("RGB")
    return picture


def _wide_grey(
    values: np.ndarray, white: int | None, white_is_zero: bool
) -> Shaped[np.ndarray, "h w"]:
    low, high = int(values.min()), int(values.max())
    limit = 65535 if white is None else white
    if low < 0 or high > limit:
        raise Rejected(
            f"holds values from {low:,} to {high:,}, expected 0 to {limit:,}",
            "Save it as 16-bit grey, or correct --white",
        )
    shades = values.astype(np.float64) * (65535 / limit)
    return np.rint(65535 - shades if white_is_zero else shades).astype(np.uint16)


def _first_line(error: Exception) -> str:
    lines = str(error).splitlines()
    return lines[0][:120] if lines else type(error).__name__
