"""Residual networks (He et al., CVPR 2016, table 1), with torchvision's names."""

from __future__ import annotations

from collections.abc import Sequence

from flax import nnx
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Float

from isnet_jax.models.layers import (
    BatchNorm,
    Conv,
    Images,
    Linear,
    Maps,
    global_average,
    max_pool,
)


class BasicBlock(nnx.Module):
    """Two 3x3 convolutions beside a shortcut."""

    expansion = 1

    def __init__(self, in_channels: int, channels: int, *, stride: int, rngs: nnx.Rngs):
        self.conv1 = Conv(in_channels, channels, 3, stride=stride, rngs=rngs)
        self.bn1 = BatchNorm(channels, rngs=rngs)
        self.conv2 = Conv(channels, channels, 3, rngs=rngs)
        self.bn2 = BatchNorm(channels, rngs=rngs)
        self.downsample = _projection(in_channels, channels, stride, rngs)

    def __call__(self, x: Images) -> Maps:
        shortcut = x
        for layer in self.downsample:
            shortcut = layer(shortcut)
        x = nnx.relu(self.bn1(self.conv1(x)))
        return nnx.relu(self.bn2(self.conv2(x)) + shortcut)


class Bottleneck(nnx.Module):
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
        self.downsample = _projection(in_channels, channels, stride, rngs)

    def __call__(self, x: Images) -> Maps:
        shortcut = x
        for layer in self.downsample:
            shortcut = layer(shortcut)
        x = nnx.relu(self.bn1(self.conv1(x)))
        x = nnx.relu(self.bn2(self.conv2(x)))
        return nnx.relu(self.bn3(self.conv3(x)) + shortcut)


def _projection(in_channels: int, channels: int, stride: int, rngs: nnx.Rngs) -> nnx.List:
    """What a shortcut needs to fit its block's output: nothing, or a 1x1 convolution and norm."""
    if stride == 1 and in_channels == channels:
        return nnx.List([])
    return nnx.List(
        [
            Conv(in_channels, channels, 1, stride=stride, rngs=rngs),
            BatchNorm(channels, rngs=rngs),
        ]
    )


class ResNet(nnx.Module):
    """A stem, four stages of blocks, global average, a dense head.

    The stages' outputs are named "stage1" to "stage4" for `lrp.vjp(..., taps=...)`.
    """

    supervised_places = ("stage1", "stage2", "stage3", "stage4")

    def __init__(
        self,
        num_classes: int,
        *,
        block: type[BasicBlock] | type[Bottleneck],
        blocks: Sequence[int],
        in_channels: int = 3,
        rngs: nnx.Rngs,
    ):
        self.conv1 = Conv(in_channels, 64, 7, stride=2, rngs=rngs)
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

    def __call__(self, x: Images) -> Float[Array, "batch classes"]:
        x = max_pool(nnx.relu(self.bn1(self.conv1(x))), 3, stride=2, padding=1)
        for number in (1, 2, 3, 4):
            for block in getattr(self, f"layer{number}"):
                x = block(x)
            x = checkpoint_name(x, f"stage{number}")
        return self.fc(global_average(x))
