"""Operations whose value is untouched and whose inner pullback is LRP's.

Each returns its `value` argument bit for bit. The outer gradient of that value is therefore the
network's own; only the pullback that `lrp.vjp` builds sees the modified rule. A cotangent of
`None` is a symbolic zero: the work behind it is never emitted.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def attach(pullback: Callable[..., Any], value: Any, routes: Any, residuals: Any) -> Any:
    """`value`, whose cotangent g goes to `routes` as `pullback(residuals, g)`, and nowhere else.

    Args:
      pullback: a pure function `(residuals, g) -> cotangents of routes`, without captured arrays.
      value: an array that was computed by the user's own operation.
      routes: the arrays that receive a cotangent.
      residuals: arrays that the pullback needs; differentiated in the outer pass.
    """
    return value


def _attach_forward(pullback, value, routes, residuals):
    return value, residuals


def _attach_backward(pullback, residuals, g):
    return None, pullback(residuals, g), None


attach.defvjp(_attach_forward, _attach_backward)


def detach(value: Any) -> Any:
    """A constant for the inner pullback; the outer gradient flows (unlike `stop_gradient`)."""
    return attach(_nothing, value, (), ())


def _nothing(residuals, g):
    return ()


def half(value: Any) -> Any:
    """The product of two relevant operands: each receives half of the relevance."""
    return attach(_half, value, value, ())


def _half(residuals, g):
    return g / 2


def mark(value: Any, carrier: Any, times_value: bool = True) -> Any:
    """`value`; the cotangent of `carrier` (zeros of its shape) is the relevance `value * G`.

    Args:
      times_value: False: the carrier's cotangent is G.
    """
    return attach(_mark if times_value else _copy, value, (value, carrier), (value, carrier))


def _mark(residuals, g):
    value, carrier = residuals
    return g, value.astype(carrier.dtype) * g.astype(carrier.dtype)


def _copy(residuals, g):
    return g, g.astype(residuals[1].dtype)


def fork(zeros: Any, routes: Any) -> Any:
    """`zeros`, whose cotangent goes to each of `routes`, all of its shape and dtype."""
    return attach(_fork, zeros, routes, [None for _ in routes])


def _fork(residuals, g):
    return [g for _ in residuals]


def masked(value: Any, mask: Any) -> Any:
    """`value`, whose cotangent is multiplied by `mask`."""
    return attach(_masked, value, value, mask)


def _masked(mask, g):
    return g * mask.astype(g.dtype)
