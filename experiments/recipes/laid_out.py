"""What the recipes share: downloads that are complete, pictures, tables for `prepare csv`."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Bool, UInt8

from isnet_jax.data import PixelRules
from isnet_jax.data.custom.readers.pictures import decode_image, decode_numbers, decode_values
from isnet_jax.data.custom.readers.samples import Rejected, read_regular, read_text
from isnet_jax.errors import UserError, printable
from isnet_jax.files import write_atomically
from isnet_jax.report.heatmaps import save_png


def require(root: Path, *inside: str) -> None:
    """Raises a `UserError` unless all of these are in the folder of a download."""
    absent = [name for name in inside if not (root / name).exists()]
    if absent:
        raise UserError(
            f"{printable(root)} lacks {', '.join(absent)}. Unpack the download there, as it is."
        )


def lines(path: Path, what: str) -> list[list[str]]:
    """The words of each line of a list, without empty lines and comments."""
    words = (line.split() for line in read_text(path, what).splitlines())
    return [line for line in words if line and not line[0].startswith("#")]


def colours(path: Path) -> UInt8[np.ndarray, "h w 3"]:
    """A photograph in RGB.

    Raises:
      UserError: it cannot be read.
    """
    pixels = _decoded(path, lambda data: decode_image(data, path.suffix, PixelRules()))
    if pixels.dtype == np.uint16:
        pixels = (pixels >> 8).astype(np.uint8)
    return pixels if pixels.ndim == 3 else np.repeat(pixels[..., None], 3, -1)


def numbers(path: Path) -> UInt8[np.ndarray, "h w"]:
    """The numbers of a mask, one for each kind of pixel.

    Raises:
      UserError: it cannot be read.
    """
    return _decoded(path, decode_numbers)


def grey(path: Path) -> UInt8[np.ndarray, "h w"]:
    """The shades of a mask.

    Raises:
      UserError: it cannot be read.
    """
    return _decoded(path, decode_values)


def write_mask(path: Path, mask: Bool[np.ndarray, "h w"]) -> None:
    save_png(mask.astype(np.uint8) * np.uint8(255), path)


def write_table(path: Path, rows: Sequence[dict[str, str]]) -> None:
    """A table of which every row has the first one's columns, and what to do with it."""
    if not rows:
        raise UserError(f"{printable(path.parent)} holds none of the images that were asked for.")
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_atomically(path, text.getvalue())
    print(f"{len(rows):,} images: isnet-jax prepare csv {printable(path)}")


def _decoded(path: Path, decode: Callable[[bytes], np.ndarray]) -> np.ndarray:
    try:
        return decode(read_regular(path))
    except Rejected as error:
        raise UserError(f"{printable(path)} {error.wrong}. {error.remedy}.") from error
