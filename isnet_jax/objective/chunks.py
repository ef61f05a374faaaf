"""A sum over chunks whose gradient needs the memory of one."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array


def sum_over(f: Callable[[Array], tuple[Array, Any]], xs: Array) -> tuple[Array, Any]:
    """The sum of `f(x)[0]` and the stacked `f(x)[1]` over the leading axis of `xs`.

    The derivative of each term by what `f` closes over is taken as soon as its value is there, so
    that memory holds one term at a time and nothing is computed twice. `xs` and the second output
    have no derivative.
    """
    converted, constants = jax.closure_convert(f, xs[0])
    return _accumulated(converted, xs, constants)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _accumulated(f: Callable[..., Any], xs: Array, constants: list[Array]) -> tuple[Array, Any]:
    def step(total, x):
        value, auxiliary = f(x, *constants)
        return total + value, auxiliary

    return lax.scan(step, _zero_of(f, xs, constants), xs)


def _accumulated_forward(f, xs, constants):
    def step(carry, x):
        run = jax.value_and_grad(lambda constants: f(x, *constants), has_aux=True)
        (value, auxiliary), gradients = run(constants)
        total, so_far = carry
        return (total + value, jax.tree.map(jnp.add, so_far, gradients)), auxiliary

    start = _zero_of(f, xs, constants), jax.tree.map(jnp.zeros_like, constants)
    (total, gradients), auxiliary = lax.scan(step, start, xs)
    return (total, auxiliary), (xs, gradients)


def _accumulated_backward(f, residuals, cotangents):
    xs, gradients = residuals
    return jnp.zeros_like(xs), [cotangents[0].astype(g.dtype) * g for g in gradients]


_accumulated.defvjp(_accumulated_forward, _accumulated_backward)


def _zero_of(f: Callable[..., Any], xs: Array, constants: list[Array]) -> Array:
    value, _ = jax.eval_shape(f, xs[0], *constants)
    return jnp.zeros(value.shape, value.dtype)
