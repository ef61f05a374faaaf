"""Operations whose value is untouched and whose inner pullback is LRP's.

Each returns its `value` argument bit for bit. The outer gradient of that value is the network's
own by construction: every one of them also takes the *token*, an input of the inner `jax.vjp`
whatever the program is. JAX therefore resolves every one in the inner pass, and the outer pass
sees its value only. A cotangent of `None` is a symbolic zero: the work behind it is never emitted.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _attach(pullback: Callable[..., Any], token: Any, value: Any, routes: Any, residuals: Any):
    return value


def _attach_forward(pullback, token, value, routes, residuals):
    return value, residuals


def _attach_backward(pullback, residuals, g):
    return None, None, pullback(residuals, g), None


_attach.defvjp(_attach_forward, _attach_backward)


@partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _call(run: Callable[..., Any], moving: tuple[int, ...], token: Any, inputs: tuple[Any, ...]):
    return run(*inputs)


def _call_forward(run, moving, token, inputs):
    return run(*inputs), inputs


def _call_backward(run, moving, inputs, cotangents):
    def of_moving(*values):
        merged = list(inputs)
        for position, value in zip(moving, values, strict=True):
            merged[position] = value
        return [y for y in run(*merged) if jnp.issubdtype(y.dtype, jnp.inexact)]

    wanted = [g for g in cotangents if g.dtype != jax.dtypes.float0]
    found = jax.vjp(of_moving, *(inputs[position] for position in moving))[1](wanted)
    by_position = dict(zip(moving, found, strict=True))
    return None, tuple(by_position.get(position) for position in range(len(inputs)))


_call.defvjp(_call_forward, _call_backward)


class Attach:
    """Attaches pullbacks to values, in one evaluation of a program.

    Args:
      token: a scalar input of the inner `jax.vjp`.
    """

    def __init__(self, token: Any):
        self.token = token

    def __call__(
        self, pullback: Callable[..., Any], value: Any, routes: Any, residuals: Any
    ) -> Any:
        """`value`, whose cotangent g goes to `routes` as `pullback(residuals, g)`, only there.

        Args:
          pullback: a pure function `(residuals, g) -> cotangents of routes`, without captured
            arrays.
          value: an array that was computed by the user's own operation.
          routes: the arrays that receive a cotangent.
          residuals: arrays that the pullback needs; differentiated in the outer pass.
        """
        return _attach(pullback, self.token, value, routes, residuals)

    def called(self, run: Callable[..., Any], inputs: list[Any], moving: tuple[int, ...]) -> Any:
        """`run(*inputs)`, an operation with a derivative of its own, which both passes take.

        JAX applies such a derivative in the innermost pass only; the outer one would
        differentiate what its forward rule computes.

        Args:
          moving: the positions of the inputs that carry relevance.
        """
        return _call(run, moving, self.token, tuple(inputs))

    def detached(self, value: Any) -> Any:
        """A constant for the inner pullback; the outer gradient flows (unlike `stop_gradient`)."""
        return self(_nothing, value, (), ())

    def halved(self, value: Any) -> Any:
        """The product of two relevant operands: each receives half of the relevance."""
        return self(_half, value, value, ())

    def marked(self, value: Any, carrier: Any, times_value: bool = True) -> Any:
        """`value`; the cotangent of `carrier` (zeros of its shape) is the relevance `value * G`.

        Args:
          times_value: False: the carrier's cotangent is G.
        """
        pullback = _mark if times_value else _copy
        return self(pullback, value, (value, carrier), (value, carrier))

    def forked(self, zeros: Any, routes: list[Any]) -> Any:
        """`zeros`, whose cotangent goes to each of `routes`, all of its shape and dtype."""
        return self(_fork, zeros, routes, [None for _ in routes])

    def masked(self, value: Any, mask: Any) -> Any:
        """`value`, whose cotangent is multiplied by `mask`."""
        return self(_masked, value, value, mask)


def _nothing(residuals, g):
    return ()


def _half(residuals, g):
    return g / 2


def _mark(residuals, g):
    value, carrier = residuals
    return g, value.astype(carrier.dtype) * g.astype(carrier.dtype)


def _copy(residuals, g):
    return g, g.astype(residuals[1].dtype)


def _fork(residuals, g):
    return [g for _ in residuals]


def _masked(mask, g):
    return g * mask.astype(g.dtype)
