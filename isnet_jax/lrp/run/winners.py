"""Maxima and minima: relevance goes to the winner, found by its place.

JAX's derivative of a maximum finds the winner by equality with the result. Under jit XLA may
compute the operand once more in another fusion, rounded otherwise; then no value equals the result
and the relevance is silently lost. A place cannot be lost that way. Where several values are the
largest the first one wins; JAX gives equal parts to them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial

import jax.numpy as jnp
from jax import Array, lax

from isnet_jax.lrp.run.cotangents import Attach
from isnet_jax.lrp.trace.jaxpr import Operation


def to_winner(
    attach: Attach,
    operation: Operation,
    inputs: Sequence[Array],
    value: Array,
    routes: Sequence[Array],
) -> Array:
    """`value`, whose cotangent goes to the winners' places in `routes`, shaped like `inputs`."""
    if operation.name in ("max", "min"):
        one, other = inputs
        first_wins = one >= other if operation.name == "max" else one <= other
        return attach(_to_either, value, tuple(routes), first_wins)
    (x,) = inputs
    axes = tuple(operation.params["axes"])
    find = lax.argmax if operation.name == "reduce_max" else lax.argmin
    kept = tuple(axis for axis in range(x.ndim) if axis not in axes)
    count = math.prod(x.shape[axis] for axis in axes)
    rows = jnp.transpose(x, (*kept, *axes)).reshape(*value.shape, count)
    place = find(rows, rows.ndim - 1, jnp.int32)
    return attach(partial(_to_place, x.shape, kept, axes), value, tuple(routes), place)


def _to_either(first_wins, g):
    return jnp.where(first_wins, g, 0), jnp.where(first_wins, 0, g)


def _to_place(shape, kept, axes, place, g):
    order = (*kept, *axes)
    sizes = [shape[axis] for axis in order]
    count = math.prod(shape[axis] for axis in axes)
    rows = jnp.where(jnp.arange(count) == place[..., None], g[..., None], 0)
    return (jnp.transpose(rows.reshape(sizes), [order.index(axis) for axis in range(len(shape))]),)
