"""Just train twice: what a first network gets wrong counts more for the second."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import jax.numpy as jnp
import numpy as np
from flax import nnx

from isnet_jax.data.split import Split
from isnet_jax.errors import UserError
from isnet_jax.evaluation.predict import predict_split
from isnet_jax.methods.method import Context, Earlier, LossAndAux, Method, Setup
from isnet_jax.methods.plain import Plain
from isnet_jax.objective.batch import Batch
from isnet_jax.objective.classification import classified, each_loss


@dataclasses.dataclass(frozen=True, kw_only=True)
class JTT(Method):
    """Liu et al., ICML 2021: a short plain training, then one in which its mistakes weigh more.

    The second training's loss is the mean of the samples' losses, with weight `upweight` where the
    first network's highest logit was wrong and 1 elsewhere, over the mean weight of the training
    data: in expectation that of the authors' data set with the mistakes repeated so often, at as
    many steps. Needs neither masks nor groups.

    Attributes:
      first_epochs: of the first training, at least 1; it should stop while it goes by what
        misleads.
      upweight: of its mistakes, at least 1.
      mean_weight: found by the first network.
    """

    name: ClassVar[str] = "jtt"

    first_epochs: int = 1
    upweight: float = 20.0
    mean_weight: float = 1.0

    def __post_init__(self):
        if self.first_epochs < 1:
            raise UserError(f"jtt: first_epochs is {self.first_epochs}; expected at least 1.")
        if not 1 <= self.upweight < float("inf"):
            raise UserError(f"jtt: upweight is {self.upweight}; expected finite, at least 1.")
        if self.classification.task == "multilabel" or self.classification.class_weights:
            raise UserError(
                "jtt weights samples by whether their one class was found; expected no multi-label "
                "data and no classification.class_weights. Choose another method."
            )

    @property
    def earlier(self) -> Earlier:
        return Earlier(Plain(classification=self.classification), self.first_epochs)

    @property
    def uses_masks(self) -> bool:
        return False

    def setup(self, train: Split, validation: Split, earlier: nnx.Module | None) -> Setup:
        wrong = np.zeros(len(train), np.int32) if earlier is None else mistakes(earlier, train)
        method = dataclasses.replace(self, mean_weight=float(self._weight(wrong).mean()))
        grouped = dataclasses.replace(train, groups=wrong)
        return Setup(method, grouped, validation.without_groups())

    def _weight(self, wrong):
        return 1 + (self.upweight - 1) * wrong

    def loss(self, model: nnx.Module, batch: Batch, context: Context) -> LossAndAux:
        logits = model(batch.image)  # pyright: ignore[reportCallIssue]
        losses = each_loss(logits, batch.label, self.classification)
        loss = jnp.mean(self._weight(batch.group) * losses) / self.mean_weight
        return loss, {"logits": logits}

    def validated(self, model: nnx.Module, batch: Batch, context: Context) -> LossAndAux:
        logits = model(batch.image)  # pyright: ignore[reportCallIssue]
        loss = classified(logits, batch, self.classification, context.axis_name)
        return loss, {"logits": logits}


def mistakes(network: nnx.Module, split: Split) -> np.ndarray:
    """1 where the highest logit is not the class, else 0: (N,) int32."""
    return (predict_split(network, split).argmax(1) != split.labels).astype(np.int32)
