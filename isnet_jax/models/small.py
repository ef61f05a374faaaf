"""Small networks: the golden values' one, and the compact CNN of the main job."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from flax import nnx
from jax.ad_checkpoint import checkpoint_name

from isnet_jax.models.layers import BatchNorm, Conv, Images, Linear, Maps, max_pool
from isnet_jax.models.network import Network, Stages, require_side


class Small(Network):
    """Three convolutions with a residual sum; for tests (tests/golden)."""

    def __init__(self, num_classes: int, *, rngs: nnx.Rngs, **shared: Any):
        super().__init__(rngs=rngs, **shared)
        self.conv1 = Conv(self.in_channels, 8, 3, use_bias=True, rngs=rngs)
        self.bn1 = BatchNorm(8, rngs=rngs)
        self.conv2 = Conv(8, 8, 3, use_bias=True, rngs=rngs)
        self.bn2 = BatchNorm(8, rngs=rngs)
        self.conv3 = Conv(8, 16, 3, stride=2, use_bias=True, rngs=rngs)
        self.fc = Linear(16, num_classes, rngs=rngs)

    @property
    def head(self) -> Linear:
        return self.fc

    @property
    def stages(self) -> Stages:
        return (("conv1", "bn1"), ("conv2", "bn2"), ("conv3",))

    def maps(self, x: Images) -> Maps:
        require_side(self, x, 2)
        x = max_pool(nnx.relu(self.bn1(self.conv1(x))), 2)
        x = nnx.relu(self.bn2(self.conv2(x)) + x)
        return nnx.relu(self.conv3(x))


class Compact(Network):
    """A plain CNN for 32x32 images that trains in minutes on two cores.

    Convolution 3x3, batch norm and ReLU for each width, a 2x2 max-pool before all but the first.
    Stride-1 convolutions only: the input gradients of strided ones are slow on CPUs. The
    max-pools' outputs are named "pool1", "pool2" and so on.

    Args:
      widths: channels of each convolution.
      shared: options of every `Network`.
    """

    def __init__(
        self,
        num_classes: int,
        *,
        widths: Sequence[int] = (16, 32, 64, 64),
        rngs: nnx.Rngs,
        **shared: Any,
    ):
        super().__init__(rngs=rngs, **shared)
        channels = [self.in_channels, *widths]
        self.convs = nnx.List(
            [Conv(a, b, 3, rngs=rngs) for a, b in zip(channels, widths, strict=False)]
        )
        self.norms = nnx.List([BatchNorm(width, rngs=rngs) for width in widths])
        self.fc = Linear(widths[-1], num_classes, rngs=rngs)
        self.supervised_places = tuple(f"pool{n}" for n in range(1, len(widths)))

    @property
    def head(self) -> Linear:
        return self.fc

    @property
    def stages(self) -> Stages:
        return tuple((f"convs.{n}", f"norms.{n}") for n in range(len(self.convs)))

    def maps(self, x: Images) -> Maps:
        require_side(self, x, 2 ** (len(self.convs) - 1))
        for number, (conv, norm) in enumerate(zip(self.convs, self.norms, strict=True)):
            if number:
                x = checkpoint_name(max_pool(x, 2), f"pool{number}")
            x = nnx.relu(norm(conv(x)))
        return x
