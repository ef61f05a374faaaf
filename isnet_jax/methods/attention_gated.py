"""AG-Sononet: attention gates over a grid of places, with a head of each supervised too."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import ClassVar

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from isnet_jax.errors import UserError
from isnet_jax.methods.method import Blueprint, Context, LossAndAux, Method
from isnet_jax.models.layers import Conv, Images, Linear, Maps, global_average
from isnet_jax.models.network import Network, require_side
from isnet_jax.models.unet import Level, way_down
from isnet_jax.objective.batch import Batch
from isnet_jax.objective.classification import classified

_FLOOR = 1e-8


class Gate(nnx.Module):
    """Grid attention: the mean of maps over places, weighted by how they go with coarser ones.

    `q = psi(relu(theta(maps) + phi(signal)))`, theta, phi and psi 1x1 convolutions and the signal
    repeated to the maps' size; the weights are `q - min q` over their sum.
    """

    def __init__(self, channels: int, signal: int, *, rngs: nnx.Rngs):
        self.theta = Conv(channels, signal, 1, rngs=rngs)
        self.phi = Conv(signal, signal, 1, use_bias=True, rngs=rngs)
        self.psi = Conv(signal, 1, 1, use_bias=True, rngs=rngs)

    def weights(self, maps: Maps, signal: Array) -> Float[Array, "batch new_height new_width 1"]:
        """Of each place, their sum 1; 0 where all places are alike."""
        height, width = maps.shape[1:3]
        rows, columns = (
            -(-m // s) for m, s in zip((height, width), signal.shape[1:3], strict=True)
        )
        coarse = self.phi(signal).repeat(rows, 1).repeat(columns, 2)[:, :height, :width]
        q = self.psi(nnx.relu(self.theta(maps) + coarse))
        above = q - q.min((1, 2), keepdims=True)
        return above / (above.sum((1, 2), keepdims=True) + _FLOOR)

    def __call__(self, maps: Maps, signal: Array) -> Float[Array, "batch features"]:
        return (maps * self.weights(maps, signal)).sum((1, 2))


class Sononet(Network):
    """Levels of two convolutions; the last two before the coarsest are gated by the coarsest.

    Args:
      widths: channels of each level, from the finest on; a 2x2 max-pool is between them.
    """

    def __init__(
        self, num_classes: int, *, widths: Sequence[int], in_channels: int, rngs: nnx.Rngs
    ):
        super().__init__(in_channels=in_channels, rngs=rngs)
        pairs = zip([in_channels, *widths], widths, strict=False)
        self.levels = nnx.List([Level(a, b, rngs=rngs) for a, b in pairs])
        self.gates = nnx.List([Gate(width, widths[-1], rngs=rngs) for width in widths[-3:-1]])
        self.widths = tuple(widths[-3:])
        self.fc = Linear(sum(self.widths), num_classes, rngs=rngs)

    @property
    def head(self) -> Linear:
        return self.fc

    def attended(self, x: Images) -> list[Array]:
        """The features (B, F) of each gate, and the mean of the coarsest maps."""
        require_side(self, x, 2 ** (len(self.levels) - 1))
        *gated, coarsest = way_down(self.levels, x)[-3:]
        found = [gate(maps, coarsest) for gate, maps in zip(self.gates, gated, strict=True)]
        return [*found, global_average(coarsest)]

    def embed(self, x: Images) -> Float[Array, "batch features"]:
        return jnp.concatenate(self.attended(x), -1)


class Supervised(nnx.Module):
    """A network, and a head of each part of its features."""

    def __init__(self, network: Sononet, num_classes: int, rngs: nnx.Rngs):
        self.network = network
        heads = [Linear(width, num_classes, rngs=rngs) for width in network.widths]
        self.heads = nnx.List(heads)


@dataclasses.dataclass(frozen=True, kw_only=True)
class AttentionGated(Method):
    """Schlemper et al., Medical Image Analysis 53:197, 2019, AG-Sononet with deep supervision.

    The classification loss of a head that reads all features, and `head_weight` times those of
    three heads that read one gate's features each, or those of the coarsest maps; at run time the
    first one decides. The network takes the place of the user's; it learns from labels alone. The
    authors' has five levels, of two or three convolutions, and upsamples the signal bilinearly.

    Attributes:
      widths: channels of each level, three or more, from the finest on; each halves the image.
      head_weight: at least 0.
    """

    name: ClassVar[str] = "attention-gated"

    widths: tuple[int, ...] = (16, 32, 64, 128)
    head_weight: float = 0.1

    def __post_init__(self):
        if len(self.widths) < 3 or min(self.widths) < 1:
            raise UserError(
                f"attention-gated: widths are {self.widths}; expected three or more, each at "
                "least 1."
            )
        if not 0 <= self.head_weight < float("inf"):
            raise UserError(
                f"attention-gated: head_weight is {self.head_weight}; expected finite, at least 0."
            )

    def network(self, blueprint: Blueprint) -> nnx.Module:
        channels, rngs = blueprint.image_shape[-1], blueprint.rngs
        network = Sononet(
            blueprint.num_classes, widths=self.widths, in_channels=channels, rngs=rngs
        )
        return Supervised(network, blueprint.num_classes, rngs)

    def deployed(self, model: nnx.Module) -> nnx.Module:
        assert isinstance(model, Supervised)
        return model.network

    def loss(self, model: nnx.Module, batch: Batch, context: Context) -> LossAndAux:
        assert isinstance(model, Supervised)
        network = model.network
        parts = network.attended(network.prepared(batch.image))
        logits = network.decided(jnp.concatenate(parts, -1))

        def loss_of(logits: Float[Array, "batch classes"]) -> Float[Array, ""]:
            return classified(logits, batch, self.classification, context.axis_name)

        right = loss_of(logits)
        heads = [loss_of(head(part)) for head, part in zip(model.heads, parts, strict=True)]
        supervised = jnp.stack(heads).sum()
        loss = right + self.head_weight * supervised
        return loss, {"logits": logits, "classification": right, "heads": supervised}
