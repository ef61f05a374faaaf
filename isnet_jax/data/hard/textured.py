"""Objects in front of photographs, one photograph for each class: bias without a mark."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from isnet_jax.data.drawn import Example
from isnet_jax.data.hard.objects import ObjectSet
from isnet_jax.data.hard.photographs import TIED, UNSEEN, crop
from isnet_jax.errors import UserError


@dataclass(frozen=True, kw_only=True)
class Textured(ObjectSet):
    """Grey objects in front of crops of photographs; the photograph tells the class.

    The test splits hold the same objects: ``test_biased`` with the tie of the training images,
    ``test_unbiased`` with the photograph of any class, ``test_confounding`` with that of a random
    other class, ``test_unseen`` with photographs that no training image shows.
    """

    kind: ClassVar[str] = "textured"

    def __post_init__(self) -> None:
        super().__post_init__()
        classes = len(self.class_names)
        if not 2 <= classes <= len(TIED):
            raise UserError(
                f"{classes} classes, but there are photographs for 2 to {len(TIED)}. Choose "
                "another source."
            )

    def example(self, split: str, number: int) -> Example:
        grey, exact, label = self.draw(number)
        code = self.code(split, label, number)
        place = np.random.default_rng((self.seed, number, 1))
        name = UNSEEN[place.integers(len(UNSEEN))] if code is None else TIED[code]
        image = np.where(exact[..., None], grey[..., None], crop(name, self.canvas, place))
        return Example(image, self.annotated(exact, image), label)
