"""Residual networks (He et al., CVPR 2016, table 1), with torchvision's names."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from flax import nnx
from jax.ad_checkpoint import checkpoint_name

from isnet_jax.models.layers import (
    BatchNorm,
    Conv,
    Images,
    Linear,
    Maps,
    max_pool,
)
from isnet_jax.models.network import Network, Stages, rematerialised


class _Block(nnx.Module):
    """Layers beside a shortcut: the identity, or a 1x1 convolution where that does not fit."""

    expansion = 1

    def __init__(self, in_channels: int, channels: int, stride: int, rngs: nnx.Rngs):
        projection: list[nnx.Module] = []
        if stride != 1 or in_channels != channels:
            projection.append(Conv(in_channels, channels, 1, stride=stride, rngs=rngs))
            projection.append(BatchNorm(channels, rngs=rngs))
        self.downsample = nnx.List(projection)

    def residual(self, x: Images) -> Maps:
        raise NotImplementedError

    def __call__(self, x: Images) -> Maps:
        shortcut = x
        for layer in self.downsample:
            shortcut = layer(shortcut)
        return nnx.relu(self.residual(x) + shortcut)


class BasicBlock(_Block):
    """Two 3x3 convolutions beside a shortcut."""

    def __init__(self, in_channels: int, channels: int, *, stride: int, rngs: nnx.Rngs):
        self.conv1 = Conv(in_channels, channels, 3, stride=stride, rngs=rngs)
        self.bn1 = BatchNorm(channels, rngs=rngs)
        self.conv2 = Conv(channels, channels, 3, rngs=rngs)
        self.bn2 = BatchNorm(channels, rngs=rngs)
        super().__init__(in_channels, channels, stride, rngs)

    def residual(self, x: Images) -> Maps:
        return self.bn2(self.conv2(nnx.relu(self.bn1(self.conv1(x)))))


class Bottleneck(_Block):
    """A 3x3 convolution between two 1x1 ones beside a shortcut; the stride is at the 3x3."""

    expansion = 4

    def __init__(self, in_channels: int, width: int, *, stride: int, rngs: nnx.Rngs):
        channels = width * self.expansion
        self.conv1 = Conv(in_channels, width, 1, rngs=rngs)
        self.bn1 = BatchNorm(width, rngs=rngs)
        self.conv2 = Conv(width, width, 3, stride=stride, rngs=rngs)
        self.bn2 = BatchNorm(width, rngs=rngs)
        self.conv3 = Conv(width, channels, 1, rngs=rngs)
        self.bn3 = BatchNorm(channels, rngs=rngs)
        super().__init__(in_channels, channels, stride, rngs)

    def residual(self, x: Images) -> Maps:
        x = nnx.relu(self.bn1(self.conv1(x)))
        return self.bn3(self.conv3(nnx.relu(self.bn2(self.conv2(x)))))


class ResNet(Network):
    """A stem, four stages of blocks, global average, a dense head.

    The stages' outputs are named "stage1" to "stage4" for `lrp.vjp(..., taps=...)`.

    Args:
      remat: keep only convolutions and dense layers of each block for the gradient: less memory.
      shared: options of every `Network`.
    """

    supervised_places = ("stage1", "stage2", "stage3", "stage4")

    def __init__(
        self,
        num_classes: int,
        *,
        block: type[BasicBlock] | type[Bottleneck],
        blocks: Sequence[int],
        remat: bool = False,
        rngs: nnx.Rngs,
        **shared: Any,
    ):
        super().__init__(rngs=rngs, **shared)
        self.remat = remat
        self.conv1 = Conv(self.in_channels, 64, 7, stride=2, rngs=rngs)
        self.bn1 = BatchNorm(64, rngs=rngs)
        channels = 64
        for stage, count in enumerate(blocks):
            width = 64 * 2**stage
            made = []
            for number in range(count):
                stride = 2 if stage and not number else 1
                made.append(block(channels, width, stride=stride, rngs=rngs))
                channels = width * block.expansion
            setattr(self, f"layer{stage + 1}", nnx.List(made))
        self.fc = Linear(channels, num_classes, rngs=rngs)

    @property
    def head(self) -> Linear:
        return self.fc

    @property
    def stages(self) -> Stages:
        return (("conv1", "bn1"), *((f"layer{number}",) for number in (1, 2, 3, 4)))

    def maps(self, x: Images) -> Maps:
        x = max_pool(nnx.relu(self.bn1(self.conv1(x))), 3, stride=2, padding=1)
        for number in (1, 2, 3, 4):
            for block in getattr(self, f"layer{number}"):
                x = rematerialised(type(block).__call__, block, x) if self.remat else block(x)
            x = checkpoint_name(x, f"stage{number}")
        return x
