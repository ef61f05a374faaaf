"""What the user says of a value or a function, where the program does not show it.

A marked value carries its mark as a `checkpoint_name`, a marked function is a `jax.jit`; their
names begin with a prefix that no Python name can have, so that nothing else is taken for a mark.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, Literal, get_args

import jax
from jax.ad_checkpoint import checkpoint_name

from isnet_jax.errors import UserError
from isnet_jax.lrp.trace.jaxpr import Operation

Meaning = Literal["weight", "fixed", "constant", "batch_statistics", "norm_statistics"]
_PREFIX = "isnet_jax.lrp: "
_ACTIVATION, _LINEAR = f"{_PREFIX}activation", f"{_PREFIX}linear"


def mark(value: Any, meaning: Meaning) -> Any:
    """Say what a value is to relevance; it overrides what would be recognised.

    Args:
      value: an array, or a tree of them.
      meaning: "weight": a product or convolution with it is a layer, whatever it was computed
        from; no relevance goes through it. "fixed": such a product is none and only moves
        relevance (the plain VJP). "batch_statistics", "norm_statistics": a norm's statistic,
        treated as the composite says.
        "constant": no relevance goes through it.

    Returns:
      The value, unchanged; without `lrp.vjp` the mark does nothing.

    Raises:
      UserError: another meaning.
    """
    if meaning not in get_args(Meaning):
        listed = ", ".join(map(repr, get_args(Meaning)))
        raise UserError(f"lrp.mark: the meaning is {meaning!r}; expected one of {listed}.")
    return checkpoint_name(value, f"{_PREFIX}{meaning}")


def as_activation(f: Callable[..., Any]) -> Callable[..., Any]:
    """`f(x, ...)` as one activation of `x`: the composite's activation rule applies from x to f(x).

    Args:
      f: an array in, one of the same shape out; further arguments are parameters.
    """
    return _named(f, _ACTIVATION)


def as_linear(f: Callable[..., Any]) -> Callable[..., Any]:
    """`f` passed through: relevance goes by its plain VJP, no rule applies inside."""
    return _named(f, _LINEAR)


def _named(f: Callable[..., Any], name: str) -> Callable[..., Any]:
    def run(*arguments: Any) -> Any:
        return f(*arguments)

    run.__name__ = run.__qualname__ = name
    compiled = jax.jit(run)

    @functools.wraps(f, updated=())
    def marked(*arguments: Any) -> Any:
        return compiled(*arguments)

    return marked


def is_mark(name: str) -> bool:
    """Whether a jit's name is a mark of ours."""
    return name in (_ACTIVATION, _LINEAR)


def handler(name: str) -> Literal["activation", "linear"] | None:
    """What a marked function is to be taken for."""
    if name == _ACTIVATION:
        return "activation"
    return "linear" if name == _LINEAR else None


def meaning_of(operation: Operation) -> str | None:
    """What the user says of the value that the operation marks."""
    if operation.name != "name" or not operation.params["name"].startswith(_PREFIX):
        return None
    return operation.params["name"].removeprefix(_PREFIX)
