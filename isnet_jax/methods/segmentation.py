"""Segment, then classify: a U-Net finds the object, the classifier sees nothing else."""

from __future__ import annotations

import dataclasses
from typing import ClassVar, Literal, get_args

from flax import nnx

from isnet_jax.errors import UserError, suggest
from isnet_jax.methods.held import hold, released
from isnet_jax.methods.method import Blueprint, Context, Earlier, LossAndAux, Method
from isnet_jax.models.layers import Images
from isnet_jax.models.network import in_mode
from isnet_jax.models.unet import UNet
from isnet_jax.objective.batch import Batch
from isnet_jax.objective.classification import classified
from isnet_jax.objective.segmentation import Segmentation, segmentation_loss

Stage = Literal["segmenter", "classifier"]


class Masking(nnx.Module):
    """Images without what the segmenter takes for background, classified."""

    def __init__(self, segmenter: nnx.Module, classifier: nnx.Module):
        self.segmenter, self.classifier = segmenter, classifier

    def masked(self, image: Images) -> Images:
        """The image where the segmenter's logits are above 0, and 0 elsewhere."""
        found = self.segmenter(image) > 0  # pyright: ignore[reportCallIssue]
        return image * found.astype(image.dtype)

    def __call__(self, image: Images):
        return self.classifier(self.masked(image))  # pyright: ignore[reportCallIssue]


@dataclasses.dataclass(frozen=True, kw_only=True)
class SegmentThenClassify(Method):
    """A U-Net's mask times the image, classified: Bassi et al., Nature Communications 15:291, 2024.

    First the U-Net is trained by the masks; then it stays, and the classifier is trained on images
    that are black where the U-Net sees background. Both are needed at run time, the U-Net as large
    as `widths` says: it is what this costs beyond a plain classifier. Masks are decisions and have
    no gradient, so relevance is that of the classifier, and 0 outside of them.

    Attributes:
      widths: channels of each level of the U-Net, from the finest on; each halves the image.
      pixels: the U-Net's loss.
      segmenter_epochs: None: as many as the classifier's.
      stage: what is trained; that of the U-Net comes before by itself.
    """

    name: ClassVar[str] = "segmentation"

    widths: tuple[int, ...] = (16, 32, 64, 128)
    pixels: Segmentation = dataclasses.field(default_factory=Segmentation)
    segmenter_epochs: int | None = None
    stage: Stage = "classifier"

    def __post_init__(self):
        require_widths(self.name, self.widths)
        if self.segmenter_epochs is not None and self.segmenter_epochs < 1:
            raise UserError(
                f"segmentation: segmenter_epochs is {self.segmenter_epochs}; expected at least 1."
            )
        if self.stage not in get_args(Stage):
            raise UserError("segmentation: " + suggest(self.stage, get_args(Stage), what="stage"))

    @property
    def earlier(self) -> Earlier | None:
        if self.stage == "segmenter":
            return None
        return Earlier(dataclasses.replace(self, stage="segmenter"), self.segmenter_epochs)

    def network(self, blueprint: Blueprint) -> nnx.Module:
        channels, rngs = blueprint.image_shape[-1], blueprint.rngs
        segmenter = UNet(1, widths=self.widths, in_channels=channels, rngs=rngs)
        network = Masking(segmenter, blueprint.classifier())
        hold(network.classifier if self.stage == "segmenter" else network.segmenter)
        return network

    def begin(self, model: nnx.Module, earlier: nnx.Module) -> None:
        assert isinstance(model, Masking)
        assert isinstance(earlier, Masking)
        nnx.update(model.segmenter, nnx.state(hold(nnx.clone(earlier.segmenter))))

    def deployed(self, model: nnx.Module) -> nnx.Module:
        return released(model)

    def loss(self, model: nnx.Module, batch: Batch, context: Context) -> LossAndAux:
        assert isinstance(model, Masking)
        if self.stage == "segmenter":
            return segmentation_loss(
                model.segmenter, batch, self.pixels, axis_name=context.axis_name
            )
        model.segmenter = in_mode(model.segmenter, training=False)  # Its masks at run time.
        logits = model(batch.image)
        return classified(logits, batch, self.classification, context.axis_name), {"logits": logits}


def require_widths(method: str, widths: tuple[int, ...]) -> None:
    """Raises a `UserError` for what are no widths of a U-Net."""
    if len(widths) < 2 or min(widths) < 1:
        raise UserError(f"{method}: widths are {widths}; expected two or more, each at least 1.")
