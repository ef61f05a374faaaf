"""What a trained network is worth on the test sets of its data."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from flax import nnx

from isnet_jax.data.split import Split
from isnet_jax.evaluation.background import background_share, highest_logit_relevance
from isnet_jax.evaluation.predict import accuracy, predict

Splits = Mapping[str, Split]
Judged = dict[str, float | None]


def judge(network: nnx.Module, splits: Splits) -> Judged:
    """Accuracy over the test sets, and the background's share of relevance.

    The share is that of |relevance| for the highest logit on the annotated images of the first
    test set, by the same LRP for every network; None where none is annotated.
    """
    judged: Judged = {}
    for name in test_sets(splits):
        images = splits[name].batch(slice(None))["image"]
        judged[short_name(name)] = accuracy(predict(network, images), splits[name].labels)
    first = splits[test_sets(splits)[0]]
    shown = first.batch(annotated(first))
    share = None
    if len(shown["label"]):
        relevance = highest_logit_relevance(network, shown["image"])
        share = background_share(relevance, shown["mask"])
    return judged | {"background_relevance": share}


def test_sets(splits: Splits) -> list[str]:
    """The splits to judge on, the one like the training data first."""
    return [name for name in splits if name.startswith("test")]


def short_name(test_set: str) -> str:
    """What the metrics call a test set."""
    return test_set.removeprefix("test_")


def annotated(split: Split) -> np.ndarray:
    """Indices of the samples whose mask was drawn."""
    return np.arange(len(split)) if split.has_mask is None else np.flatnonzero(split.has_mask)
