"""What a classifier confuses, and how it trades false alarms for finds."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int


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


def rocs(
    logits: Float[np.ndarray, "n classes"],
    labels: Int[np.ndarray, " n"] | Float[np.ndarray, "n classes"],
) -> dict[int, Roc]:
    """The curve of each class against all others, of its probability; of two classes the second's.

    Multi-label data have one for each class. Classes without samples on both sides have none.
    """
    classes = logits.shape[1]
    if labels.ndim == 2:
        scores, truth = logits, labels > 0.5
    else:
        wide = logits.astype(np.float64)
        scores = wide - np.logaddexp.reduce(wide, axis=1, keepdims=True)
        truth = labels[:, None] == np.arange(classes)
    chosen = [1] if labels.ndim == 1 and classes == 2 else range(classes)
    curves = {code: roc(np.asarray(scores[:, code]), truth[:, code]) for code in chosen}
    return {code: curve for code, curve in curves.items() if curve is not None}
