"""A network that draws masks instead of naming classes."""

from __future__ import annotations

import dataclasses

from flax import nnx

from isnet_jax.methods.method import Context, LossAndAux, Method
from isnet_jax.objective.batch import Batch
from isnet_jax.objective.segmentation import Segmentation, segmentation_loss


@dataclasses.dataclass(frozen=True, kw_only=True)
class Segmenter(Method):
    """The loss of a segmenter; it has no name, as it does not classify.

    Attributes:
      segmentation: the loss.
    """

    segmentation: Segmentation = dataclasses.field(default_factory=Segmentation)

    def loss(self, model: nnx.Module, batch: Batch, context: Context) -> LossAndAux:
        return segmentation_loss(model, batch, self.segmentation, axis_name=context.axis_name)
