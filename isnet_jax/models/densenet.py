"""DenseNet (Huang et al., CVPR 2017, table 1), with torchvision's names."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
from flax import nnx
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array

from isnet_jax.models.layers import (
    BatchNorm,
    Conv,
    Images,
    Linear,
    Maps,
    Moments,
    average_pool,
    max_pool,
)
from isnet_jax.models.network import Network, Stages, rematerialised, require_side


class Features(NamedTuple):
    """Maps that several batch norms read, with their moments (None: each norm measures itself).

    A map's moments are the same for all its readers, so they are computed once, when it is made.
    """

    maps: Maps
    moments: Moments | None

    @classmethod
    def joined(cls, parts: Sequence[Features]) -> Features:
        """The concatenation of the channels."""
        moments = [part.moments for part in parts if part.moments is not None]
        together = Moments.of_joined(moments) if len(moments) == len(parts) else None
        return cls(jnp.concatenate([part.maps for part in parts], -1), together)


def features_for(norm: BatchNorm, maps: Maps) -> Features:
    """Maps that are the last channels of what `norm` and others after it read."""
    return Features(maps, None if norm.use_running_average else norm.measure(maps))


class DenseLayer(nnx.Module):
    """A 1x1 convolution to four times the growth, then a 3x3 one to the growth."""

    def __init__(self, in_channels: int, growth: int, *, rngs: nnx.Rngs):
        self.norm1 = BatchNorm(in_channels, rngs=rngs)
        self.conv1 = Conv(in_channels, 4 * growth, 1, rngs=rngs)
        self.norm2 = BatchNorm(4 * growth, rngs=rngs)
        self.conv2 = Conv(4 * growth, growth, 3, rngs=rngs)

    def __call__(self, features: Features) -> Maps:
        x = self.conv1(nnx.relu(self.norm1(*features)))
        return self.conv2(nnx.relu(self.norm2(x)))


class DenseBlock(nnx.Module):
    """Layers that each read the concatenation of all maps before them."""

    def __init__(self, in_channels: int, depth: int, growth: int, *, remat: bool, rngs: nnx.Rngs):
        self.depth, self.remat = depth, remat
        for number in range(depth):
            layer = DenseLayer(in_channels + number * growth, growth, rngs=rngs)
            setattr(self, f"denselayer{number + 1}", layer)

    def __call__(self, x: Maps, last: BatchNorm) -> Features:
        """What `last`, the norm after the block, reads."""
        layers = [getattr(self, f"denselayer{number}") for number in range(1, self.depth + 1)]
        norms = [*(layer.norm1 for layer in layers), last]
        features = features_for(norms[0], x)
        if self.remat:
            parts = (features,)
            for layer, norm in zip(layers, norms[1:], strict=True):
                maps = rematerialised(_read_parts, layer, parts)
                parts = (*parts, features_for(norm, maps))
            return Features.joined(parts)
        for layer, norm in zip(layers, norms[1:], strict=True):
            features = Features.joined((features, features_for(norm, layer(features))))
        return features


def _read_parts(layer: DenseLayer, parts: tuple[Features, ...]) -> Array:
    return layer(Features.joined(parts))


class Transition(nnx.Module):
    """Halves channels and size; `extra_relu` is the papers' ReLU between convolution and pool."""

    def __init__(
        self, in_channels: int, out_channels: int, *, name: str, extra_relu: bool, rngs: nnx.Rngs
    ):
        self.norm = BatchNorm(in_channels, rngs=rngs)
        self.conv = Conv(in_channels, out_channels, 1, rngs=rngs)
        self.extra_relu = extra_relu
        self.name = name

    def __call__(self, features: Features) -> Maps:
        x = checkpoint_name(nnx.relu(self.norm(*features)), self.name)
        x = self.conv(x)
        return average_pool(nnx.relu(x) if self.extra_relu else x, 2)


class _Features(nnx.Module):
    def __init__(
        self,
        in_channels: int,
        *,
        stem: int,
        growth: int,
        depths: Sequence[int],
        transition_relu: bool,
        remat: bool,
        rngs: nnx.Rngs,
    ):
        self.blocks = len(depths)
        self.conv0 = Conv(in_channels, stem, 7, stride=2, rngs=rngs)
        self.norm0 = BatchNorm(stem, rngs=rngs)
        channels = stem
        for number, depth in enumerate(depths, start=1):
            block = DenseBlock(channels, depth, growth, remat=remat, rngs=rngs)
            setattr(self, f"denseblock{number}", block)
            channels += depth * growth
            if number < len(depths):
                transition = Transition(
                    channels,
                    channels // 2,
                    name=f"transition{number}",
                    extra_relu=transition_relu,
                    rngs=rngs,
                )
                setattr(self, f"transition{number}", transition)
                channels //= 2
        self.norm5 = BatchNorm(channels, rngs=rngs)
        self.channels = channels
        # A pixel must be left behind two strides, rounded up, and the transitions' pools.
        self.least_side = 4 * 2 ** (self.blocks - 1) - 3

    def __call__(self, x: Images) -> Maps:
        x = max_pool(nnx.relu(self.norm0(self.conv0(x))), 3, stride=2, padding=1)
        for number in range(1, self.blocks):
            transition = getattr(self, f"transition{number}")
            x = transition(getattr(self, f"denseblock{number}")(x, transition.norm))
        features = getattr(self, f"denseblock{self.blocks}")(x, self.norm5)
        return checkpoint_name(nnx.relu(self.norm5(*features)), "last")


class DenseNet(Network):
    """A stem, four dense blocks with transitions between them, global average, a dense head.

    The outputs of the transitions' first ReLUs and of the last ReLU are named "transition1" to
    "transition3" and "last".

    Args:
      transition_relu: the papers' networks have a ReLU more in each transition, torchvision's not.
      remat: keep convolutions, new maps and their moments for the gradient and compute the rest,
        concatenations too, again: memory grows with the depth and not its square.
      shared: options of every `Network`.
    """

    supervised_places = ("transition1", "transition2", "transition3", "last")

    def __init__(
        self,
        num_classes: int,
        *,
        depths: Sequence[int],
        growth: int = 32,
        stem: int = 64,
        transition_relu: bool = False,
        remat: bool = False,
        rngs: nnx.Rngs,
        **shared: Any,
    ):
        super().__init__(rngs=rngs, **shared)
        self.features = _Features(
            self.in_channels,
            stem=stem,
            growth=growth,
            depths=depths,
            transition_relu=transition_relu,
            remat=remat,
            rngs=rngs,
        )
        self.classifier = Linear(self.features.channels, num_classes, rngs=rngs)

    @property
    def head(self) -> Linear:
        return self.classifier

    @property
    def stages(self) -> Stages:
        """The stem, and each block with what follows it."""
        blocks = self.features.blocks
        after = [*(f"transition{n}" for n in range(1, blocks)), "norm5"]
        parts = [
            ("conv0", "norm0"),
            *((f"denseblock{n}", after[n - 1]) for n in range(1, blocks + 1)),
        ]
        return tuple(tuple(f"features.{name}" for name in part) for part in parts)

    def maps(self, x: Images) -> Maps:
        require_side(self, x, self.features.least_side)
        return self.features(x)
