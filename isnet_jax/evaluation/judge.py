"""What a trained network is worth on the test sets of its data."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from flax import nnx
from jaxtyping import Float

from isnet_jax.data.split import Split
from isnet_jax.evaluation.background import background_shares, highest_logit_relevance
from isnet_jax.evaluation.interventions import interventions
from isnet_jax.evaluation.predict import predict
from isnet_jax.objective.classification import accuracy

Splits = Mapping[str, Split]
Judged = dict[str, Any]
"""Accuracy by test set, and what is not of one test set: see `measure`."""


class Measured(NamedTuple):
    """What was measured of a network.

    Attributes:
      judged: see `measure`.
      logits: on the first test set.
      outside: of each annotated image of the first test set the share of |relevance| on the
        background, in [0, 1].
    """

    judged: Judged
    logits: Float[np.ndarray, "n classes"]
    outside: Float[np.ndarray, " annotated"]


def judge(network: nnx.Module, splits: Splits) -> Judged:
    """What a network is worth on the test sets: `measure`'s summary."""
    return measure(network, splits).judged


def measure(network: nnx.Module, splits: Splits) -> Measured:
    """What a network is worth on the test sets, and what it does on the first of them.

    `judged` holds the accuracy on each test set by its name; "worst_group", the lowest accuracy of
    any class in any test set; "background_relevance", the background's share of |relevance| for
    the highest logit, by the same LRP for every network; and "interventions": what
    `interventions` finds. The last two are of the annotated images of the first test set, and None
    where there are none.
    """
    judged: Judged = {}
    groups: list[float] = []
    logits: dict[str, np.ndarray] = {}
    for name in test_sets(splits):
        labels = splits[name].labels
        logits[name] = predict(network, splits[name].batch(slice(None))["image"])
        judged[short_name(name)] = float(accuracy(logits[name], labels))
        groups += by_class(logits[name], labels)
    judged["worst_group"] = min(groups)
    of_first, first = next(iter(logits.values())), splits[test_sets(splits)[0]]
    shown = first.batch(annotated(first))
    if not len(shown["label"]):
        unknown = {"background_relevance": None, "interventions": None}
        return Measured(judged | unknown, of_first, np.zeros(0))
    images, masks = shown["image"], shown["mask"]
    outside = background_shares(highest_logit_relevance(network, images), masks)
    judged["background_relevance"] = float(outside.mean())
    judged["interventions"] = interventions(network, images, masks, shown["label"])
    return Measured(judged, of_first, outside)


def by_class(logits: np.ndarray, labels: np.ndarray) -> list[float]:
    """Accuracy over the samples of each class; of multi-label data, over each class's decisions."""
    if labels.ndim == 2:
        return ((logits > 0) == (labels > 0.5)).mean(0).tolist()
    right = np.argmax(logits, 1) == labels
    return [float(right[labels == code].mean()) for code in np.unique(labels)]


def test_sets(splits: Splits) -> list[str]:
    """The splits to judge on, the one like the training data first."""
    return [name for name in splits if name.startswith("test")]


def short_name(test_set: str) -> str:
    """What the metrics call a test set."""
    return test_set.removeprefix("test_")


def annotated(split: Split) -> np.ndarray:
    """Indices of the samples whose mask was drawn."""
    return np.arange(len(split)) if split.has_mask is None else np.flatnonzero(split.has_mask)
