"""A plain classifier of images without background: whom others learn from."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

from flax import nnx

from isnet_jax.methods.method import Context, LossAndAux, Method
from isnet_jax.objective.batch import Batch
from isnet_jax.objective.loss import plain_loss


@dataclasses.dataclass(frozen=True, kw_only=True)
class Teacher(Method):
    """Image times mask, in training and validation; images without a mask are taken as they are.

    Alone it shows what the objects tell; at run time it would need masks.
    """

    name: ClassVar[str] = "teacher"

    def loss(self, model: nnx.Module, batch: Batch, context: Context) -> LossAndAux:
        batch = segmented(batch.annotated(), context.axis_name)
        return plain_loss(model, batch, self.classification, axis_name=context.axis_name)


def segmented(batch: Batch, axis_name: str | None) -> Batch:
    """The batch with black backgrounds."""
    _, mask = batch.weighted_masks(axis_name)
    return dataclasses.replace(batch, image=batch.image * mask.astype(batch.image.dtype))
