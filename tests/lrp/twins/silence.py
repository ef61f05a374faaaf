"""Values that depend on the input and carry no relevance, in a norm and an activation.

No site belongs there: the gradient of the logits through them is the model's own.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import lax, nn

from twins.layers import Spelling

SOURCES = {
    "stopped": lambda p, x: lax.stop_gradient(x) @ p["w"],
    "rounded": lambda p, x: jnp.round(3 * x) @ p["w"],
    "compared": lambda p, x: (x > 0.1).astype(x.dtype) @ p["w"],
    "looked_up": lambda p, x: jnp.asarray(p["w"])[jnp.argmax(x, -1)],
}


def _mean_square(v):
    return (v * v).mean(-1, keepdims=True) + 1e-3


def _norm(v):
    return v * lax.rsqrt(_mean_square(v))


def _in_cond(f):
    return lambda v: lax.cond(True, f, f, v)


def _in_scan(f):
    return lambda v: lax.scan(lambda c, v: (c, f(v)), None, v[None])[1][0]


def table(source: str) -> dict[str, Spelling]:
    """The input in a gate of the silent value, plus the value."""

    def spelling(norm=_norm, activation=nn.gelu, around=lambda f: f):
        def apply(p, x):
            v = around(lambda v: activation(norm(v)))(SOURCES[source](p, x))
            return x * nn.sigmoid(v) + v

        return Spelling(apply)

    return {
        "plain": spelling(),
        "norm by ** -0.5": spelling(lambda v: v * _mean_square(v) ** -0.5),
        "norm by / sqrt": spelling(lambda v: v / jnp.sqrt(_mean_square(v))),
        "norm in remat": spelling(jax.checkpoint(_norm)),
        "norm in jit": spelling(jax.jit(_norm)),
        "gelu in jit": spelling(activation=jax.jit(nn.gelu)),
        "gelu in remat": spelling(activation=jax.checkpoint(nn.gelu)),
        "in jit": spelling(around=jax.jit),
        "in remat": spelling(around=jax.checkpoint),
        "in cond": spelling(around=_in_cond),
        "in scan": spelling(around=_in_scan),
        "in vmap": spelling(around=jax.vmap),
    }


SILENT = {source: table(source) for source in SOURCES}
