"""What an evaluation is differentiated by: zeros for inputs and taps, and the token."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from isnet_jax.lrp.run.carriers import zeros_like
from isnet_jax.lrp.trace.jaxpr import varying_like


def carrier_for(leaf: jax.Array) -> jax.Array | None:
    """Zeros whose cotangent is the leaf's relevance, in float32 or wider; None for integers."""
    return zeros_like(leaf) if jnp.issubdtype(leaf.dtype, jnp.inexact) else None


def zeros_for(shapes: Mapping[str, jax.ShapeDtypeStruct], leaves: list[Any]) -> dict[str, Any]:
    """Zeros of these shapes that vary, under shard_map, over the axes that the leaves vary over."""
    return {
        name: functools.reduce(varying_like, leaves, jnp.zeros(kind.shape, kind.dtype))
        for name, kind in shapes.items()
    }


def token_for(leaves: list[Any]) -> jax.Array:
    """The scalar that every attached pullback takes part in the inner pass by."""
    floats = [leaf.dtype for leaf in leaves if jnp.issubdtype(leaf.dtype, jnp.floating)]
    dtype = functools.reduce(jnp.promote_types, floats, jnp.dtype(jnp.float32))
    return functools.reduce(varying_like, leaves, jnp.zeros((), dtype))
