"""Photographs that come with scikit-image's wheel: backgrounds that need no network."""

import functools
import importlib.util
from pathlib import Path
from typing import Final

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from isnet_jax.data.formats import FORMATS
from isnet_jax.errors import UserError

# One for each class. All of them, and those below, are files in `skimage/data`.
TIED: Final = (
    "brick.png",
    "grass.png",
    "gravel.png",
    "coffee.png",
    "chelsea.png",
    "astronaut.png",
    "hubble_deep_field.jpg",
    "ihc.png",
    "retina.jpg",
    "motorcycle_left.png",
)
# Of no class: backgrounds that no training image has.
UNSEEN: Final = ("rocket.jpg", "moon.png", "coins.png", "page.png", "color.png")


@functools.cache
def photograph(name: str, shortest: int) -> UInt8[np.ndarray, "h w 3"]:
    """A photograph in colour, its shorter side `shortest` pixels long."""
    with Image.open(_folder() / name, formats=FORMATS) as picture:
        coloured = picture.convert("RGB")
        scale = shortest / min(coloured.size)
        width, height = (max(shortest, round(scale * side)) for side in coloured.size)
        pixels = np.asarray(coloured.resize((width, height)))
    pixels.flags.writeable = False
    return pixels


def crop(name: str, side: int, rng: np.random.Generator) -> UInt8[np.ndarray, "side side 3"]:
    """A square at a random place of a photograph, an eighth of its shorter side wide."""
    pixels = photograph(name, 8 * side)
    top, left = (int(rng.integers(length - side + 1)) for length in pixels.shape[:2])
    return pixels[top : top + side, left : left + side]


def _folder() -> Path:
    # Importing scikit-image to read its files would take longer than reading them.
    spec = importlib.util.find_spec("skimage")
    if spec is None or spec.origin is None:
        raise UserError("the photographs come with scikit-image: pip install scikit-image")
    return Path(spec.origin).parent / "data"
