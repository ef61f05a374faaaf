"""Image classifiers that ignore biased backgrounds: ISNet and functional LRP in JAX."""

import importlib
from typing import TYPE_CHECKING, Any

from isnet_jax.errors import UserError

if TYPE_CHECKING:
    from isnet_jax import lrp, models
    from isnet_jax.classification import Classification
    from isnet_jax.config import ISNetConfig
    from isnet_jax.objective import isnet_loss, plain_loss

_HOMES = {
    "Classification": "classification",
    "ISNetConfig": "config",
    "isnet_loss": "objective",
    "plain_loss": "objective",
}
__all__ = [
    "Classification", "ISNetConfig", "UserError", "isnet_loss", "lrp", "models", "plain_loss",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    """The public names, imported on first use: the command line's help needs none of them."""
    if name in ("lrp", "models"):
        return importlib.import_module(f"isnet_jax.{name}")
    if name in _HOMES:
        return getattr(importlib.import_module(f"isnet_jax.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'isnet_jax' has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*globals(), *__all__]
