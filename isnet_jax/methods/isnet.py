"""ISNet, in every variant, with backgrounds exchanged or not."""

from __future__ import annotations

import dataclasses
from typing import ClassVar, Self

from flax import nnx

from isnet_jax.methods.method import Context, LossAndAux, Method
from isnet_jax.objective.batch import Batch
from isnet_jax.objective.classification import Classification, accuracy
from isnet_jax.objective.config import ISNetConfig
from isnet_jax.objective.loss import exchange_loss, isnet_loss


@dataclasses.dataclass(frozen=True, kw_only=True)
class ISNet(Method):
    """Relevance on the background is punished: Bassi et al., Nature Communications 15:291, 2024.

    Attributes:
      objective: all options, the classification loss among them.
    """

    name: ClassVar[str] = "isnet"

    objective: ISNetConfig = dataclasses.field(default_factory=ISNetConfig)
    classification: Classification = dataclasses.field(init=False)

    def __post_init__(self):
        object.__setattr__(self, "classification", self.objective.classification)

    def classified_by(self, classification: Classification) -> Self:
        objective = dataclasses.replace(self.objective, classification=classification)
        return dataclasses.replace(self, objective=objective)

    @property
    def uses_masks(self) -> bool:
        return self.objective.explains or self.objective.exchange.probability > 0

    def loss(self, model: nnx.Module, batch: Batch, context: Context) -> LossAndAux:
        config = self.objective
        if not config.explains:
            return exchange_loss(model, batch, config, rng=context.key, axis_name=context.axis_name)
        return isnet_loss(
            model, batch, config, rng=context.key, step=context.step, axis_name=context.axis_name
        )

    def validated(self, model: nnx.Module, batch: Batch, context: Context) -> LossAndAux:
        """All samples are explained, with P `heatmap_weight`; accuracy is of the images as is."""
        whole = dataclasses.replace(self.objective, heatmap_fraction=1.0, heatmap_schedule=())
        loss, aux = dataclasses.replace(self, objective=whole).loss(model, batch, context)
        exchange = whole.exchange
        if exchange.probability:
            both = exchange.consistency > 0
            logits = aux["logits"][: len(batch)] if both else model(batch.image)  # pyright: ignore
            aux = {**aux, "accuracy": accuracy(logits, batch.label)}
        return loss, aux
