"""VGG (Simonyan and Zisserman, ICLR 2015, table 1), with torchvision's names."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import jax.numpy as jnp
from flax import nnx
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Float

from isnet_jax.models.layers import (
    BatchNorm,
    Conv,
    Identity,
    Images,
    Linear,
    Maps,
    adaptive_average_pool,
    max_pool,
)
from isnet_jax.models.network import Network, Stages, rematerialised, require_side

# Convolutions in each of the five stages of widths 64, 128, 256, 512, 512.
DEPTHS = {11: (1, 1, 2, 2, 2), 13: (2, 2, 2, 2, 2), 16: (2, 2, 3, 3, 3), 19: (2, 2, 4, 4, 4)}


class Relu(nnx.Module):
    """A ReLU that holds its place in torchvision's numbering."""

    def __call__(self, x: Array) -> Array:
        return nnx.relu(x)


class Pool(nnx.Module):
    """A 2x2 max-pool whose output is named for `lrp.vjp(..., taps=...)`."""

    def __init__(self, name: str):
        self.name = name

    def __call__(self, x: Images) -> Maps:
        return checkpoint_name(max_pool(x, 2), self.name)


class VGG(Network):
    """Five stages of 3x3 convolutions, each followed by a max-pool, and three dense layers.

    The max-pools' outputs are named "pool1" to "pool5".

    Args:
      hidden: width of the first two dense layers.
      dropout: before each of the last two dense layers.
      remat: keep only convolutions and dense layers of each stage for the gradient: less memory.
      shared: other options of every `Network`.
    """

    supervised_places = ("pool1", "pool2", "pool3", "pool4", "pool5")

    def __init__(
        self,
        num_classes: int,
        *,
        depths: Sequence[int],
        batch_norm: bool = False,
        hidden: int = 4096,
        dropout: float = 0.5,
        remat: bool = False,
        rngs: nnx.Rngs,
        **shared: Any,
    ):
        super().__init__(dropout=dropout, rngs=rngs, **shared)
        self.remat = remat
        layers: list[nnx.Module] = []
        channels = self.in_channels
        for stage, (width, depth) in enumerate(
            zip((64, 128, 256, 512, 512), depths, strict=True), start=1
        ):
            for _ in range(depth):
                layers.append(Conv(channels, width, 3, use_bias=True, rngs=rngs))
                if batch_norm:
                    layers.append(BatchNorm(width, rngs=rngs))
                layers.append(Relu())
                channels = width
            layers.append(Pool(f"pool{stage}"))
        self.features = nnx.List(layers)
        self.classifier = nnx.List(
            [
                Linear(channels * 7 * 7, hidden, rngs=rngs),
                Relu(),
                nnx.Dropout(dropout, rngs=rngs) if dropout else Identity(),
                Linear(hidden, hidden, rngs=rngs),
                Relu(),
                Identity(),
                Linear(hidden, num_classes, rngs=rngs),
            ]
        )

    @property
    def head(self) -> Linear:
        last = self.classifier[-1]
        assert isinstance(last, Linear)
        return last

    @property
    def stages(self) -> Stages:
        """The convolutions between pools, then each of the first two dense layers."""
        stages: list[tuple[str, ...]] = [()]
        for place, layer in enumerate(self.features):
            stages[-1] += (f"features.{place}",)
            if isinstance(layer, Pool):
                stages.append(())
        return (*stages[:-1], ("classifier.0",), ("classifier.3",))

    def maps(self, x: Images) -> Maps:
        require_side(self, x, 32)
        stage: list[nnx.Module] = []
        for layer in self.features:
            stage.append(layer)
            if isinstance(layer, Pool):
                if self.remat:
                    x = rematerialised(_in_turn, nnx.List(stage), x)
                else:
                    x = _in_turn(stage, x)
                stage = []
        return x

    def pooled(self, maps: Maps) -> Float[Array, "batch pooled"]:
        x = adaptive_average_pool(maps, 7)
        # torchvision flattens channels first.
        x = jnp.moveaxis(x, -1, 1).reshape(x.shape[0], -1)
        return _in_turn(self.classifier[:-1], x)


def _in_turn(layers: Iterable[Any], x: Array) -> Array:
    for layer in layers:
        x = layer(x)
    return x
