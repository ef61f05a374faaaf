"""The selective ISNet loss of the network `small`, written out layer by layer from the papers.

No part of `isnet_jax` is used, and no derivative rule but the transposes of the convolutions: the
explanation's backward pass is a forward computation here, which plain automatic differentiation
and finite differences can differentiate.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

Parameters = dict[str, Any]
"""Torch names of `small` to arrays; convolutions HWIO, dense (in, out)."""


def loss(
    p: Parameters, frozen: Parameters, batch: Parameters, config: Any, *, train: bool
) -> tuple[Any, dict[str, Any]]:
    """The loss at parameters `p`; z^B takes its biases and statistics from `frozen`.

    The method holds those constant in the outer gradient: it is the derivative by `p` alone, at
    `frozen` equal to `p`.
    """
    logits, heatmap = explain(p, frozen, batch["image"], config, train=train)
    log_odds = logits - jax.scipy.special.logsumexp(logits, axis=1, keepdims=True)
    classification = -jnp.mean(log_odds[jnp.arange(len(logits)), batch["label"]])
    heatmap_loss = jnp.mean(
        jnp.stack(
            [
                _sample_loss(relevance, mask, config)
                for relevance, mask in zip(heatmap, batch["mask"], strict=True)
            ]
        )
    )
    weight = config.heatmap_weight
    return (1 - weight) * classification + weight * heatmap_loss, {
        "logits": logits,
        "heatmap": heatmap,
    }


def explain(
    p: Parameters, frozen: Parameters, x: Any, config: Any, *, train: bool
) -> tuple[Any, Any]:
    """Logits and the selective heatmap."""
    epsilon = config.lrp_epsilon

    z1 = _conv(x, p["conv1.weight"]) + p["conv1.bias"]
    n1 = _norm(p, "bn1", z1, train)
    y1 = jnp.maximum(n1, 0)
    pooled = (_tiles(y1) * _winners(y1)).sum((2, 4))
    z2 = _conv(pooled, p["conv2.weight"]) + p["conv2.bias"]
    y2 = jnp.maximum(_norm(p, "bn2", z2, train) + pooled, 0)
    y3 = jnp.maximum(_conv(y2, p["conv3.weight"], 2) + p["conv3.bias"], 0)
    logits = y3.mean((1, 2)) @ p["fc.weight"] + p["fc.bias"]

    g = _selective_seed(logits, config.softmax_epsilon) @ p["fc.weight"].T
    g = jnp.broadcast_to(g[:, None, None], y3.shape) / (y3.shape[1] * y3.shape[2])
    g = _conv_transposed(g * y3 / (y3 + epsilon), y2.shape, p["conv3.weight"], 2)
    g = g * y2 / (y2 + epsilon)
    coupled = train and config.batch_stats == "gradient"
    inner = _conv_transposed(
        _norm_transposed(p, "bn2", z2, g, train, coupled), pooled.shape, p["conv2.weight"]
    )
    g = inner + g
    g = (_winners(y1) * g[:, :, None, :, None]).reshape(y1.shape)
    if config.box_rule:
        return logits, _box(p, frozen, x, y1 * g, epsilon, train)
    g = _norm_transposed(p, "bn1", z1, g * y1 / (y1 + epsilon), train, coupled)
    return logits, x * _conv_transposed(g, x.shape, p["conv1.weight"])


def _box(
    p: Parameters, frozen: Parameters, x: Any, relevance: Any, epsilon: float, train: bool
) -> Any:
    """z^B for pixels in [0, 1]; batch norm fused with the biased variance."""
    z1 = _conv(x, frozen["conv1.weight"]) + frozen["conv1.bias"]
    mean, variance = _statistics(frozen, "bn1", z1, train)
    factor = p["bn1.weight"] / jnp.sqrt(variance + 1e-5)
    weight = p["conv1.weight"] * factor
    bias = (frozen["conv1.bias"] - mean) * factor + frozen["bn1.bias"]
    negative = jnp.minimum(weight, 0)
    z = _conv(x, weight) + bias
    z = z - (_conv(jnp.ones_like(x), negative) + jnp.minimum(bias, 0))
    s = relevance / (z + epsilon * jnp.where(z >= 0, 1, -1))
    return x * _conv_transposed(s, x.shape, weight) - _conv_transposed(s, x.shape, negative)


def _selective_seed(logits: Any, s: float) -> Any:
    p = jax.nn.softmax(logits, axis=1)
    lowest = jnp.argmin(logits, axis=1)
    chosen = p[jnp.arange(len(p)), lowest][:, None]
    indicator = jnp.arange(p.shape[1])[None] == lowest[:, None]
    return (1 / (chosen + s) + 1 / (1 - chosen + s)) * chosen * (indicator - p)


def _sample_loss(relevance: Any, mask: Any, config: Any) -> Any:
    magnitude = jnp.abs(relevance)
    inside = (magnitude * mask).sum()
    mean = inside / (mask.sum() * relevance.shape[-1] + 1e-10)
    outside = magnitude / (mean + 1e-10) * (1 - mask)
    ordered = -jnp.sort(-outside.reshape(-1, relevance.shape[-1]), axis=0)
    weights = config.gwrp_decay ** np.arange(len(ordered))
    pooled = (ordered * weights[:, None]).sum(0) / weights.sum()
    background = jnp.log(1 + pooled / config.background_scale).mean()
    low, high = config.foreground_range
    left = (jnp.minimum(inside / low, 1) - 1) ** 2
    right = (jnp.maximum(inside - high, 0) / low) ** 2
    if config.foreground_loss == "hybrid":
        right = jnp.where(inside <= low + high, right, inside - low - high + 1)
    return config.background_weight * background + config.foreground_weight * (left + right)


def _statistics(p: Parameters, name: str, z: Any, train: bool) -> tuple[Any, Any]:
    if train:
        return z.mean((0, 1, 2)), z.var((0, 1, 2))
    return p[f"{name}.running_mean"], p[f"{name}.running_var"]


def _norm(p: Parameters, name: str, z: Any, train: bool) -> Any:
    mean, variance = _statistics(p, name, z, train)
    return (z - mean) / jnp.sqrt(variance + 1e-5) * p[f"{name}.weight"] + p[f"{name}.bias"]


def _norm_transposed(p: Parameters, name: str, z: Any, g: Any, train: bool, coupled: bool) -> Any:
    mean, variance = _statistics(p, name, z, train)
    factor = 1 / jnp.sqrt(variance + 1e-5)
    if coupled:
        standard = (z - mean) * factor
        g = g - g.mean((0, 1, 2)) - standard * (g * standard).mean((0, 1, 2))
    return g * factor * p[f"{name}.weight"]


def _conv(x: Any, kernel: Any, stride: int = 1) -> Any:
    return jax.lax.conv_general_dilated(
        x, kernel, (stride, stride), [(1, 1), (1, 1)], dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


def _conv_transposed(g: Any, shape: tuple[int, ...], kernel: Any, stride: int = 1) -> Any:
    x = jax.ShapeDtypeStruct(shape, g.dtype)
    return jax.linear_transpose(lambda x: _conv(x, kernel, stride), x)(g)[0]


def _tiles(y: Any) -> Any:
    batch, height, width, channels = y.shape
    return y.reshape(batch, height // 2, 2, width // 2, 2, channels)


def _winners(y: Any) -> Any:
    """1 at the first highest value of each 2x2 window; not by equality, which XLA may round."""
    tiles = _tiles(y).transpose(0, 1, 3, 5, 2, 4)
    place = jnp.argmax(tiles.reshape(*tiles.shape[:4], 4), axis=-1)
    one = jax.nn.one_hot(place, 4, dtype=y.dtype).reshape(tiles.shape)
    return one.transpose(0, 1, 4, 2, 5, 3)
