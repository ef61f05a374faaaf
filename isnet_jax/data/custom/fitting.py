"""Bringing images and masks to one size."""

from typing import Literal

import numpy as np
from jaxtyping import Bool, Float, Shaped
from PIL import Image

Fit = Literal["crop", "pad", "stretch"]


def fitted(pixels: np.ndarray, size: tuple[int, int], fit: Fit) -> np.ndarray:
    """An image or a mask in another size; the same arguments move both alike.

    Images are resampled with an antialiasing triangle filter, boolean masks by the nearest pixel,
    so that they stay masks.

    Args:
        pixels: (h, w) or (h, w, 3): uint8, uint16, or bool for masks.
        size: height and width wanted.
        fit: "crop" scales until the image covers the size and cuts off what overhangs, equally on
            both sides; "pad" scales until it is inside and adds zeros around; "stretch" scales
            each side by itself.
    """
    height, width = pixels.shape[:2]
    if (height, width) == size:
        return pixels
    scales = size[0] / height, size[1] / width
    if fit == "stretch":
        return _resized(pixels, size)
    scale = max(scales) if fit == "crop" else min(scales)
    near = max(1, round(height * scale)), max(1, round(width * scale))
    scaled = _resized(pixels, near)
    result = np.zeros((*size, *pixels.shape[2:]), pixels.dtype)
    source, target = zip(*(_overlap(n, s) for n, s in zip(near, size, strict=True)), strict=True)
    result[target] = scaled[source]
    return result


def unpadded(
    values: Float[np.ndarray, "h w"], size: tuple[int, int]
) -> Float[np.ndarray, "height width"]:
    """What `fitted(..., "pad")` made of an image of this size, brought back to it."""
    scale = min(have / want for have, want in zip(values.shape, size, strict=True))
    near = tuple(max(1, round(side * scale)) for side in size)
    _, inside = zip(*(_overlap(n, v) for n, v in zip(near, values.shape, strict=True)), strict=True)
    picture = Image.fromarray(values[inside].astype(np.float32))
    return np.asarray(picture.resize((size[1], size[0]), Image.Resampling.BILINEAR))


def _overlap(have: int, want: int) -> tuple[slice, slice]:
    """Where a side of one length lies in the middle of another: source and target."""
    shared = min(have, want)
    start, place = (have - shared) // 2, (want - shared) // 2
    return slice(start, start + shared), slice(place, place + shared)


def _resized(pixels: Shaped[np.ndarray, "h w ..."], size: tuple[int, int]) -> np.ndarray:
    height, width = size
    if pixels.dtype == bool:
        mask: Bool[np.ndarray, "h w"] = pixels
        picture = Image.fromarray(mask.astype(np.uint8))
        return np.asarray(picture.resize((width, height), Image.Resampling.NEAREST)) > 0
    if pixels.dtype == np.uint16:
        picture = Image.fromarray(pixels.astype(np.float32))
        smooth = np.asarray(picture.resize((width, height), Image.Resampling.BILINEAR))
        return np.rint(np.clip(smooth, 0, 65535)).astype(np.uint16)
    return np.asarray(Image.fromarray(pixels).resize((width, height), Image.Resampling.BILINEAR))
