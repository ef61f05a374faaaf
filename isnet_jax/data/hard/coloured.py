"""Objects whose own colour tells the class: the control that no mask can help."""

from __future__ import annotations

import colorsys
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from isnet_jax.data.drawn import Example
from isnet_jax.data.hard.objects import ObjectSet


@dataclass(frozen=True, kw_only=True)
class Coloured(ObjectSet):
    """Digits on black, in the colour of their class.

    The bias is the object's: whatever only looks away from the background leaves it in place.
    The hue is the class's in the training images and in ``test_biased``, that of any class in
    ``test_unbiased``, of a random other class in ``test_confounding``; ``test_unseen`` is grey.
    """

    kind: ClassVar[str] = "coloured"

    def example(self, split: str, number: int) -> Example:
        grey, exact, label = self.draw(number)
        code = self.code(split, label, number)
        hue = 0.0 if code is None else code / len(self.class_names)
        colour = np.array(colorsys.hsv_to_rgb(hue, 0.0 if code is None else 1.0, 1.0))
        image = np.rint(np.where(exact, grey, 0)[..., None] * colour).astype(np.uint8)
        return Example(image, self.annotated(exact, image), label)
