"""Pictures of 16 bits a channel, in colour or with alpha, of which Pillow decodes 8."""

import io
import sys
from typing import Any, Final

import numpy as np
from jaxtyping import UInt16
from PIL import Image, ImageOps

from isnet_jax.data.custom.readers.samples import Rejected
from isnet_jax.data.formats import FORMATS

_NATIVE, _OTHER = ("L", "B") if sys.byteorder == "little" else ("B", "L")
# By the order of the bytes, under which order Pillow takes the lower one for the higher one.
_LOWER: Final = {"L": "B", "B": "L", "N": _OTHER}
_GREY_ALPHA: Final = "LA;16B"
_PLANES, _DEPTH = 284, 258  # TIFF's tags
_APART: Final = 2


def require_together(picture: Any) -> None:
    """Raises `Rejected` for colours of 16 bits in planes, which Pillow takes for others."""
    if picture.format == "TIFF" and picture.tag_v2.get(_PLANES) == _APART:
        depths = picture.tag_v2.get(_DEPTH, (1,))
        if len(depths) > 1 and max(depths) > 8:
            raise Rejected(
                f"holds {max(depths)} bits for each colour, in separate planes",
                "Save it with its colours together, or as PNG",
            )


def channels(picture: Any, data: bytes) -> UInt16[np.ndarray, "h w c"] | None:
    """All bits of the channels, upright; None for a picture that is decoded whole.

    Args:
        picture: Pillow's, not decoded yet.
        data: its file's bytes.
    """
    found = {_mode(tile) for tile in picture.tile}
    if picture.mode not in ("RGB", "RGBA") or len(found) != 1:
        return None
    (mode,) = found
    if mode == _GREY_ALPHA:  # Four bytes a pixel, like four channels.
        pairs = _decoded(data, "RGBA").astype(np.uint16)
        return pairs[..., ::2] << 8 | pairs[..., 1::2]
    kind, _, order = mode.partition(";16")
    if order not in _LOWER:
        return None
    high, low = _decoded(data, mode), _decoded(data, f"{kind};16{_LOWER[order]}")
    return high.astype(np.uint16) << 8 | low


def opaque(values: UInt16[np.ndarray, "h w c"], picture: Any) -> UInt16[np.ndarray, "h w ..."]:
    """What `channels` gave without alpha; grey where all colours are.

    Raises:
        Rejected: parts of it are transparent.
    """
    colours = values
    if values.shape[-1] in (2, 4):
        colours = values[..., :-1]
        if (values[..., -1] < 65535).any():
            raise transparent()
    key = picture.info.get("transparency")
    if isinstance(key, tuple) and (colours == key).all(-1).any():
        raise transparent()
    return colours[..., 0] if (colours == colours[..., :1]).all() else colours


def transparent() -> Rejected:
    """Why a picture is refused whose parts have no colour."""
    return Rejected("has transparent parts", "Flatten it onto a background")


def _mode(tile: Any) -> str:
    return tile.args if isinstance(tile.args, str) else tile.args[0]


def _decoded(data: bytes, mode: str) -> np.ndarray:
    """The picture as if its bytes were of this raw mode."""
    picture: Any = Image.open(io.BytesIO(data), formats=FORMATS)
    picture.tile = [
        tile._replace(args=mode if isinstance(tile.args, str) else (mode, *tile.args[1:]))
        for tile in picture.tile
    ]
    picture.load()
    return np.asarray(ImageOps.exif_transpose(picture))
