"""Areas below ROC curves with DeLong's variance, and what is linear in them.

DeLong, DeLong and Clarke-Pearson (Biometrics 44:837, 1988): an area is a mean over pairs of a
positive and a negative sample, so it is known how much each sample moves it, and the variances and
covariances of areas of the same samples are sums over the samples of products of these influences.
Influences of means and differences of areas are means and differences of influences. So one
formula serves one area, the mean of several classes', and the difference of two networks.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Collection

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.special import ndtr

from isnet_jax.evaluation.decisions import Labels, log_odds, true
from isnet_jax.evaluation.intervals import Estimate, Z


@dataclasses.dataclass(frozen=True, eq=False)
class Area:
    """An area, a mean of areas, or a difference of two.

    Attributes:
      value: in [0, 1], of a difference in [-1, 1].
      influence: of each sample on it; the sum of their squares is the variance. NaN where a side
        has one sample only, of which no variance is known.
    """

    value: float
    influence: Float[np.ndarray, " n"]

    @property
    def deviation(self) -> float | None:
        """The standard deviation; None where it is not known.

        It is 0 where the network separates all samples. That is what DeLong's formula gives, and
        is no reason to be sure, so it counts as not known.
        """
        deviation = math.sqrt(float((self.influence**2).sum()))
        return deviation if deviation > 1e-12 else None  # NaN is not.

    def estimate(self) -> Estimate:
        """With DeLong's interval, cut at 0 and 1."""
        deviation = self.deviation
        if deviation is None:
            return Estimate(self.value, None, None)
        low, high = self.value - Z * deviation, self.value + Z * deviation
        return Estimate(self.value, max(low, 0.0), min(high, 1.0))

    def minus(self, other: Area) -> Area:
        """The difference of two networks' areas, of the same samples."""
        return Area(self.value - other.value, self.influence - other.influence)

    def p_value(self) -> float | None:
        """Of a difference: DeLong's two-sided test that there is none.

        1 where no sample tells the networks apart; None where the variance is not known.
        """
        if self.value == 0 and not self.influence.any():  # NaN is any.
            return 1.0
        deviation = self.deviation
        return None if deviation is None else float(2 * ndtr(-abs(self.value) / deviation))


def mean(areas: Collection[Area]) -> Area | None:
    """None of no areas."""
    if not areas:
        return None
    influences = np.mean([area.influence for area in areas], axis=0)
    return Area(float(np.mean([area.value for area in areas])), influences)


def one_vs_rest(logits: Float[np.ndarray, "n classes"], labels: Labels) -> dict[int, Area]:
    """Of each class against all others, by its probability; multi-label, against its absence.

    A class without samples on both sides has none. Of two classes both have the same.
    """
    scores, truth = log_odds(logits, labels.ndim), true(labels, logits.shape[1])
    return {
        code: area_below(scores[:, code], truth[:, code])
        for code in range(logits.shape[1])
        if 0 < truth[:, code].sum() < len(truth)
    }


def hand_till(logits: Float[np.ndarray, "n classes"], labels: Int[np.ndarray, " n"]) -> Area | None:
    """Hand and Till's M (Machine Learning 45:171, 2001): the mean over all pairs of classes.

    It does not depend on how frequent the classes are. Of pairs whose two classes are in the test
    set; None of fewer than two classes.
    """
    present = np.unique(labels)
    if len(present) < 2:
        return None
    scores = log_odds(logits, 1)
    return mean([area_below(scores[:, code], labels == code, labels) for code in present])


def area_below(
    scores: Float[np.ndarray, " n"],
    positive: Bool[np.ndarray, " n"],
    groups: Int[np.ndarray, " n"] | None = None,
) -> Area:
    """The share of pairs in which the positive has the higher score; a tie counts half.

    Args:
      positive: there are both kinds.
      groups: of negatives; the mean of the areas against each group. None: all are one group.
    """
    found, alarms = np.sort(scores[positive]), scores[~positive]
    below = np.searchsorted(found, alarms, "left") + np.searchsorted(found, alarms, "right")
    above = 1 - below / (2 * len(found))  # Of each negative: the share of positives above it.
    group = np.zeros(len(alarms), int) if groups is None else groups[~positive]
    _, group, sizes = np.unique(group, return_inverse=True, return_counts=True)
    areas = np.bincount(group, above) / sizes
    weights = 1 / (sizes * len(sizes))[group]  # Of the negatives: groups weigh alike.
    order = np.argsort(alarms)
    upto = np.append(0, np.cumsum(weights[order]))
    ranks = [np.searchsorted(alarms[order], scores[positive], side) for side in ("left", "right")]
    under = (upto[ranks[0]] + upto[ranks[1]]) / 2  # Of each positive: the negatives below it.
    value = float(areas.mean())
    influence = np.empty(len(scores))
    influence[positive] = (under - value) * _factor(len(found))
    influence[~positive] = (above - areas[group]) * (_factors(sizes) / len(sizes))[group]
    return Area(value, influence)


def _factor(size: int) -> float:
    """So that squares of centred values sum to their sample variance over the sample's size."""
    return float(_factors(np.array([size]))[0])


def _factors(sizes: np.ndarray) -> np.ndarray:
    pairs = sizes.astype(np.float64) * (sizes - 1)
    return np.where(pairs > 0, 1 / np.sqrt(np.maximum(pairs, 1)), np.nan)
