"""Norms written in many ways: how the variance is computed, how it scales, how it is applied."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.ad_checkpoint import checkpoint_name

from isnet_jax import lrp

EPSILON = 1e-3
GROUPS = 2
NORMS = ("batch", "layer", "rms", "instance", "group")


def axes_of(kind: str, rank: int) -> tuple[int, ...]:
    """What the norm reduces; a group norm in the view with its groups apart."""
    match kind:
        case "batch":
            return tuple(range(rank - 1))
        case "instance":
            return tuple(range(1, rank - 1))
        case "group":
            return (*range(1, rank - 1), rank)
    return (rank - 1,)


def _count(d: Array, axes: tuple[int, ...]) -> int:
    return math.prod(d.shape[axis] for axis in axes)


def _mean(d, axes):
    return d.mean(axes, keepdims=True)


def _einsum(d, axes):
    letters = "abcdefg"[: d.ndim]
    kept = "".join(letter for axis, letter in enumerate(letters) if axis not in axes)
    square = jnp.einsum(f"{letters},{letters}->{kept}", d, d)
    return jnp.expand_dims(square, axes) / _count(d, axes)


def _dot(d, axes):
    """Samples, channels or groups as rows of a matrix, and each row times itself."""
    kept = [axis for axis in range(d.ndim) if axis not in axes]
    rows = d.transpose(*kept, *axes).reshape(*(d.shape[axis] for axis in kept), -1)
    return jnp.expand_dims(jnp.vecdot(rows, rows), axes) / rows.shape[-1]


# From the centred value and the value itself to the mean square of the centred one.
MOMENTS: dict[str, Callable[[Array, Array, Any], Array]] = {
    "mean(d ** 2)": lambda d, h, axes: _mean(d**2, axes),
    "mean(square)": lambda d, h, axes: _mean(jnp.square(d), axes),
    "mean(d * d)": lambda d, h, axes: _mean(d * d, axes),
    "mean(|d| ** 2)": lambda d, h, axes: _mean(jnp.abs(d) ** 2, axes),
    "sum / n": lambda d, h, axes: (d * d).sum(axes, keepdims=True) / _count(d, axes),
    "sum of d / n": lambda d, h, axes: (d * d * (1 / _count(d, axes))).sum(axes, keepdims=True),
    "einsum": lambda d, h, axes: _einsum(d, axes),
    "dot": lambda d, h, axes: _dot(d, axes),
    "jnp.std": lambda d, h, axes: jnp.sqrt(_mean(d * d, axes)) ** 2,
    "linalg.norm": lambda d, h, axes: (
        jnp.linalg.norm(_rows(d, axes), axis=-1).reshape(_reduced(d, axes)) ** 2 / _count(d, axes)
    ),
}
CENTRED_MOMENTS: dict[str, Callable[[Array, Array, Any], Array]] = {
    "jnp.var": lambda d, h, axes: h.var(axes, keepdims=True),
    "E[x^2] - E[x]^2": lambda d, h, axes: _mean(h * h, axes) - _mean(h, axes) ** 2,
    "stacked moments": lambda d, h, axes: _stacked(h, axes),
}


def _rows(d, axes):
    kept = [axis for axis in range(d.ndim) if axis not in axes]
    return d.transpose(*kept, *axes).reshape(*(d.shape[axis] for axis in kept), -1)


def _reduced(d, axes):
    return tuple(1 if axis in axes else size for axis, size in enumerate(d.shape))


def _stacked(h, axes):
    both = jnp.stack([h, h * h]).mean([axis + 1 for axis in axes], keepdims=True)
    return both[1] - both[0] ** 2


SCALES: dict[str, Callable[[Array, Array], Array]] = {
    "rsqrt": lambda d, v: d * lax.rsqrt(v),
    "/ sqrt": lambda d, v: d / jnp.sqrt(v),
    "* (1 / sqrt)": lambda d, v: d * (1 / jnp.sqrt(v)),
    "** -0.5": lambda d, v: d * v**-0.5,
    "/ ** 0.5": lambda d, v: d / v**0.5,
    "exp(-log / 2)": lambda d, v: d * jnp.exp(-0.5 * jnp.log(v)),
    "/ exp(log / 2)": lambda d, v: d / jnp.exp(jnp.log(v) / 2),
    "sqrt(1 / v)": lambda d, v: d * jnp.sqrt(1 / v),
    "reciprocal(sqrt)": lambda d, v: d * jnp.reciprocal(jnp.sqrt(v)),
    "pow(v, -1/2)": lambda d, v: d * lax.pow(v, jnp.full_like(v, -0.5)),
}

# A boundary between the statistics and their use.
BOUNDARIES: dict[str, Callable[[Callable[[Array], Any]], Callable[[Array], Any]]] = {
    "plain": lambda moments: moments,
    "moments in jit": jax.jit,
    "moments in remat": jax.checkpoint,
    "moments in cond": lambda moments: lambda h: lax.cond(True, moments, moments, h),
    "moments in scan": lambda moments: (
        lambda h: jax.tree.map(
            lambda a: a[0], lax.scan(lambda c, h: (c, moments(h)), None, h[None])[1]
        )
    ),
    "tap on moments": lambda moments: (
        lambda h: jax.tree.map(lambda a: lrp.tap(a, "moment"), moments(h))
    ),
    "moments named": lambda moments: (
        lambda h: jax.tree.map(lambda a: checkpoint_name(a, "batch_statistics"), moments(h))
    ),
    "barrier on moments": lambda moments: lambda h: lax.optimization_barrier(moments(h)),
    "device_put of moments": lambda moments: lambda h: jax.device_put(moments(h)),
}
FORMS = ("plain", "fused", "vmap", "repeat", "centring matrix", *tuple(BOUNDARIES)[1:])


def spellings(kind: str, rank: int) -> list[tuple[str, str, str]]:
    """(moments, scale, form) of each way to write this norm; the first is the plain one."""
    centred = kind != "rms"
    moments = [*MOMENTS, *(CENTRED_MOMENTS if centred else ())]
    forms = [
        form
        for form in FORMS
        if (form != "repeat" or kind == "group")
        and (form != "centring matrix" or kind == "layer")
        and (form != "fused" or kind != "group")
    ]
    plain = (moments[0], "rsqrt", "plain")
    mixed = [(m, s, "plain") for m in ("einsum", "mean(d * d)") for s in SCALES]
    alternatives = [
        *((m, "rsqrt", "plain") for m in moments),
        *((moments[0], s, "plain") for s in SCALES),
        *((moments[0], "rsqrt", f) for f in forms),
        *mixed,
    ]
    return [plain, *(a for a in dict.fromkeys(alternatives) if a != plain)]


def normalise(h: Array, kind: str, spelling, scale: Array, shift: Array, note) -> Array:
    """The norm of h with its affine map; `note` is told the moments."""
    moments_by, scale_by, form = spelling
    axes = axes_of(kind, h.ndim)
    if form == "vmap":
        axis = -1 if kind == "batch" else 0
        rest = (moments_by, scale_by, "plain")
        one, zero = jnp.ones(()), jnp.zeros(())

        def alone(s):
            whole = jnp.expand_dims(s, axis)
            return normalise(whole, kind, rest, one, zero, _nobody).take(0, axis)

        return jax.vmap(alone, axis, axis)(h) * scale + shift
    whole, view = h, h
    if kind == "group":
        view = h.reshape(*h.shape[:-1], GROUPS, h.shape[-1] // GROUPS)

    def moments(view):
        mean = _mean(view, axes) if kind != "rms" else jnp.zeros(_reduced(view, axes))
        by = MOMENTS.get(moments_by) or CENTRED_MOMENTS[moments_by]
        centred = view - mean if kind != "rms" else view
        return mean, by(centred, view, axes)

    mean, variance = BOUNDARIES.get(form, BOUNDARIES["plain"])(moments)(view)
    note(mean, variance)
    variance = variance + EPSILON
    if form == "repeat":
        width = h.shape[-1] // GROUPS
        mean, variance = (jnp.repeat(a[..., 0], width, -1) for a in (mean, variance))
        return SCALES[scale_by](whole - mean, variance) * scale + shift
    if form == "fused":
        factor = SCALES[scale_by](scale, variance)
        return h * factor + (shift - mean * factor if kind != "rms" else shift)
    if form == "centring matrix":
        size = h.shape[-1]
        centred = h @ (jnp.eye(size) - jnp.ones((size, size)) / size)
    else:
        centred = view - mean if kind != "rms" else view
    return SCALES[scale_by](centred, variance).reshape(h.shape) * scale + shift


def _nobody(mean, variance):
    """The moments are not noted."""
