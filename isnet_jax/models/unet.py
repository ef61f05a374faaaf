"""U-Net (Ronneberger, Fischer and Brox, MICCAI 2015, figure 1), smaller and with batch norm."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from isnet_jax.models.layers import BatchNorm, Conv, Images, Linear, Maps, max_pool
from isnet_jax.models.network import Network, Stages, require_side


class Level(nnx.Module):
    """Two 3x3 convolutions, each followed by batch norm and ReLU."""

    def __init__(self, in_channels: int, channels: int, *, rngs: nnx.Rngs):
        self.conv1 = Conv(in_channels, channels, 3, rngs=rngs)
        self.bn1 = BatchNorm(channels, rngs=rngs)
        self.conv2 = Conv(channels, channels, 3, rngs=rngs)
        self.bn2 = BatchNorm(channels, rngs=rngs)

    def __call__(self, x: Images) -> Maps:
        x = nnx.relu(self.bn1(self.conv1(x)))
        return nnx.relu(self.bn2(self.conv2(x)))


class UNet(Network):
    """Images to logits (B, H, W, classes): each pixel's, from coarse maps and from fine ones.

    On the way down a 2x2 max-pool halves the maps after each level; on the way up each map is
    doubled and joined to that of the same size from the way down.

    Args:
      widths: channels of each level, from the finest on.
      shared: options of every `Network`.
    """

    def __init__(
        self,
        num_classes: int,
        *,
        widths: Sequence[int] = (16, 32, 64, 128),
        rngs: nnx.Rngs,
        **shared: Any,
    ):
        super().__init__(rngs=rngs, **shared)
        channels = [self.in_channels, *widths]
        pairs = zip(channels, widths, strict=False)
        self.down = nnx.List([Level(a, b, rngs=rngs) for a, b in pairs])
        fine = list(widths[-2::-1])
        coarse = list(widths[:0:-1])
        self.up = nnx.List([Level(a + b, b, rngs=rngs) for a, b in zip(coarse, fine, strict=True)])
        self.out = Linear(widths[0], num_classes, rngs=rngs)

    @property
    def head(self) -> Linear:
        return self.out

    @property
    def stages(self) -> Stages:
        names = [f"{way}.{n}" for way in ("down", "up") for n in range(len(getattr(self, way)))]
        return tuple((name,) for name in names)

    def embed(self, x: Images) -> Float[Array, "batch height width features"]:
        require_side(self, x, 2 ** (len(self.down) - 1))
        return way_up(self.up, way_down(self.down, x))


def way_down(levels: nnx.List[Level], x: Images) -> list[Array]:
    """The maps of each level, from the finest on."""
    maps: list[Array] = []
    for number, level in enumerate(levels):
        x = level(max_pool(x, 2) if number else x)
        maps.append(x)
    return maps


def way_up(levels: nnx.List[Level], maps: Sequence[Array]) -> Maps:
    """Maps of the images' size, from those of the way down."""
    x = maps[-1]
    for level, beside in zip(levels, maps[-2::-1], strict=True):
        x = level(jnp.concatenate([_doubled(x, beside.shape[1:3]), beside], -1))
    return x


def _doubled(x: Images, size: tuple[int, ...]) -> Maps:
    """Each pixel four times; a row and a column more where the finer map's side is odd."""
    x = x.repeat(2, 1).repeat(2, 2)
    missing = [(0, 0), *((0, want - have) for want, have in zip(size, x.shape[1:3], strict=True))]
    return jnp.pad(x, [*missing, (0, 0)], mode="edge")
