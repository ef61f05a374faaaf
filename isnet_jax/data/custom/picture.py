"""One image file as a network takes it: what `prepare` makes of a file, for one file alone."""

from pathlib import Path

import numpy as np
from jaxtyping import Float32
from PIL import Image

from isnet_jax.data.custom.fitting import Fit, fitted
from isnet_jax.data.custom.readers.pictures import PixelRules, decode_image
from isnet_jax.data.custom.readers.samples import read_regular
from isnet_jax.data.split import unit


class WrongSize(Exception):  # noqa: N818
    """The image has another size than wanted, and shall not be resized; says which."""


def read_image(
    path: Path,
    size: tuple[int, int],
    channels: int,
    fit: Fit | None,
    rules: PixelRules | None = None,
) -> Float32[np.ndarray, "h w channels"]:
    """The pixels of a file from 0 to 1.

    Args:
        path: any file that `prepare` reads.
        size: height and width.
        channels: 3, or 1 for grey.
        fit: how images of another size are brought to it; None refuses them.
        rules: what is white in 16-bit images.

    Raises:
        Rejected: it is no picture that can be used.
        WrongSize: see ``fit``.
    """
    pixels = decode_image(read_regular(path), path.suffix, rules or PixelRules())
    height, width = pixels.shape[:2]
    if (height, width) != size and fit is None:
        raise WrongSize(f"{width} x {height}")
    if fit is not None:
        pixels = fitted(pixels, size, fit)
    if channels == 1 and pixels.ndim == 3:
        pixels = np.asarray(Image.fromarray(pixels).convert("L"))
    if pixels.ndim == 2:
        pixels = np.broadcast_to(pixels[..., None], (*size, channels))
    return unit(pixels)
