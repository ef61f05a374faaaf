"""One U-Net that draws masks and names classes."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import ClassVar

from flax import nnx
from jaxtyping import Array, Float

from isnet_jax.errors import UserError
from isnet_jax.methods.method import Blueprint, Context, LossAndAux, Method
from isnet_jax.methods.segmentation import require_widths
from isnet_jax.models.layers import Images, Linear, global_average
from isnet_jax.models.network import Network, Stages, require_side
from isnet_jax.models.unet import UNet, way_down, way_up
from isnet_jax.objective.batch import Batch
from isnet_jax.objective.classification import classified
from isnet_jax.objective.segmentation import Segmentation, pixel_loss


class Encoder(Network):
    """The way down of a U-Net, global average of its coarsest maps, a dense head."""

    def __init__(
        self,
        num_classes: int,
        unet: UNet,
        *,
        widths: Sequence[int],
        rngs: nnx.Rngs,
    ):
        super().__init__(in_channels=unet.in_channels, rngs=rngs)
        self.down = unet.down
        self.fc = Linear(widths[-1], num_classes, rngs=rngs)

    @property
    def head(self) -> Linear:
        return self.fc

    @property
    def stages(self) -> Stages:
        return tuple((f"down.{number}",) for number in range(len(self.down)))

    def levels(self, x: Images) -> list[Array]:
        """The maps of each level, from the finest on."""
        require_side(self, x, 2 ** (len(self.down) - 1))
        return way_down(self.down, x)

    def embed(self, x: Images) -> Float[Array, "batch features"]:
        return global_average(self.levels(x)[-1])


class TwoTasks(nnx.Module):
    """An encoder that classifies, and the rest of its U-Net."""

    def __init__(self, encoder: Encoder, unet: UNet):
        self.encoder, self.up, self.out = encoder, unet.up, unet.out

    def __call__(self, image: Images) -> tuple[Array, Array]:
        """Logits (B, classes), and of each pixel (B, H, W, 1)."""
        maps = self.encoder.levels(image)
        return self.encoder.head(global_average(maps[-1])), self.out(way_up(self.up, maps))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Multitask(Method):
    """Both losses of one encoder: Bassi et al., Nature Communications 15:291, 2024.

    `classification + weight * pixels`. The network is a U-Net in place of the user's, its classes
    read from the global average of its coarsest maps; at run time the way down is enough.

    Attributes:
      weight: of the U-Net's loss, at least 0.
      widths: channels of each level of the U-Net, from the finest on; each halves the image.
      pixels: the U-Net's loss.
    """

    name: ClassVar[str] = "multitask"

    weight: float = 1.0
    widths: tuple[int, ...] = (16, 32, 64, 128)
    pixels: Segmentation = dataclasses.field(default_factory=Segmentation)

    def __post_init__(self):
        require_widths(self.name, self.widths)
        if not 0 <= self.weight < float("inf"):
            raise UserError(f"multitask: weight is {self.weight}; expected finite, at least 0.")

    def network(self, blueprint: Blueprint) -> nnx.Module:
        channels, rngs = blueprint.image_shape[-1], blueprint.rngs
        unet = UNet(1, widths=self.widths, in_channels=channels, rngs=rngs)
        return TwoTasks(Encoder(blueprint.num_classes, unet, widths=self.widths, rngs=rngs), unet)

    def deployed(self, model: nnx.Module) -> nnx.Module:
        assert isinstance(model, TwoTasks)
        return model.encoder

    def loss(self, model: nnx.Module, batch: Batch, context: Context) -> LossAndAux:
        assert isinstance(model, TwoTasks)
        batch = batch.annotated()
        logits, pixels = model(batch.image)
        right = classified(logits, batch, self.classification, context.axis_name)
        drawn, found = pixel_loss(pixels, batch, self.pixels, axis_name=context.axis_name)
        loss = right + self.weight * drawn
        return loss, {"logits": logits, "classification": right, "dice": found["dice"]}
