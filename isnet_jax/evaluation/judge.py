"""What a trained network is worth on the test sets of its data."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

import numpy as np
from flax import nnx
from jaxtyping import Float

from isnet_jax.data.split import BatchDict, Split
from isnet_jax.evaluation.background import (
    Explained,
    background_shares,
    explain_classes,
    relevance_mass,
    relevance_rank,
    relevance_shares,
)
from isnet_jax.evaluation.comparison import Comparison, compare
from isnet_jax.evaluation.flipping import pixel_flipping
from isnet_jax.evaluation.interventions import interventions
from isnet_jax.evaluation.predict import predict_split
from isnet_jax.evaluation.statistics import Statistics, statistics
from isnet_jax.objective.classification import accuracy

Splits = Mapping[str, Split]
Judged = dict[str, Any]
"""Accuracy by test set, and what is not of one test set: see `measure`."""

EXPLAINED: Final = (
    "relevance_mass", "relevance_rank", "pixel_flipping", "pixel_flipping_random",
)  # fmt: skip
"""What `explanations` measures, by name."""


class Measured(NamedTuple):
    """What was measured of a network.

    Attributes:
      judged: see `measure`.
      logits: on each test set, by its short name.
      outside: of each annotated image of the first test set the share of |relevance| on the
        background, in [0, 1].
      places: of each class, the mean of these images' |relevance| at each place, of which every
        image has 1 in all; 0 for classes without one. No classes where nothing is annotated, or
        relevance is not finite.
    """

    judged: Judged
    logits: Mapping[str, Float[np.ndarray, "n classes"]]
    outside: Float[np.ndarray, " annotated"]
    places: Float[np.ndarray, "classes h w"]


def judge(network: nnx.Module, splits: Splits) -> Judged:
    """What a network is worth on the test sets: `measure`'s summary."""
    return measure(network, splits).judged


def measure(network: nnx.Module, splits: Splits) -> Measured:
    """What a network is worth on the test sets, and what it does on the first of them.

    `judged` holds plain values: the accuracy on each test set by its name; "worst_group", the
    lowest accuracy of any class in any test set; "background_relevance", the background's share of
    |relevance| for the highest logit, by the same LRP for every network; "interventions", what
    `interventions` finds; "explanations", what `explanations` does; and "statistics", by the name
    of the test set the fields of `Statistics`, or None if a logit is not finite. Relevance and
    interventions are of the annotated images of the first test set, and None where there are none
    or relevance is not finite.
    """
    judged: Judged = {}
    groups: list[float] = []
    logits: dict[str, np.ndarray] = {}
    found: dict[str, Any] = {}
    for name in test_sets(splits):
        short, split = short_name(name), splits[name]
        logits[short] = predict_split(network, split)
        judged[short] = float(accuracy(logits[short], split.labels))
        groups += by_class(logits[short], split.labels)
        found[short] = _plain(statistics(logits[short], split.labels, split.class_names))
    judged["worst_group"] = min(groups)
    judged |= {"background_relevance": None, "interventions": None, "explanations": None}
    first, outside, places = splits[test_sets(splits)[0]], np.zeros(0), np.zeros((0, 1, 1))
    shown = first.batch(annotated(first))
    images, masks, labels = shown["image"], shown["mask"], shown["label"]
    if len(labels):
        explained = explain_classes(network, images)
        outside = background_shares(explained.relevance, masks)
        if np.isfinite(explained.relevance).all():
            judged["background_relevance"] = float(outside.mean())
            judged["explanations"] = explanations(network, shown, explained)
            shares = relevance_shares(explained.relevance)
            places = class_means(shares, labels, len(first.class_names))
        judged["interventions"] = interventions(network, images, masks, labels)
    return Measured(judged | {"statistics": found}, logits, outside, places)


def explanations(
    network: nnx.Module, shown: BatchDict, explained: Explained
) -> dict[str, float | None]:
    """How well the relevance fits the masks, and the network, by each of `EXPLAINED`.

    All in [0, 1], and means over the samples of which they are known; None of no such sample.
    """
    images, masks, relevance = shown["image"], shown["mask"], explained.relevance
    flipped = pixel_flipping(network, images, relevance, explained.targets, shown["label"].ndim)
    values = (relevance_mass(relevance, masks), relevance_rank(relevance, masks), *flipped)
    return dict(zip(EXPLAINED, map(_known_mean, values), strict=True))


def compare_all(measured: Mapping[str, Measured], splits: Splits) -> dict[str, Any]:
    """The last network beside each other one, on each test set, as plain values.

    Returns:
      other network -> test set -> the fields of `Comparison`, or None if a logit is not finite.
    """
    *others, last = measured
    found: dict[str, Any] = {}
    for other in others:
        found[other] = {}
        for name in test_sets(splits):
            short, split = short_name(name), splits[name]
            mine, theirs = measured[last].logits[short], measured[other].logits[short]
            found[other][short] = _plain(compare(mine, theirs, split.labels, split.class_names))
    return found


def by_class(logits: np.ndarray, labels: np.ndarray) -> list[float]:
    """Accuracy over the samples of each class; of multi-label data, over each class's decisions."""
    if labels.ndim == 2:
        return ((logits > 0) == (labels > 0.5)).mean(0).tolist()
    right = np.argmax(logits, 1) == labels
    return [float(right[labels == code].mean()) for code in np.unique(labels)]


def class_means(
    maps: Float[np.ndarray, "n h w"], labels: np.ndarray, classes: int
) -> Float[np.ndarray, "classes h w"]:
    """The mean map of each class's samples; 0 for a class without any.

    Args:
      labels: (n,) classes, or (n, classes) of 0 and 1.
    """
    member = labels > 0.5 if labels.ndim == 2 else labels[:, None] == np.arange(classes)
    counts = np.maximum(member.sum(0), 1)
    return np.tensordot((member / counts).T, maps.astype(np.float64), axes=1)


def test_sets(splits: Splits) -> list[str]:
    """The splits to judge on, the one like the training data first."""
    return [name for name in splits if name.startswith("test")]


def short_name(test_set: str) -> str:
    """What the metrics call a test set."""
    return test_set.removeprefix("test_")


def annotated(split: Split) -> np.ndarray:
    """Indices of the samples whose mask was drawn."""
    return np.arange(len(split)) if split.has_mask is None else np.flatnonzero(split.has_mask)


def _plain(found: Statistics | Comparison | None) -> dict[str, Any] | None:
    return None if found is None else dataclasses.asdict(found)


def _known_mean(values: Float[np.ndarray, "*n"] | float) -> float | None:
    known = np.asarray(values)[np.isfinite(values)]
    return float(known.mean()) if known.size else None
