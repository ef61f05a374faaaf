"""Deep feature reweighting: the last layer of a plain network, refit on balanced data."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import jax.numpy as jnp
import numpy as np
from flax import nnx

from isnet_jax.data.split import Split
from isnet_jax.errors import UserError
from isnet_jax.methods.groups import numbered
from isnet_jax.methods.held import hold, released
from isnet_jax.methods.method import Blueprint, Context, Earlier, LossAndAux, Method, Setup
from isnet_jax.methods.plain import Plain
from isnet_jax.models.network import Network
from isnet_jax.objective.batch import Batch
from isnet_jax.objective.classification import classified


@dataclasses.dataclass(frozen=True, kw_only=True)
class DFR(Method):
    """Kirichenko, Izmailov and Wilson, ICLR 2023, on held-out data (their DFR-Val).

    A plain training; then its network's last dense layer alone is trained on one half of the
    validation data, in which every group is repeated until it is as large as the largest, and
    judged on the other half: classification, and `l1` times the sum of the layer's absolute
    weights. The authors draw balanced subsets, solve each and take the mean; both are convex
    problems of the same features. Needs data that know their groups, and no masks.

    Attributes:
      l1: at least 0.
    """

    name: ClassVar[str] = "dfr"

    l1: float = 0.001

    def __post_init__(self):
        if not 0 <= self.l1 < float("inf"):
            raise UserError(f"dfr: l1 is {self.l1}; expected finite, at least 0.")

    @property
    def earlier(self) -> Earlier:
        return Earlier(Plain(classification=self.classification))

    @property
    def uses_masks(self) -> bool:
        return False

    def setup(self, train: Split, validation: Split, earlier: nnx.Module | None) -> Setup:
        (grouped,) = numbered(self.name, validation)
        assert grouped.groups is not None
        refit, judge = _halves(grouped.groups)
        if not len(judge):
            raise UserError(
                f"dfr: every group has one validation image at most ({len(validation)} in all); "
                "expected two or more, to refit with and to judge. Use more validation data."
            )
        balanced = _balanced(grouped.groups, refit)
        held_out = validation.without_groups()
        return Setup(self, held_out.chosen(balanced), held_out.chosen(judge))

    def network(self, blueprint: Blueprint) -> nnx.Module:
        classifier = blueprint.classifier()
        assert isinstance(classifier, Network)
        return hold(classifier, but=classifier.head)

    def begin(self, model: nnx.Module, earlier: nnx.Module) -> None:
        assert isinstance(earlier, Network)
        copy = nnx.clone(earlier)
        nnx.update(model, nnx.state(hold(copy, but=copy.head)))

    def deployed(self, model: nnx.Module) -> nnx.Module:
        return released(model)

    def loss(self, model: nnx.Module, batch: Batch, context: Context) -> LossAndAux:
        assert isinstance(model, Network)
        model.eval()  # The features are those of the network at run time.
        logits = model(batch.image)
        right = classified(logits, batch, self.classification, context.axis_name)
        loss = right + self.l1 * jnp.abs(model.head.kernel[...]).sum()
        return loss, {"logits": logits, "classification": right}


def _halves(groups: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of each group's samples every other one, the first to the first half."""
    order = np.argsort(groups, kind="stable")
    within = np.arange(len(groups)) - np.searchsorted(groups[order], groups[order])
    return np.sort(order[within % 2 == 0]), np.sort(order[within % 2 == 1])


def _balanced(groups: np.ndarray, indices: np.ndarray) -> np.ndarray:
    """The indices with those of smaller groups repeated."""
    members = [indices[groups[indices] == group] for group in np.unique(groups[indices])]
    largest = max(map(len, members))
    return np.sort(np.concatenate([np.resize(own, largest) for own in members]))
