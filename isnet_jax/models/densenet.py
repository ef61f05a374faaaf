"""DenseNet (Huang et al., CVPR 2017, table 1), with torchvision's names."""

from __future__ import annotations

from collections.abc import Sequence

import jax.numpy as jnp
from flax import nnx
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Float

from isnet_jax.models.layers import (
    BatchNorm,
    Conv,
    Images,
    Linear,
    Maps,
    average_pool,
    global_average,
    max_pool,
)


class DenseLayer(nnx.Module):
    """A 1x1 convolution to four times the growth, then a 3x3 one to the growth."""

    def __init__(self, in_channels: int, growth: int, *, rngs: nnx.Rngs):
        self.norm1 = BatchNorm(in_channels, rngs=rngs)
        self.conv1 = Conv(in_channels, 4 * growth, 1, rngs=rngs)
        self.norm2 = BatchNorm(4 * growth, rngs=rngs)
        self.conv2 = Conv(4 * growth, growth, 3, rngs=rngs)

    def __call__(self, x: Images) -> Maps:
        x = self.conv1(nnx.relu(self.norm1(x)))
        return self.conv2(nnx.relu(self.norm2(x)))


class DenseBlock(nnx.Module):
    """Layers that each read the concatenation of all maps before them."""

    def __init__(self, in_channels: int, depth: int, growth: int, *, rngs: nnx.Rngs):
        self.depth = depth
        for number in range(depth):
            layer = DenseLayer(in_channels + number * growth, growth, rngs=rngs)
            setattr(self, f"denselayer{number + 1}", layer)

    def __call__(self, x: Images) -> Maps:
        for number in range(1, self.depth + 1):
            x = jnp.concatenate([x, getattr(self, f"denselayer{number}")(x)], -1)
        return x


class Transition(nnx.Module):
    """Halves channels and size; `extra_relu` is the papers' ReLU between convolution and pool."""

    def __init__(
        self, in_channels: int, out_channels: int, *, name: str, extra_relu: bool, rngs: nnx.Rngs
    ):
        self.norm = BatchNorm(in_channels, rngs=rngs)
        self.conv = Conv(in_channels, out_channels, 1, rngs=rngs)
        self.extra_relu = extra_relu
        self.name = name

    def __call__(self, x: Images) -> Maps:
        x = checkpoint_name(nnx.relu(self.norm(x)), self.name)
        x = self.conv(x)
        return average_pool(nnx.relu(x) if self.extra_relu else x, 2)


class _Features(nnx.Module):
    def __init__(
        self,
        *,
        stem: int,
        growth: int,
        depths: Sequence[int],
        transition_relu: bool,
        in_channels: int,
        rngs: nnx.Rngs,
    ):
        self.blocks = len(depths)
        self.conv0 = Conv(in_channels, stem, 7, stride=2, rngs=rngs)
        self.norm0 = BatchNorm(stem, rngs=rngs)
        channels = stem
        for number, depth in enumerate(depths, start=1):
            setattr(self, f"denseblock{number}", DenseBlock(channels, depth, growth, rngs=rngs))
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

    def __call__(self, x: Images) -> Maps:
        x = max_pool(nnx.relu(self.norm0(self.conv0(x))), 3, stride=2, padding=1)
        for number in range(1, self.blocks + 1):
            x = getattr(self, f"denseblock{number}")(x)
            if number < self.blocks:
                x = getattr(self, f"transition{number}")(x)
        return checkpoint_name(nnx.relu(self.norm5(x)), "last")


class DenseNet(nnx.Module):
    """A stem, four dense blocks with transitions between them, global average, a dense head.

    The outputs of the transitions' first ReLUs and of the last ReLU are named "transition1" to
    "transition3" and "last".

    Args:
      transition_relu: the papers' networks have a ReLU more in each transition, torchvision's not.
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
        in_channels: int = 3,
        rngs: nnx.Rngs,
    ):
        self.features = _Features(
            stem=stem,
            growth=growth,
            depths=depths,
            transition_relu=transition_relu,
            in_channels=in_channels,
            rngs=rngs,
        )
        self.classifier = Linear(self.features.channels, num_classes, rngs=rngs)

    def __call__(self, x: Images) -> Float[Array, "batch classes"]:
        return self.classifier(global_average(self.features(x)))
