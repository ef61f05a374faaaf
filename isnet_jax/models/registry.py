"""Every network by name."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Iterable
from typing import Any

from flax import nnx

from isnet_jax.errors import UserError, suggest
from isnet_jax.models.densenet import DenseNet
from isnet_jax.models.network import Network
from isnet_jax.models.resnet import BasicBlock, Bottleneck, ResNet
from isnet_jax.models.small import Compact, Small
from isnet_jax.models.unet import UNet
from isnet_jax.models.vgg import DEPTHS, VGG
from isnet_jax.models.vit import VisionTransformer

_MODELS: dict[str, functools.partial[Network]] = {
    "small": functools.partial(Small),
    "compact": functools.partial(Compact),
    "resnet18": functools.partial(ResNet, block=BasicBlock, blocks=(2, 2, 2, 2)),
    "resnet34": functools.partial(ResNet, block=BasicBlock, blocks=(3, 4, 6, 3)),
    "resnet50": functools.partial(ResNet, block=Bottleneck, blocks=(3, 4, 6, 3)),
    "resnet101": functools.partial(ResNet, block=Bottleneck, blocks=(3, 4, 23, 3)),
    "resnet152": functools.partial(ResNet, block=Bottleneck, blocks=(3, 8, 36, 3)),
    **{
        f"vgg{depth}{suffix}": functools.partial(VGG, depths=depths, batch_norm=bool(suffix))
        for depth, depths in DEPTHS.items()
        for suffix in ("", "_bn")
    },
    "densenet121": functools.partial(DenseNet, depths=(6, 12, 24, 16)),
    "densenet161": functools.partial(DenseNet, depths=(6, 12, 36, 24), growth=48, stem=96),
    "densenet169": functools.partial(DenseNet, depths=(6, 12, 32, 32)),
    "densenet201": functools.partial(DenseNet, depths=(6, 12, 48, 32)),
    "densenet264": functools.partial(DenseNet, depths=(6, 12, 64, 48)),
    "vit_compact": functools.partial(VisionTransformer, width=32, depth=4, heads=4, patch=4),
    "vit_s_16": functools.partial(VisionTransformer, width=384, depth=12, heads=6),
    "vit_b_16": functools.partial(VisionTransformer, width=768, depth=12, heads=12),
    "vit_l_16": functools.partial(VisionTransformer, width=1024, depth=24, heads=16),
}

# Images to logits of each pixel; `list` does not name them.
_SEGMENTERS: dict[str, functools.partial[Network]] = {"unet": functools.partial(UNet)}
_ALL = _MODELS | _SEGMENTERS


def create(name: str, *, num_classes: int, rngs: nnx.Rngs, **given: Any) -> Network:
    """A freshly initialised network in train mode.

    Args:
      name: one of `models.list()`, or "unet", whose logits are (B, H, W, classes).
      num_classes: at least 1.
      rngs: `nnx.Rngs(seed)`; its "params" stream draws the weights, "dropout" what is dropped.
      given: options of every `Network`: in_channels, dropout, dtype, normalisation; and of its
        class, such as remat, DenseNet's transition_relu or ViT's image_size.

    Raises:
      UserError: an unknown name or option (the nearest one is suggested), or a value out of range.
    """
    check_options(name, given)
    if num_classes < 1:
        raise UserError(f"models.create: num_classes is {num_classes}; expected at least 1.")
    return _ALL[name](num_classes, rngs=rngs, **given)


def check_options(name: str, given: Iterable[str]) -> None:
    """Whether a network has options of these names.

    Args:
      name: one of `models.list()`.

    Raises:
      UserError: an unknown network or option; networks that have the option are named, or the
        nearest name.
    """
    known = options(name)
    for option in given:
        if option in known:
            continue
        others = [other for other in list() if option in options(other)]
        if others:
            raise UserError(f"{name} has no option {option!r}. Those have it: {', '.join(others)}.")
        raise UserError(suggest(option, known, what=f"option of {name}"))


def list() -> tuple[str, ...]:
    """The networks that `create` knows."""
    return tuple(sorted(_MODELS))


def options(name: str) -> set[str]:
    """The names of the options that `create` takes for a network.

    Args:
      name: one of `models.list()`.

    Raises:
      UserError: an unknown name; the nearest is suggested.
    """
    if name not in _ALL:
        raise UserError(suggest(name, _MODELS, what="model"))
    make = _ALL[name]
    keywords = {
        parameter.name
        for kind in (make.func, Network)
        for parameter in inspect.signature(kind.__init__).parameters.values()
        if parameter.kind is parameter.KEYWORD_ONLY
    }
    return keywords - set(make.keywords) - {"rngs"}
