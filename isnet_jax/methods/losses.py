"""The loss function of what is trained for, as the training step takes it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from flax import nnx
from jaxtyping import Array

from isnet_jax.methods.isnet import ISNet
from isnet_jax.methods.method import Context, LossAndAux, LossFunction, Method
from isnet_jax.methods.plain import Plain
from isnet_jax.methods.segmenter import Segmenter
from isnet_jax.objective.batch import Batch
from isnet_jax.objective.classification import Classification, accuracy
from isnet_jax.objective.config import ISNetConfig
from isnet_jax.objective.segmentation import Segmentation

Objective = ISNetConfig | Classification | Segmentation | Method
"""What a network is trained for: a method, or the options that stand for one."""


def method_of(objective: Objective) -> Method:
    """The method; options of an ISNet, a plain classifier or a segmenter stand for theirs."""
    match objective:
        case Method():
            return objective
        case ISNetConfig():
            return ISNet(objective=objective)
        case Segmentation():
            return Segmenter(segmentation=objective)
        case Classification():
            return Plain(classification=objective)


def loss_function(objective: Objective, axis_name: str | None = None) -> LossFunction:
    """The loss of a method, for `build_step`.

    Args:
      axis_name: the mapped axis over which batches are split.
    """
    method = method_of(objective)

    def loss(
        model: nnx.Module, batch: Mapping[str, Any] | Batch, key: Array, step: Array | int
    ) -> LossAndAux:
        batch = Batch.of(batch)
        return with_accuracy(*method.loss(model, batch, Context(key, step, axis_name)), batch)

    return loss


def with_accuracy(loss: Array, aux: dict[str, Array], batch: Batch) -> LossAndAux:
    """With the "accuracy" of "logits", unless there is one."""
    if "accuracy" not in aux:
        aux = {**aux, "accuracy": accuracy(aux["logits"], batch.label)}
    return loss, aux
