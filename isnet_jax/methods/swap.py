"""Backgrounds exchanged within the batch, and nothing else: what to try first."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

from flax import nnx

from isnet_jax.methods.isnet import ISNet
from isnet_jax.methods.method import Context, LossAndAux, Method
from isnet_jax.objective.batch import Batch
from isnet_jax.objective.config import ISNetConfig
from isnet_jax.objective.exchange import Exchange


@dataclasses.dataclass(frozen=True, kw_only=True)
class Swap(Method):
    """Objects in front of other images' backgrounds, by their masks; a step costs what a plain one
    does.

    Attributes:
      exchange: which images, and how; probability above 0.
    """

    name: ClassVar[str] = "swap"

    exchange: Exchange = dataclasses.field(default_factory=lambda: Exchange(probability=1.0))

    @property
    def _isnet(self) -> ISNet:
        config = ISNetConfig(
            heatmap_weight=0.0, exchange=self.exchange, classification=self.classification
        )
        return ISNet(objective=config)

    def loss(self, model: nnx.Module, batch: Batch, context: Context) -> LossAndAux:
        return self._isnet.loss(model, batch, context)

    def validated(self, model: nnx.Module, batch: Batch, context: Context) -> LossAndAux:
        return self._isnet.validated(model, batch, context)
