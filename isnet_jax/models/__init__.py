"""Classifiers in Flax NNX: images (B, H, W, C) in [0, 1] to logits (B, classes)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from flax import nnx

from isnet_jax.errors import UserError, suggest
from isnet_jax.models.convolution import convolve
from isnet_jax.models.resnet import ResNet
from isnet_jax.models.small import Compact, Small
from isnet_jax.models.torch_weights import load_torch, torch_names

_MODELS: dict[str, Callable[..., nnx.Module]] = {
    "small": Small,
    "compact": Compact,
    "resnet18": ResNet,
}


def create(name: str, *, num_classes: int, rngs: nnx.Rngs, **options: Any) -> nnx.Module:
    """A freshly initialised network in train mode.

    Args:
      name: one of `names()`.
      num_classes: at least 1.
      rngs: `nnx.Rngs(seed)`; its "params" stream draws the weights.
      options: of the network's class, such as `in_channels=1`.

    Raises:
      UserError: an unknown name (the nearest one is suggested) or num_classes below 1.
    """
    if name not in _MODELS:
        raise UserError(suggest(name, _MODELS, what="model"))
    if num_classes < 1:
        raise UserError(f"models.create: num_classes is {num_classes}; expected at least 1.")
    return _MODELS[name](num_classes, rngs=rngs, **options)


def names() -> tuple[str, ...]:
    """The networks that `create` knows."""
    return tuple(sorted(_MODELS))


__all__ = ["convolve", "create", "load_torch", "names", "torch_names"]
