"""Right for the right reasons: the gradient by the background shall vanish."""

from __future__ import annotations

import dataclasses
import functools
from typing import ClassVar

from flax import nnx

from isnet_jax.errors import UserError
from isnet_jax.methods.gradients import image_gradient, sum_of_log_probabilities
from isnet_jax.methods.method import Context, LossAndAux, Method
from isnet_jax.objective.batch import Batch
from isnet_jax.objective.classification import classified


@dataclasses.dataclass(frozen=True, kw_only=True)
class RRR(Method):
    """Ross, Hughes and Doshi-Velez, IJCAI 2017, equation 1, without its weight decay.

    `classification + weight * mean_n sum_d ((1 - mask_nd) * d(sum_k log p_nk) / dx_nd)^2`, d over
    pixels and channels, k over classes. The mean over the samples that have a mask is in place of
    the authors' sum, so that the weight does not depend on the batch's size.

    Attributes:
      weight: of the gradients, at least 0.
    """

    name: ClassVar[str] = "rrr"

    weight: float = 10.0

    def __post_init__(self):
        if not 0 <= self.weight < float("inf"):
            raise UserError(f"rrr: weight is {self.weight}; expected finite, at least 0.")

    def loss(self, model: nnx.Module, batch: Batch, context: Context) -> LossAndAux:
        batch = batch.annotated()
        task = self.classification.task
        quantity = functools.partial(sum_of_log_probabilities, task=task)
        logits, gradient = image_gradient(model, batch.image, quantity)
        weights, mask = batch.weighted_masks(context.axis_name)
        outside = (gradient * (1 - mask)).astype(weights.dtype)
        reasons = weights @ (outside**2).sum((1, 2, 3))
        right = classified(logits, batch, self.classification, context.axis_name)
        loss = right + self.weight * reasons
        return loss, {"logits": logits, "classification": right, "reasons": reasons}
