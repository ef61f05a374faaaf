"""Users' rules for operations that LRP does not know: by primitive, or by the name of a jit."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

from isnet_jax.errors import UserError

Handler = Literal["linear", "activation"] | Callable[..., Any]

_handlers: dict[str, Handler] = {}


def register_rule(name: str, handler: Handler) -> None:
    """Teach LRP an operation.

    Args:
      name: a primitive's name, or the name of a function under `jax.jit`, which then is one
        opaque operation.
      handler: "linear" (the plain VJP), "activation" (one value in, one of the same shape out:
        the composite's activation rule), or a pure function
        `(inputs, output, cotangent) -> cotangents of the floating-point inputs`, called with a
        tuple of arrays and returning a tuple; it must be differentiable by JAX.

    Raises:
      UserError: the handler is none of these.
    """
    if handler not in ("linear", "activation") and not callable(handler):
        raise UserError(
            f'register_rule({name!r}): the handler is {handler!r}; expected "linear", '
            '"activation" or a function (inputs, output, cotangent) -> cotangents.'
        )
    _handlers[name] = handler


def lookup(name: str) -> Handler | None:
    return _handlers.get(name)
