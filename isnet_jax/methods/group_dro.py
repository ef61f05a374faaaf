"""Group distributionally robust optimisation: the worst group counts most."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import lax

from isnet_jax.data.split import Split
from isnet_jax.errors import UserError
from isnet_jax.methods.groups import group_shares, numbered
from isnet_jax.methods.method import Blueprint, Context, LossAndAux, Method, Setup
from isnet_jax.models.network import Constant
from isnet_jax.objective.batch import Batch
from isnet_jax.objective.classification import each_loss


class GroupWeights(Constant):
    """q of group DRO: (groups,), its sum 1."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class GroupDRO(Method):
    """Sagawa, Koh, Hashimoto and Liang, ICLR 2020, algorithm 1, for batches of all groups.

    `q_g <- q_g * exp(step_size * (l_g + adjustment / sqrt(n_g)))`, over their sum; the loss is
    `sum_g q_g l_g`, with l_g the group's mean loss in the batch and n_g its size in the training
    data. Groups that are not in a batch leave their q as it is. Validation takes the mean of the
    groups' losses. Needs data that know their groups, and no masks.

    Attributes:
      step_size: of q, above 0.
      adjustment: C, at least 0: smaller groups count more, as they generalise less.
      sizes: n_g; found in the data.
    """

    name: ClassVar[str] = "group-dro"

    step_size: float = 0.01
    adjustment: float = 0.0
    sizes: tuple[int, ...] = ()

    def __post_init__(self):
        if not 0 < self.step_size < float("inf"):
            raise UserError(f"group-dro: step_size is {self.step_size}; expected above 0, finite.")
        if not 0 <= self.adjustment < float("inf"):
            raise UserError(
                f"group-dro: adjustment is {self.adjustment}; expected finite, at least 0."
            )
        if self.classification.class_weights:
            raise UserError(
                "group-dro weights the groups itself; expected no classification.class_weights."
            )

    @property
    def uses_masks(self) -> bool:
        return False

    def setup(self, train: Split, validation: Split, earlier: nnx.Module | None) -> Setup:
        train, validation = numbered(self.name, train, validation)
        assert train.groups is not None
        assert validation.groups is not None
        count = 1 + max(train.groups.max(), validation.groups.max())
        sizes = tuple(np.bincount(train.groups, minlength=count).tolist())
        return Setup(dataclasses.replace(self, sizes=sizes), train, validation)

    def network(self, blueprint: Blueprint) -> nnx.Module:
        classifier = blueprint.classifier()
        count = len(self.sizes)
        classifier.group_weights = GroupWeights(jnp.full(count, 1 / count))  # pyright: ignore
        return classifier

    def loss(self, model: nnx.Module, batch: Batch, context: Context) -> LossAndAux:
        logits = model(batch.image)  # pyright: ignore[reportCallIssue]
        weights, share = group_shares(batch, len(self.sizes), context.axis_name)
        own = each_loss(logits, batch.label, self.classification) @ weights
        losses = lax.stop_gradient(own)
        if context.axis_name is not None:
            losses = lax.pmean(losses, context.axis_name)
        adjusted = losses + self.adjustment / jnp.sqrt(jnp.maximum(jnp.array(self.sizes), 1))
        grown = jnp.exp(self.step_size * jnp.where(share > 0, adjusted, 0))
        state: GroupWeights = model.group_weights  # pyright: ignore
        weighted = state.get_value() * grown
        state.set_value(weighted / weighted.sum())
        return state.get_value() @ own, {"logits": logits, "worst_group": losses.max()}

    def validated(self, model: nnx.Module, batch: Batch, context: Context) -> LossAndAux:
        logits = model(batch.image)  # pyright: ignore[reportCallIssue]
        weights, share = group_shares(batch, len(self.sizes), context.axis_name)
        own = each_loss(logits, batch.label, self.classification) @ weights
        return own.sum() / (share > 0).sum(), {"logits": logits}
