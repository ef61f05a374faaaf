"""Dense layers, convolutions and pools, each with the ways to write it.

A spelling is a function of the piece's parameters and its input. `needs` names traits that the
rules must have for it to mean the same (see `recipes`), `bars` those that they must not have.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.ad_checkpoint import checkpoint_name

from isnet_jax import lrp


@dataclasses.dataclass(frozen=True)
class Spelling:
    apply: Callable[..., Any]
    needs: frozenset[str] = frozenset()
    bars: frozenset[str] = frozenset()


def only(apply, *needs: str) -> Spelling:
    return Spelling(apply, frozenset(needs))


def unless(apply, *bars: str) -> Spelling:
    return Spelling(apply, bars=frozenset(bars))


# What may stand between a layer and its bias, or around the layer alone.


def _cond(layer):
    return lambda x, w: lax.cond(True, layer, layer, x, w)


def _scan(layer):
    return lambda x, w: lax.scan(lambda c, a: (c, layer(a, w)), None, x[None])[1][0]


def _mixed(boundary):
    """The layer's operands go through a boundary together."""
    return lambda layer: lambda x, w: layer(*boundary(x, w))


def _same(x, w):
    return x, w


CUTS: dict[str, Callable[[Callable], Callable]] = {
    "layer in jit": jax.jit,
    "layer in remat": jax.checkpoint,
    "layer in cond": _cond,
    "layer in scan": _scan,
    "tap before bias": lambda layer: lambda x, w: lrp.tap(layer(x, w), "here"),
    "name before bias": lambda layer: lambda x, w: checkpoint_name(layer(x, w), "here"),
    "barrier before bias": lambda layer: lambda x, w: lax.optimization_barrier(layer(x, w)),
    "device_put before bias": lambda layer: lambda x, w: jax.device_put(layer(x, w)),
    "barrier of (x, w)": _mixed(lambda x, w: lax.optimization_barrier((x, w))),
    "device_put of (x, w)": _mixed(lambda x, w: jax.device_put((x, w))),
    "jit of (x, w)": _mixed(jax.jit(_same)),
    "remat of (x, w)": _mixed(jax.checkpoint(_same)),
    "cond of (x, w)": _mixed(lambda x, w: lax.cond(True, _same, _same, x, w)),
    "cond by w": _mixed(
        lambda x, w: lax.cond(w.ravel()[0] < 99, _same, lambda x, w: (2 * x, w), x, w)
    ),
    "scan of (x, w)": _mixed(
        lambda x, w: lax.scan(lambda c, _: (c, None), (x, w), None, length=1)[0]
    ),
    "scan over (x, w)": _mixed(
        lambda x, w: jax.tree.map(
            lambda a: a[0], lax.scan(lambda c, a: (c, a), None, (x[None], w[None]))[1]
        )
    ),
    "scan with a counter": _mixed(
        lambda x, w: (
            lax.scan(lambda c, _: ((c[0], c[1] + 1), None), (x, 0), None, length=1)[0][0],
            w,
        )
    ),
}


# Dense layers, on the last axis


def _dense(layer):
    return lambda p, x: layer(x, p["w"]) + p["b"]


def _matmul(x, w):
    return x @ w


def _in_halves(layer, axis: int):
    """Each half of the output's channels, with its bias, by a layer of its own."""

    def apply(p, x):
        half = p["w"].shape[-1] // 2
        parts = [
            layer(x, p["w"][..., part]) + p["b"][part] for part in (slice(half), slice(half, None))
        ]
        return jnp.concatenate(parts, axis)

    return apply


def _input_concatenated(p, x):
    half = x.shape[-1] // 2
    return jnp.concatenate([x[..., :half], x[..., half:]], -1) @ p["w"] + p["b"]


def _input_summed(p, x):
    half = x.shape[-1] // 2
    return x[..., :half] @ p["w"][:half] + x[..., half:] @ p["w"][half:] + p["b"]


def _homogeneous(p, x):
    ones = jnp.ones((*x.shape[:-1], 1))
    return jnp.concatenate([x, ones], -1) @ jnp.concatenate([p["w"], p["b"][None]])


def _scaled(layer):
    def apply(p, x):
        s = 1 + p["b"] ** 2
        return layer(x, p["w"] / s) * s + p["b"]

    return apply


def _moveaxis(x, w):
    return jnp.moveaxis(jnp.tensordot(w, jnp.moveaxis(x, -1, 0), (0, 0)), 0, -1)


_DENSE_LAYERS: dict[str, Callable[[Array, Array], Array]] = {
    "einsum": lambda x, w: jnp.einsum("...i,io->...o", x, w),
    "einsum, w transposed": lambda x, w: jnp.einsum("...i,oi->...o", x, w.T),
    "einsum, w first": lambda x, w: jnp.einsum("io,...i->...o", w, x),
    "(w^T x^T)^T": _moveaxis,
    "dot_general": lambda x, w: lax.dot_general(x, w, (((x.ndim - 1,), (0,)), ((), ()))),
    "vmap": lambda x, w: jax.vmap(jnp.matmul, (0, None))(x, w),
    "vmap over outputs": lambda x, w: jax.vmap(jnp.matmul, (None, 1), -1)(x, w),
    "added axis": lambda x, w: (x[..., None, :] @ w)[..., 0, :],
    "flattened": lambda x, w: (x.reshape(-1, x.shape[-1]) @ w).reshape(*x.shape[:-1], -1),
}

DENSE = {
    "plain": Spelling(_dense(_matmul)),
    **{name: Spelling(_dense(layer)) for name, layer in _DENSE_LAYERS.items()},
    **{name: Spelling(_dense(cut(_matmul))) for name, cut in CUTS.items()},
    "bias first": Spelling(lambda p, x: p["b"] + x @ p["w"]),
    "minus bias": Spelling(lambda p, x: x @ p["w"] - (-p["b"])),
    "broadcast bias": Spelling(
        lambda p, x: x @ p["w"] + jnp.broadcast_to(p["b"], (*x.shape[:-1], *p["b"].shape))
    ),
    "bias in two": Spelling(lambda p, x: x @ p["w"] + p["b"] / 4 + 0.75 * p["b"]),
    "literal factor": Spelling(lambda p, x: (x @ (p["w"] / 1.25)) * 1.25 + p["b"]),
    "negative factor": Spelling(lambda p, x: p["b"] - (x @ -p["w"])),
    "literal divisor": Spelling(lambda p, x: (x @ (p["w"] * 4)) / 4 + p["b"]),
    "factor of parameters": Spelling(_scaled(_matmul)),
    "bias inside a factor": Spelling(
        lambda p, x: (x @ p["w"] + p["b"] / 2 - p["b"] / 4) + p["b"] * 0.75
    ),
    "output in halves": unless(_in_halves(_matmul, -1), "folded next"),
    "input in halves, concatenated": Spelling(_input_concatenated),
    "input in halves, summed": only(_input_summed, "plain layers", "plain sums"),
    "homogeneous": only(_homogeneous, "plain layers"),
    "product and sum": only(
        lambda p, x: (x[..., None] * p["w"]).sum(-2) + p["b"], "plain layers", "plain sums"
    ),
}


# Convolutions, 3x3, on (B, H, W, C)

_NHWC = ("NHWC", "HWIO", "NHWC")


def _conv(x, w):
    return lax.conv_general_dilated(x, w, (1, 1), "SAME", dimension_numbers=_NHWC)


def _nchw(x, w):
    y = lax.conv_general_dilated(
        x.transpose(0, 3, 1, 2), w.transpose(3, 2, 0, 1), (1, 1), ((1, 1), (1, 1))
    )
    return y.transpose(0, 2, 3, 1)


def _padded(x, w):
    x = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    return lax.conv_general_dilated(x, w, (1, 1), "VALID", dimension_numbers=_NHWC)


def _patches(x, w):
    patches = lax.conv_general_dilated_patches(x, (3, 3), (1, 1), "SAME", dimension_numbers=_NHWC)
    return patches @ w.transpose(2, 0, 1, 3).reshape(-1, w.shape[-1])


def _shifts(x, w):
    x = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    size = x.shape[1] - 2, x.shape[2] - 2
    parts = [x[:, i : i + size[0], j : j + size[1]] @ w[i, j] for i in range(3) for j in range(3)]
    return sum(parts[1:], parts[0])


CONV = {
    "plain": Spelling(_dense(_conv)),
    "NCHW": Spelling(_dense(_nchw)),
    "padded": unless(_dense(_padded), "flat"),
    "patches": unless(_dense(_patches), "flat"),
    "vmap": Spelling(_dense(lambda x, w: jax.vmap(lambda x: _conv(x[None], w)[0])(x))),
    **{name: Spelling(_dense(cut(_conv))) for name, cut in CUTS.items()},
    "minus bias": Spelling(lambda p, x: _conv(x, p["w"]) - (-p["b"])),
    "literal factor": Spelling(lambda p, x: _conv(x, p["w"] / 1.25) * 1.25 + p["b"]),
    "factor of parameters": Spelling(_scaled(_conv)),
    "output in halves": unless(_in_halves(_conv, -1), "folded next"),
    "sum of shifts": only(_dense(_shifts), "plain layers", "plain sums"),
}


# Pools, 2x2, and means


def _windows(x):
    b, h, w, c = x.shape
    return x.reshape(b, h // 2, 2, w // 2, 2, c)


def _corners(x):
    return [x[:, i::2, j::2] for i in range(2) for j in range(2)]


def _window_sum(x):
    return lax.reduce_window(x, 0.0, lax.add, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")


def _mean_kernel(x):
    kernel = jnp.tile(jnp.eye(x.shape[-1])[None, None] / 4, (2, 2, 1, 1))
    return lax.conv_general_dilated(x, kernel, (2, 2), "VALID", dimension_numbers=_NHWC)


MAX_POOL = {
    "plain": Spelling(
        lambda p, x: lax.reduce_window(x, -jnp.inf, lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")
    ),
    "reshape": Spelling(lambda p, x: _windows(x).max((2, 4))),
    "max of max": Spelling(lambda p, x: _windows(x).max(4).max(2)),
    "-min(-x)": Spelling(lambda p, x: -((-_windows(x)).min((2, 4)))),
    "max of stack": Spelling(lambda p, x: jnp.stack(_corners(x)).max(0)),
}

AVERAGE_POOL = {
    "plain": Spelling(lambda p, x: _window_sum(x) / 4),
    "times a quarter": Spelling(lambda p, x: _window_sum(x) * 0.25),
    "reshape": Spelling(lambda p, x: _windows(x).mean((2, 4))),
    "mean of mean": only(lambda p, x: _windows(x).mean(2).mean(3), "plain sums"),
    "kernel": only(lambda p, x: _mean_kernel(x), "plain sums"),
    "mean of stack": Spelling(lambda p, x: jnp.stack(_corners(x)).mean(0)),
    "einsum": only(
        lambda p, x: jnp.einsum("bhiwjc,ij->bhwc", _windows(x), jnp.ones((2, 2)) / 4), "plain sums"
    ),
}


def _middle(x):
    return tuple(range(1, x.ndim - 1))


MEAN = {
    "plain": Spelling(lambda p, x: x.mean(_middle(x))),
    "sum / n": Spelling(lambda p, x: x.sum(_middle(x)) / (x[0, ..., 0].size)),
    "reshape": Spelling(lambda p, x: x.reshape(x.shape[0], -1, x.shape[-1]).mean(1)),
    "einsum": only(lambda p, x: jnp.einsum("b...c->bc", x) / (x[0, ..., 0].size), "plain sums"),
    "vmap": Spelling(lambda p, x: jax.vmap(lambda s: s.mean(tuple(range(s.ndim - 1))))(x)),
    "product with ones": only(
        lambda p, x: jnp.einsum(
            "bnc,n->bc",
            x.reshape(x.shape[0], -1, x.shape[-1]),
            jnp.full(x[0, ..., 0].size, 1 / x[0, ..., 0].size),
        ),
        "plain sums",
    ),
}

RESIZE = {
    "plain": Spelling(lambda p, x: jnp.repeat(jnp.repeat(x, 2, 1), 2, 2)),
    "jax.image.resize": Spelling(
        lambda p, x: jax.image.resize(
            x, (x.shape[0], 2 * x.shape[1], 2 * x.shape[2], x.shape[3]), "nearest"
        )
    ),
    "broadcast": Spelling(
        lambda p, x: jnp.broadcast_to(
            x[:, :, None, :, None], (*x.shape[:2], 2, x.shape[2], 2, x.shape[3])
        ).reshape(x.shape[0], 2 * x.shape[1], 2 * x.shape[2], x.shape[3])
    ),
    "constant matrix": Spelling(
        lambda p, x: jnp.einsum(
            "bhwc,hi,wj->bijc",
            x,
            jnp.repeat(jnp.eye(x.shape[1]), 2, 1),
            jnp.repeat(jnp.eye(x.shape[2]), 2, 1),
        )
    ),
}
