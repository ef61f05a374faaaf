"""Pixel flipping on networks of which it is known what they use."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from isnet_jax.evaluation.flipping import pixel_flipping


class OfCorner(nnx.Module):
    """Class 1 where the first pixel is bright."""

    def __call__(self, x):
        bright = 20 * (x[:, 0, 0].mean(-1) - 0.5)
        return jnp.stack([-bright, bright], 1)


@pytest.fixture
def images() -> np.ndarray:
    found = np.full((6, 4, 4, 3), 0.4, np.float32)
    found[:, 0, 0] = 1
    return found


@pytest.mark.parametrize("label_axes", [1, 2])
def test_the_pixel_that_counts_is_first_or_last(images: np.ndarray, label_axes: int):
    """Its probability is 1 until the pixel becomes the image's mean: that is an eighth, or 1."""
    relevance = np.zeros_like(images)
    relevance[:, 0, 0] = 1
    targets = np.ones(6, int)
    first, by_chance = pixel_flipping(OfCorner(), images, relevance, targets, label_axes)
    last, same = pixel_flipping(OfCorner(), images, -relevance, targets, label_axes)
    assert first < by_chance < last
    assert by_chance == same
    sure, gone = (1 / (1 + np.exp(-20 * (2 if label_axes == 1 else 1) * b)) for b in (0.5, -0.0625))
    assert first == pytest.approx((sure + gone) / 16 + 7 / 8 * gone, rel=1e-3)
    assert last == pytest.approx((sure + gone) / 16 + 7 / 8 * sure, rel=1e-3)


def test_logits_that_are_not_finite(images: np.ndarray):
    bad = np.full_like(images, np.inf)
    found = pixel_flipping(OfCorner(), bad, images, np.ones(6, int), 1)
    assert np.isnan(found).all()
