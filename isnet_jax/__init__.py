"""Image classifiers that ignore biased backgrounds: ISNet and functional LRP in JAX."""

import importlib
from typing import TYPE_CHECKING, Any

from isnet_jax.errors import UserError

if TYPE_CHECKING:
    from isnet_jax import lrp, models
    from isnet_jax.objective import ISNetConfig, isnet_loss, plain_loss

__all__ = ["ISNetConfig", "UserError", "isnet_loss", "lrp", "models", "plain_loss"]


def __getattr__(name: str) -> Any:
    """The public names, imported on first use: the command line's help needs none of them."""
    if name in ("lrp", "models"):
        return importlib.import_module(f"isnet_jax.{name}")
    if name in __all__:
        return getattr(importlib.import_module("isnet_jax.objective"), name)
    raise AttributeError(f"module 'isnet_jax' has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*globals(), *__all__]
