"""The classification loss alone."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

from flax import nnx

from isnet_jax.methods.method import Context, LossAndAux, Method
from isnet_jax.objective.batch import Batch
from isnet_jax.objective.loss import plain_loss


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plain(Method):
    """A plain classifier, which others are compared with."""

    name: ClassVar[str] = "plain"

    @property
    def uses_masks(self) -> bool:
        return False

    def loss(self, model: nnx.Module, batch: Batch, context: Context) -> LossAndAux:
        return plain_loss(model, batch, self.classification, axis_name=context.axis_name)
