"""What a classifier confuses, and how it trades false alarms for finds."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

Labels = Int[np.ndarray, " n"] | Float[np.ndarray, "n classes"]
"""Classes, or for multi-label data 0 or 1 for each class."""


class Roc(NamedTuple):
    """A receiver operating characteristic, from (0, 0) to (1, 1), and the area below it."""

    false_positives: Float[np.ndarray, " points"]
    true_positives: Float[np.ndarray, " points"]
    area: float


def confusion(
    logits: Float[np.ndarray, "n classes"], labels: Int[np.ndarray, " n"]
) -> Int[np.ndarray, "classes classes"]:
    """How many samples of each class (row) are taken for each (column)."""
    classes = logits.shape[1]
    pairs = labels.astype(int) * classes + logits.argmax(1)
    return np.bincount(pairs, minlength=classes**2).reshape(classes, classes)


def decided(
    logits: Float[np.ndarray, "n classes"], label_axes: int
) -> Bool[np.ndarray, "n classes"]:
    """The classes that each sample is taken for: of the highest logit; multi-label, above 0."""
    if label_axes == 2:
        return logits > 0
    return logits.argmax(1)[:, None] == np.arange(logits.shape[1])


def true(labels: Labels, classes: int) -> Bool[np.ndarray, "n classes"]:
    """The classes that each sample is of."""
    return labels > 0.5 if labels.ndim == 2 else labels[:, None] == np.arange(classes)


def log_odds(
    logits: Float[np.ndarray, "n classes"], label_axes: int
) -> Float[np.ndarray, "n classes"]:
    """Of each class against all others, in float64; multi-label, the logits themselves.

    They rank samples as the class's probability does, but do not saturate.
    """
    wide = logits.astype(np.float64)
    if label_axes == 2:
        return wide
    none = np.full((len(wide), 1), -np.inf)
    upto, behind = (np.logaddexp.accumulate(each, 1) for each in (wide, wide[:, ::-1]))
    before = np.concatenate([none, upto[:, :-1]], 1)
    after = np.concatenate([none, behind[:, :-1]], 1)[:, ::-1]
    return wide - np.logaddexp(before, after)  # Nothing is subtracted that was added.


def roc(scores: Float[np.ndarray, " n"], positive: Bool[np.ndarray, " n"]) -> Roc | None:
    """The curve over all thresholds; None unless there are samples of both kinds.

    Samples of equal scores pass a threshold together, so that the area counts half of each tie.
    """
    found, alarms = positive.sum(), (~positive).sum()
    if not found or not alarms:
        return None
    order = np.argsort(-scores, kind="stable")
    last = np.append(np.diff(scores[order]) != 0, True)  # of equal scores
    hits = np.append(0, np.cumsum(positive[order])[last]) / found
    misses = np.append(0, np.cumsum(~positive[order])[last]) / alarms
    return Roc(misses, hits, float(np.trapezoid(hits, misses)))


def rocs(logits: Float[np.ndarray, "n classes"], labels: Labels) -> dict[int, Roc]:
    """The curve of each class against all others, by its probability; of two classes the second's.

    Multi-label data have one for each class. Classes without samples on both sides have none.
    """
    classes = logits.shape[1]
    scores, truth = log_odds(logits, labels.ndim), true(labels, classes)
    chosen = [1] if labels.ndim == 1 and classes == 2 else range(classes)
    curves = {code: roc(scores[:, code], truth[:, code]) for code in chosen}
    return {code: curve for code, curve in curves.items() if curve is not None}
