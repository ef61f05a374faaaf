"""Random transformations of images and their masks alike."""

import math
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from jaxtyping import Float32, Float64
from PIL import Image

from isnet_jax.errors import UserError

_FULL_TURN: Final = 180.0


@dataclass(frozen=True)
class Augmentation:
    """What may happen to a training image, and to its mask with it.

    Each is drawn uniformly for every image anew. Zeros come in at the edges. A draw that would move
    all foreground out of the image is not applied: the sample stays as it is.

    Attributes:
        max_shift: move by up to this many pixels in each direction.
        max_rotation: turn about the centre by up to this many degrees either way, 0 to 180.
        min_crop: cut out a window of at least this share of each side at a random place, and
            resize it to the whole image; above 0, and 1 for none.
        flip_horizontal: mirror left and right, every other time.
        flip_vertical: mirror top and bottom, every other time.

    Raises:
        UserError: a value out of its range.
    """

    max_shift: int = 0
    max_rotation: float = 0.0
    min_crop: float = 1.0
    flip_horizontal: bool = False
    flip_vertical: bool = False

    def __post_init__(self) -> None:
        if self.max_shift < 0:
            raise UserError(f"max_shift is {self.max_shift} pixels, but must be 0 or more.")
        if not 0 <= self.max_rotation <= _FULL_TURN:
            raise UserError(
                f"max_rotation is {self.max_rotation} degrees, but must be from 0 to 180."
            )
        if not 0 < self.min_crop <= 1:
            raise UserError(
                f"min_crop is {self.min_crop}, but must be above 0 and at most 1: the smallest "
                "share of each side that is cut out."
            )

    def __bool__(self) -> bool:
        """Whether anything may happen."""
        return self != Augmentation()

    def check(self, height: int, width: int) -> None:
        """Raises a `UserError` unless the shifts are smaller than the images."""
        if self.max_shift >= min(height, width):
            raise UserError(
                f"max_shift is {self.max_shift} pixels, but must be less than the images' {height} "
                f"x {width}; keep it below the usual distance of foreground and edge."
            )

    def __call__(self, batch: Any, rng: np.random.Generator, start: int = 0) -> Any:
        """A batch with every image and its mask moved; what else it holds stays.

        Args:
            batch: a batch, or a part of one.
            rng: gives every sample of the whole batch a seed of its own, so that parts are moved
                as in the whole.
            start: number of the part's first sample in the whole batch.
        """
        images, masks = np.empty_like(batch["image"]), np.empty_like(batch["mask"])
        height, width = images.shape[1:3]
        seeds = rng.integers(2**63, size=start + len(images))[start:].tolist()
        for number, (image, mask) in enumerate(zip(batch["image"], batch["mask"], strict=True)):
            matrix = self.draw(height, width, np.random.default_rng(seeds[number]))
            moved = _moved(mask, matrix, Image.Resampling.NEAREST)
            if mask.any() and not moved.any():
                images[number], masks[number] = image, mask
            else:
                images[number] = _moved(image, matrix, Image.Resampling.BILINEAR)
                masks[number] = moved
        return {**batch, "image": images, "mask": masks}

    def draw(self, height: int, width: int, rng: np.random.Generator) -> Float64[np.ndarray, "3 3"]:
        """From a place (x, y, 1) in the new image to the place in the old one that it shows."""
        mirror = [
            -1.0 if wanted and rng.random() < 0.5 else 1.0
            for wanted in (self.flip_horizontal, self.flip_vertical)
        ]
        turn = math.radians(rng.uniform(-self.max_rotation, self.max_rotation))
        share = rng.uniform(self.min_crop, 1) if self.min_crop < 1 else 1.0
        room = (1 - share) / 2 * np.array([width, height])
        window = rng.uniform(-room, room) if share < 1 else np.zeros(2)
        shift = rng.integers(-self.max_shift, self.max_shift + 1, size=2)
        centre = np.array([width, height]) / 2
        linear = share * np.array(
            [[math.cos(turn), -math.sin(turn)], [math.sin(turn), math.cos(turn)]]
        )
        matrix = np.eye(3)
        matrix[:2, :2] = linear @ np.diag(mirror)
        matrix[:2, 2] = centre + window - matrix[:2, :2] @ (centre + shift)
        return matrix


def _moved(
    pixels: Float32[np.ndarray, "h w c"],
    matrix: Float64[np.ndarray, "3 3"],
    resampling: Image.Resampling,
) -> Float32[np.ndarray, "h w c"]:
    height, width = pixels.shape[:2]
    return np.stack(
        [
            np.asarray(
                Image.fromarray(np.ascontiguousarray(channel)).transform(
                    (width, height),
                    Image.Transform.AFFINE,
                    matrix[:2].ravel().tolist(),
                    resampling,
                )
            )
            for channel in np.moveaxis(pixels, -1, 0)
        ],
        axis=-1,
    )
