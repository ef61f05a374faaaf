"""The heatmap loss: pure functions of relevance and masks.

Formulas: Bassi et al., Nature Communications 15:291, 2024 ("L2" foreground) and IEEE Access 12,
2024 ("hybrid"). All is computed in float32 or wider. B samples, K explained quantities, C channels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Shaped

ForegroundLoss = Literal["l2", "hybrid"]
BackgroundNorm = Literal["absolute", "signed", "none"]

_MEAN_FLOOR = 1e-10
_CAP = 1 - 1e-7
_NEGLIGIBLE = 1e-9


def gwrp(x: Float[Array, "*batch n"], decay: float) -> Float[Array, "*batch"]:
    """Global weighted rank pooling: `sum_i d^i x_(i) / sum_i d^i`, x sorted descending.

    Ranks whose weight is below 1e-9 are left out; what they add is less than float32 rounding.

    Args:
      x: values to pool over the last axis.
      decay: d in [0, 1]; 0 is the maximum, 1 the mean.

    Source: Qiu, arXiv 1809.08264.
    """
    n = x.shape[-1]
    if decay == 1:
        return x.mean(-1)
    if decay == 0:
        return lax.top_k(x, 1)[0][..., 0]  # `x.max` finds its winner by equality: see max_pool
    ranks = min(n, math.ceil(math.log(_NEGLIGIBLE) / math.log(decay)))
    weights = jnp.asarray(decay, x.dtype) ** jnp.arange(ranks, dtype=x.dtype)
    # The weights' whole sum in closed form: the left-out ranks count in it.
    total = (1 - decay**n) / (1 - decay)
    return (lax.top_k(x, ranks)[0] * weights).sum(-1) / total


def background_loss(
    relevance: Float[Array, "batch k height width channels"],
    mask: Shaped[Array, "batch height width 1"],
    *,
    decay: float,
    scale: float,
    norm: BackgroundNorm = "absolute",
) -> Float[Array, " batch"]:
    """How much relevance lies outside the mask, relative to the mean inside it.

    `Q = |R| / mu * (1 - M)`, `g = GWRP(Q)` for each channel, and
    `L1 = mean over k, c of -log(1 - g / (g + E))`, capped near 16. Unless the norm is "none" it
    does not change when the relevance is scaled.

    Args:
      relevance: heatmaps.
      mask: 1 on the foreground, 0 elsewhere.
      decay: d of GWRP.
      scale: E > 0: the ratio of background to foreground at which the loss is log 2.
      norm: mu: "absolute", `sum |R| M / sum M`; "signed", `|sum R M| / sum M`; "none",
        `1 / (C * H * W)`.
    """
    inside, relevance = _inside(mask), _wide(relevance)
    magnitude = jnp.abs(relevance)
    batch, k, height, width, channels = relevance.shape
    if norm == "none":
        mean = jnp.full((batch, k), 1 / (height * width * channels), relevance.dtype)
    else:
        area = inside.sum((2, 3, 4)) * channels
        summed = relevance if norm == "signed" else magnitude
        total = jnp.abs((summed * inside).sum((2, 3, 4)))
        mean = total / (area + _MEAN_FLOOR) + _MEAN_FLOOR
    outside = magnitude / mean[:, :, None, None, None] * (1 - inside)
    pooled = gwrp(jnp.moveaxis(outside, -1, 2).reshape(batch, k, channels, height * width), decay)
    return -jnp.log1p(-jnp.minimum(pooled / (pooled + scale), _CAP)).mean((1, 2))


def foreground_loss(
    relevance: Float[Array, "batch k height width channels"],
    mask: Shaped[Array, "batch height width 1"],
    *,
    bounds: tuple[float, float] | Sequence[tuple[float, float]],
    form: ForegroundLoss = "l2",
) -> Float[Array, " batch"]:
    """Keeps the relevance inside the mask, `F = sum |R| M`, between C1 and C2.

    `(min(F/C1, 1) - 1)^2 + (max(F - C2, 0) / C1)^2`; the hybrid form goes on as
    `F - C1 - C2 + 1` beyond C1 + C2. Mean over k.

    Args:
      bounds: (C1, C2), or such a pair for each of the k.
    """
    pairs = jnp.asarray(bounds, jnp.promote_types(relevance.dtype, jnp.float32)).reshape(-1, 2)
    low, high = pairs.T
    total = (jnp.abs(_wide(relevance)) * _inside(mask)).sum((2, 3, 4))
    left = (jnp.minimum(total / low, 1) - 1) ** 2
    excess = jnp.maximum(total - high, 0) / low
    if form == "hybrid":
        # Squared within its own branch only: beyond it the square may overflow.
        square = jnp.minimum(excess, 1) ** 2
        right = jnp.where(total <= low + high, square, total - low - high + 1)
    else:
        right = excess**2
    return (left + right).mean(1)


def pool_layers(losses: Sequence[Float[Array, " batch"]], decay: float) -> Float[Array, " batch"]:
    """One loss for several supervised layers: GWRP over the layers, the worst first."""
    if len(losses) == 1:
        return losses[0]
    return gwrp(jnp.stack(losses, -1), decay)


def shrink_mask(
    mask: Shaped[Array, "batch height width 1"], size: tuple[int, int]
) -> Shaped[Array, "batch new_height new_width 1"]:
    """The mask at a hidden layer's size: a cell that touches foreground is foreground."""
    wide = _wide(mask)  # the sum of a narrow integer's cell may wrap to 0
    rows = _touches(mask.shape[1], size[0]).astype(wide.dtype)
    columns = _touches(mask.shape[2], size[1]).astype(wide.dtype)
    touched = jnp.einsum("rh,bhwc,sw->brsc", rows, wide, columns)
    return (touched > 0).astype(mask.dtype)


def _touches(size: int, cells: int) -> Array:
    start = jnp.arange(cells)[:, None] * size
    pixels = jnp.arange(size)[None] * cells
    return (pixels + cells > start) & (pixels < start + size)


def _inside(mask: Array) -> Array:
    return _wide(mask)[:, None]


def _wide(x: Array) -> Array:
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))
