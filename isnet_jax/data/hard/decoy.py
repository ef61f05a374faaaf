"""Decoy-MNIST: a grey patch in a corner whose level tells the class."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Final

import numpy as np

from isnet_jax.data.drawn import Example
from isnet_jax.data.hard.objects import ObjectSet

_PATCH: Final = 4


@dataclass(frozen=True, kw_only=True)
class Decoy(ObjectSet):
    """Digits with a grey 4 x 4 patch in a random corner (Ross, Hughes and Doshi-Velez 2017).

    Its level is 255 - 25 * class in the training images and in ``test_biased``, that of any class
    in ``test_unbiased`` (the set's own test), of a random other class in ``test_confounding``, and
    uniformly random from 0 to 255 in ``test_unseen``.
    """

    kind: ClassVar[str] = "decoy"

    def example(self, split: str, number: int) -> Example:
        grey, exact, label = self.draw(number)
        code = self.code(split, label, number)
        place = np.random.default_rng((self.seed, number, 1))
        top, left = ((self.canvas - _PATCH) * place.integers(2, size=2)).tolist()
        image = np.where(exact, grey, 0)
        corner = np.s_[top : top + _PATCH, left : left + _PATCH]
        level = place.integers(256) if code is None else 255 - code * 250 // len(self.class_names)
        image[corner] = np.where(exact[corner], image[corner], level)
        coloured = np.repeat(image[..., None], 3, axis=-1).astype(np.uint8)
        return Example(coloured, self.annotated(exact, coloured), label)
