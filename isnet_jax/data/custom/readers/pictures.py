"""Decoding of image and mask files: what they hold, or why they cannot be used."""

import io
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from jaxtyping import Bool, Shaped
from PIL import Image, ImageOps

from isnet_jax.data.custom.readers import deep, dicom, jpeg, png
from isnet_jax.data.custom.readers.samples import (
    Annotated,
    Contents,
    Problem,
    Rejected,
    blamed,
    first_line,
)
from isnet_jax.data.custom.readers.stored import WIDE_GREY, Stored, require_unsigned, stored
from isnet_jax.data.formats import FORMATS
from isnet_jax.errors import UserError

MAX_PIXELS: Final = 89_000_000
SUFFIXES: Final = frozenset(
    (
        ".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".gif", ".webp", ".ppm", ".pgm", ".pbm",
        ".mpo", ".dcm", ".dicom",
    )
)  # fmt: skip
CONVERT: Final = "Convert it to PNG or JPEG"
# Pictures that cameras and programs write and that are not read here.
FOREIGN: Final = frozenset(
    (
        ".heic", ".heif", ".avif", ".jp2", ".j2k", ".jxl", ".psd", ".svg", ".eps", ".pdf", ".exr",
        ".raw", ".dng", ".cr2", ".cr3", ".nef", ".arw", ".orf", ".rw2", ".raf", ".nii", ".npy",
    )
)  # fmt: skip
_ORIENTATION: Final = 0x0112  # EXIF's tag
_SUBFILE: Final = 254  # TIFF's tag
_MOST_COPIES: Final = 32
_EIGHT_BIT_GREY: Final = ("1", "L", "LA")


@dataclass(frozen=True)
class PixelRules:
    """How values in files are understood.

    Attributes:
        mask_threshold: mask values from this one on are foreground, 1 to 255 (to 65,535 in 16-bit
            masks). Left out, a mask may hold 0 and one other value only.
        white: the value of white in images of 16 bits, such as 4095 where they hold 12 bits of
            data; 65,535 if left out. Not for DICOM and TIFF of 12 bits, which say it themselves.

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
        with blamed(self.path):
            values = decode_values(contents.read(self.path))
            require_size(values, height, width)
            return Annotated(binary(values, self.rules.mask_threshold), self.labels)


def no_picture(path: Path, place: str) -> Problem:
    """What is wrong with a file whose suffix is none of `SUFFIXES`."""
    suffix = path.suffix.lower()
    remedy = CONVERT if suffix in FOREIGN else "Remove or rename it"
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
        uint8 (h, w) or (h, w, 3), or uint16 (h, w) for grey images of more than 8 bits, also where
        they are stored in colour or with alpha.

    Raises:
        Rejected: it is not a picture that can be used.
        UserError: it is DICOM and pydicom is not installed.
    """
    if suffix.lower() in (".dcm", ".dicom") or dicom.is_dicom(data):
        return dicom.decode(data, MAX_PIXELS)
    picture, hidden = _open(data)
    if hidden.deep is not None:
        return _wide(hidden.deep, rules.white, hidden)
    picture = _opaque(picture, hidden)
    if picture.mode in WIDE_GREY:
        return _wide(np.asarray(picture), rules.white, hidden)
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
    picture, hidden = _open(data)
    if hidden.deep is not None:
        return _grey(hidden.deep)
    picture = _opaque(picture, hidden)
    if picture.mode in WIDE_GREY:
        values = np.asarray(picture)
        return (hidden.shown or 65535) - values if hidden.white_is_zero else values
    if picture.mode in _EIGHT_BIT_GREY:
        return np.asarray(picture.convert("L"))
    if picture.mode not in ("P", "RGB"):
        raise Rejected(f"is a mask of the kind {picture.mode!r}", "Save it as black and white PNG")
    return _grey(np.asarray(picture.convert("RGB")))


def _grey(values: Shaped[np.ndarray, "h w ..."]) -> Shaped[np.ndarray, "h w"]:
    if values.ndim == 2:
        return values
    if (values != values[..., :1]).any():
        raise Rejected(
            "is a mask with colours",
            "Save it in black and white; where colours number classes, use `isnet-jax prepare voc`",
        )
    return values[..., 0]


def decode_numbers(data: bytes) -> Shaped[np.ndarray, "h w"]:
    """The numbers of a mask whose colours are a palette, as VOC's, or that is grey.

    Raises:
        Rejected: it cannot be read, or has no numbers.
    """
    picture, hidden = _open(data)
    if hidden.lossy:
        raise Rejected(
            "is compressed with losses, which makes other numbers of those that were drawn",
            "Save the numbers anew, as PNG",
        )
    if picture.mode not in ("P", "1", "L", *WIDE_GREY) or hidden.white_is_zero:
        found = "grey with 0 as white" if hidden.white_is_zero else f"of the kind {picture.mode!r}"
        raise Rejected(
            f"is {found}, expected a palette or grey image of numbers",
            "Save the mask with its palette",
        )
    if hidden.renumbered:
        raise Rejected(
            "is a GIF, in which programs number colours anew", "Save the numbers anew, as PNG"
        )
    numbers = np.asarray(picture)
    if picture.mode == "P":
        _require_colours(picture, numbers)
    if picture.mode == "1":
        return numbers.astype(np.uint8)
    if hidden.highest is None or hidden.shown is None:
        return numbers
    return np.rint(numbers * (hidden.highest / hidden.shown)).astype(numbers.dtype)


def _require_colours(picture: Image.Image, numbers: Shaped[np.ndarray, "h w"]) -> None:
    """Raises `Rejected` for a palette of greys that are other numbers than those of the palette."""
    used = np.unique(numbers)
    colours = np.array(picture.getpalette("RGB")).reshape(-1, 3)
    shades = colours[used[used < len(colours)]]
    grey, numbered = (shades == shades[:, :1]).all(), (shades[:, 0] == used[: len(shades)]).all()
    if grey and not numbered and not np.isin(shades[:, 0], (0, 255)).all():
        raise Rejected(
            "shows greys that are other numbers than its palette's: "
            f"{', '.join(map(str, shades[:5, 0]))} for {', '.join(map(str, used[:5]))}",
            "Save the numbers in grey, or with a palette of colours",
        )


def binary(values: Shaped[np.ndarray, "h w"], threshold: int | None) -> Bool[np.ndarray, "h w"]:
    """The foreground of a mask.

    With a threshold, foreground is what reaches it; one of 8 bits, but for 1, is none of values
    with more. Without, it is every pixel above 0, and all of them must have the same value.

    Raises:
        Rejected: there are several values above 0, or no foreground, or it is of other values.
    """
    if threshold is not None:
        if 1 < threshold <= 255 < values.max():
            raise Rejected(
                f"is a mask of more than 8 bits, with values up to {values.max():,}, and the "
                f"threshold is {threshold}",
                "Save it with 8 bits as the others are, or give a threshold for its values "
                "(--mask-threshold)",
            )
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


def _open(data: bytes) -> tuple[Image.Image, Stored]:
    """A decoded picture of one frame, upright; of a photograph with previews the photograph."""
    if data[4:8] == b"ftyp":
        raise Rejected("is a HEIC, AVIF or film file", CONVERT)
    if dicom.is_dicom(data):
        raise Rejected("is DICOM, which is read as an image and not as a mask", "Save it as PNG")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            picture = Image.open(io.BytesIO(data), formats=FORMATS)
            _require_sane(picture)
            if picture.format == "PNG":
                png.require_whole(data)
            if picture.format in ("JPEG", "MPO"):
                jpeg.require_end(data)
            deep.require_together(picture)
            hidden = stored(picture, data)
            channels = deep.channels(picture, data)
            picture.load()
            require_unsigned(picture)
            if channels is not None:
                hidden = hidden._replace(deep=deep.opaque(channels, picture))
            if picture.mode == "La":
                picture = picture.convert("LA")
            return ImageOps.exif_transpose(picture), hidden
    except Rejected:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise _too_large() from error
    except Exception as error:
        # Pillow's decoders raise nearly everything on damaged files.
        raise Rejected(
            f"cannot be decoded ({first_line(error)})",
            "Copy it again, or save it as PNG or JPEG",
        ) from error


def is_turned(path: Path) -> bool:
    """Whether a picture's file holds it turned or mirrored, and says so."""
    try:
        with warnings.catch_warnings(), Image.open(path, formats=FORMATS) as picture:
            warnings.simplefilter("ignore")
            return picture.getexif().get(_ORIENTATION, 1) in range(2, 9)
    except Exception:
        # Of what is no picture, such as DICOM; and decoders raise nearly everything.
        return False


def _require_sane(picture: Any) -> None:
    width, height = picture.size
    if width * height > MAX_PIXELS:
        raise _too_large(f"{width} x {height} pixels")
    if width < 1 or height < 1:
        raise Rejected("has no pixels", "Copy it again")
    # Cameras and phones put previews, depth and gain maps behind the photograph (MPO).
    frames = 1 if picture.format == "MPO" else getattr(picture, "n_frames", 1)
    if frames > 1 and not (picture.format == "TIFF" and _are_smaller_copies(picture, frames)):
        raise Rejected(f"holds {frames} pictures", "Save one picture a file")
    if picture.format == "GIF" and picture.tile[0].extents != (0, 0, width, height):
        raise Rejected("has parts without a colour: its frame leaves them out", "Save it as PNG")


def _are_smaller_copies(picture: Any, frames: int) -> bool:
    """Whether all pictures of a TIFF but the first are it in less resolution, as viewers need."""
    if frames > _MOST_COPIES:
        return False
    reduced = []
    for number in range(frames):
        picture.seek(number)
        reduced.append(bool(picture.tag_v2.get(_SUBFILE, 0) & 1))
    picture.seek(0)
    return not reduced[0] and all(reduced[1:])


def _too_large(size: str = "too many pixels") -> Rejected:
    return Rejected(f"has {size}; at most {MAX_PIXELS:,} are decoded", "Make it smaller")


def _opaque(picture: Image.Image, hidden: Stored) -> Image.Image:
    """The picture without its alpha channel.

    Raises:
        Rejected: parts of it are transparent or beyond the palette: they have no colour.
    """
    if picture.mode == "P" and np.asarray(picture).max() >= hidden.colours:
        raise Rejected(
            f"is damaged: its palette has {hidden.colours} colours, but pixels name more",
            "Save it as RGB",
        )
    if picture.mode in ("1", "L", *WIDE_GREY):
        _require_opaque_grey(picture, hidden)
    elif picture.has_transparency_data:
        low = picture.convert("RGBA").getchannel("A").getextrema()[0]
        if isinstance(low, int | float) and low < 255:
            raise deep.transparent()
        if picture.mode in ("RGBA", "P", "PA", "RGB"):
            return picture.convert("RGB")
    return picture


def _require_opaque_grey(picture: Image.Image, hidden: Stored) -> None:
    """Raises `Rejected` if the one shade that the file calls transparent is there."""
    key = picture.info.get("transparency")
    if isinstance(key, int):
        values = np.asarray(picture.convert("L") if picture.mode == "1" else picture)
        if hidden.highest is not None and hidden.shown is not None:
            key = key * hidden.shown // hidden.highest
        if (values == key).any():
            raise deep.transparent()


def _wide(
    values: Shaped[np.ndarray, "h w ..."], white: int | None, hidden: Stored
) -> Shaped[np.ndarray, "h w"] | Shaped[np.ndarray, "h w 3"]:
    """uint16 of grey values, and uint8 of colours, between black and what is white."""
    low, high = int(values.min()), int(values.max())
    limit = hidden.shown or white or 65535
    if low < 0 or high > limit:
        raise Rejected(
            f"holds values from {low:,} to {high:,}, expected 0 to {limit:,}",
            "Save it as 16-bit grey, or correct --white",
        )
    if values.ndim == 3:
        return np.rint(values * (255 / limit)).astype(np.uint8)
    shades = values.astype(np.float64) * (65535 / limit)
    return np.rint(65535 - shades if hidden.white_is_zero else shades).astype(np.uint16)
