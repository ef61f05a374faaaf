"""The classification loss: one label a sample, or several."""

from __future__ import annotations

import dataclasses
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax
from jaxtyping import Array, Float, Num

from isnet_jax.errors import UserError, suggest
from isnet_jax.objective.batch import Batch, known

Task = Literal["multiclass", "multilabel"]


@dataclasses.dataclass(frozen=True)
class Classification:
    """The classification loss.

    Attributes:
      task: "multiclass": one class a sample, softmax and cross-entropy, labels (B,) ints;
        "multilabel": any number of classes a sample, a sigmoid and binary cross-entropy for each,
        labels (B, C) in [0, 1].
      label_smoothing: in [0, 1): this share of each target is spread over all classes (of each
        multi-label decision over yes and no).
      class_weights: () or a positive weight for each class. Multiclass: as PyTorch's
        CrossEntropyLoss, smoothing included, a mean weighted by the weights of the labels.
        Multilabel: the weight of its decisions, in a mean weighted likewise.
    """

    task: Task = "multiclass"
    label_smoothing: float = 0.0
    class_weights: tuple[float, ...] = ()

    def __post_init__(self):
        if self.task not in get_args(Task):
            raise UserError("classification: " + suggest(str(self.task), get_args(Task), "task"))
        if not 0 <= self.label_smoothing < 1:
            raise UserError(
                f"classification: label_smoothing is {self.label_smoothing}; expected in [0, 1)."
            )
        if not all(0 < weight < float("inf") for weight in self.class_weights):
            raise UserError(
                f"classification: class_weights are {self.class_weights}; expected finite numbers "
                "above 0."
            )


def classification_loss(
    logits: Float[Array, "batch classes"],
    labels: Num[Array, " batch"] | Num[Array, "batch classes"],
    options: Classification,
    axis_name: str | None = None,
    whole: Num[Array, " whole"] | Num[Array, "whole classes"] | None = None,
) -> Float[Array, ""]:
    """The batch's mean loss, in float32 or wider; NaN where traced labels are no class numbers.

    Args:
      labels: see `Classification`.
      axis_name: a mapped axis over which the batch is split: the mean of the devices' losses is
        the loss of the whole batch, class weights included.
      whole: the labels of all equal parts of a batch, of which this is one: likewise the mean of
        the parts' losses is the whole's.

    Raises:
      UserError: class weights or labels that do not fit the logits; the labels' values are
        checked outside jit only.
    """
    _check(logits, labels, options)
    _check_values(known(labels), logits.shape[1], options)
    logits = logits.astype(jnp.promote_types(logits.dtype, jnp.float32))
    smoothing, classes = options.label_smoothing, logits.shape[1]
    weights = jnp.asarray(options.class_weights or (1.0,) * classes, logits.dtype)
    if options.task == "multilabel":
        targets = (1 - smoothing) * labels + smoothing / 2
        losses = optax.sigmoid_binary_cross_entropy(logits, targets)
        return (losses * weights).mean() / weights.mean()
    targets = optax.smooth_labels(jax.nn.one_hot(labels, classes, dtype=logits.dtype), smoothing)
    targets = jnp.where(((labels >= 0) & (labels < classes))[:, None], targets, jnp.nan)
    if not options.class_weights:
        return optax.softmax_cross_entropy(logits, targets).mean()
    losses = -(targets * weights * jax.nn.log_softmax(logits)).sum(1)
    mean_weight = weights[labels if whole is None else whole].mean()
    if axis_name is not None:
        mean_weight = lax.pmean(mean_weight, axis_name)
    return losses.mean() / mean_weight


def classified(
    logits: Float[Array, "batch classes"],
    batch: Batch,
    options: Classification,
    axis_name: str | None = None,
) -> Float[Array, ""]:
    """`classification_loss` of a batch that says which part of a whole it is."""
    whole = None if batch.whole is None else batch.whole.label
    return classification_loss(logits, batch.label, options, axis_name, whole)


def each_loss(
    logits: Float[Array, "batch classes"],
    labels: Num[Array, " batch"] | Num[Array, "batch classes"],
    options: Classification,
) -> Float[Array, " batch"]:
    """Each sample's own loss; class weights, which belong to a mean over samples, cancel."""
    return jax.vmap(lambda z, y: classification_loss(z[None], y[None], options))(logits, labels)


def accuracy(logits: Any, labels: Any) -> Any:
    """The share of samples whose highest logit is their class, in [0, 1].

    For multi-label data, the share of right decisions between yes and no, over samples and classes.

    Args:
      logits: (B, classes), of JAX or NumPy.
      labels: (B,), or (B, classes) for multi-label data, likewise.
    """
    if labels.ndim == 2:
        return ((logits > 0) == (labels > 0.5)).mean()
    return (logits.argmax(1) == labels).mean()


def _check(logits: Array, labels: Array, options: Classification) -> None:
    batch, classes = logits.shape
    if options.class_weights and len(options.class_weights) != classes:
        raise UserError(
            f"classification: {len(options.class_weights)} class_weights for {classes} classes; "
            "expected one for each."
        )
    if options.task == "multilabel":
        if labels.shape != (batch, classes):
            raise UserError(
                f"classification: multi-label labels of shape {labels.shape}; expected "
                f"{(batch, classes)}, 1 where the class is there."
            )
        return
    if labels.shape != (batch,):
        raise UserError(
            f"classification: labels of shape {labels.shape}; expected {(batch,)}. For several "
            'labels a sample use Classification(task="multilabel").'
        )
    if not jnp.issubdtype(labels.dtype, jnp.integer):
        raise UserError(
            f"classification: the labels are {labels.dtype}; expected class numbers (ints)."
        )


def _check_values(labels: np.ndarray | None, classes: int, options: Classification) -> None:
    """Of labels whose values are known."""
    if labels is None or not labels.size:
        return
    low, high = labels.min(), labels.max()
    if options.task == "multilabel":
        if not (low >= 0 and high <= 1):
            raise UserError(
                f"classification: multi-label labels from {low} to {high}; expected 0 to 1, 1 "
                "where the class is there."
            )
    elif low < 0 or high >= classes:
        raise UserError(
            f"classification: labels from {low} to {high} for {classes} classes; expected class "
            f"numbers from 0 to {classes - 1}. Subtract 1 if they begin at 1, or give the network "
            "more classes."
        )
