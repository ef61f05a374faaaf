"""Whether a heatmap points at what the network uses: pixels taken away, the most relevant first."""

from __future__ import annotations

from typing import Final

import numpy as np
from flax import nnx
from jaxtyping import Float, Int
from scipy.special import expit

from isnet_jax.evaluation.decisions import log_odds
from isnet_jax.evaluation.predict import predict

_STEPS: Final = 8
_MOST_IMAGES: Final = 100
_SEED: Final = 0


def pixel_flipping(
    network: nnx.Module,
    images: Float[np.ndarray, "n h w c"],
    relevance: Float[np.ndarray, "n h w c"],
    targets: Int[np.ndarray, " n"],
    label_axes: int,
) -> tuple[float, float]:
    """How fast the probability of the explained class goes as pixels are taken away.

    An eighth of the pixels after the other becomes the image's mean colour (Samek et al., IEEE
    TNNLS 28:2660, 2017). The area below the curve of the probability over the share of pixels, a
    mean over at most 100 images that are spread over all.

    Returns:
      The area with the most relevant pixels first, and with pixels in a random order, both in
      [0, 1]. The first is the lower one if the heatmap points at what the network uses. NaN if a
      logit is not finite.
    """
    count = len(images)
    some = np.unique(np.linspace(0, count - 1, min(count, _MOST_IMAGES)).astype(int))
    of_pixels = relevance[some].astype(np.float64).sum(3).reshape(len(some), -1)
    by_chance = np.random.default_rng(_SEED).random(of_pixels.shape)
    areas = (
        _area(network, images[some], order, targets[some], label_axes)
        for order in (np.argsort(-of_pixels, 1, kind="stable"), np.argsort(by_chance, 1))
    )
    first, second = areas
    return first, second


def _area(
    network: nnx.Module,
    images: np.ndarray,
    order: np.ndarray,
    targets: np.ndarray,
    label_axes: int,
) -> float:
    """The area with the pixels of each image, by their place, taken in an order of its own."""
    rank = np.empty_like(order)
    np.put_along_axis(rank, order, np.arange(order.shape[1])[None], 1)
    rank = rank.reshape(*images.shape[:3], 1)
    colour = images.mean((1, 2), keepdims=True)
    shares = np.linspace(0, 1, _STEPS + 1)
    probability = []
    for share in shares:
        changed = np.where(rank < share * order.shape[1], colour, images)
        logits = predict(network, changed)
        if not np.isfinite(logits).all():
            return np.nan
        odds = log_odds(logits, label_axes)
        probability.append(expit(odds[np.arange(len(images)), targets]).mean())
    return float(np.trapezoid(probability, shares))
