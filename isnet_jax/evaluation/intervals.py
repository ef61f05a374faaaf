"""Values measured on a sample, with the 95 % interval of what they estimate."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

Z = 1.959964
"""Of 95 % in a normal distribution."""

_MOST_ENUMERATED = 5
_RESAMPLES = 10_000


@dataclasses.dataclass(frozen=True)
class Estimate:
    """A measured value and its 95 % interval; without one where the data say nothing about it."""

    value: float
    low: float | None
    high: float | None


def wilson(hits: int, count: int) -> Estimate | None:
    """A share of independent trials with Wilson's interval (JASA 1927); None without trials."""
    if not count:
        return None
    share, spread = hits / count, Z**2 / count
    middle = (share + spread / 2) / (1 + spread)
    half = Z * math.sqrt(share * (1 - share) / count + spread / (4 * count)) / (1 + spread)
    return Estimate(share, max(middle - half, 0.0), min(middle + half, 1.0))


def shortest(draws: Float[np.ndarray, " draws"], mass: float = 0.95) -> tuple[float, float]:
    """The shortest interval that holds this share of the draws: of highest density."""
    ordered = np.sort(draws)
    held = math.ceil(mass * len(ordered))
    widths = ordered[held - 1 :] - ordered[: len(ordered) - held + 1]
    start = int(widths.argmin())
    return float(ordered[start]), float(ordered[start + held - 1])


def central(draws: Float[np.ndarray, " draws"]) -> tuple[float, float]:
    """Between the 2.5 % and 97.5 % quantiles."""
    low, high = np.quantile(draws, (0.025, 0.975))
    return float(low), float(high)


def over_seeds(values: Sequence[float]) -> Estimate:
    """The mean over trainings that differ in their seed, with a bootstrap interval.

    Trainings are drawn with replacement; the interval is between the quantiles of their means.
    Of one training there is no interval, and of few it is too narrow: of three, it holds the true
    mean in about two of three cases.
    """
    bounds = central(_resampled_means(values)) if len(values) > 1 else (None, None)
    return Estimate(float(np.mean(values)), *bounds)


def between_seeds(values: Sequence[float], others: Sequence[float]) -> Estimate:
    """`over_seeds` of the difference of two means, each of trainings of its own."""
    if min(len(values), len(others)) < 2:
        return Estimate(float(np.mean(values) - np.mean(others)), None, None)
    mine, theirs = _resampled_means(values), _resampled_means(others)
    if len(mine) * len(theirs) <= 10 * _RESAMPLES:  # Every pair of resamples.
        differences = (mine[:, None] - theirs).ravel()
    else:
        rng = np.random.default_rng(0)
        differences = rng.choice(mine, _RESAMPLES) - rng.choice(theirs, _RESAMPLES)
    return Estimate(float(np.mean(values) - np.mean(others)), *central(differences))


def _resampled_means(values: Sequence[float]) -> np.ndarray:
    """Of all resamples where they are few, of many at random else."""
    array = np.asarray(values, np.float64)
    count = len(array)
    if count <= _MOST_ENUMERATED:
        chosen = np.array(list(itertools.product(range(count), repeat=count)))
    else:
        chosen = np.random.default_rng(0).integers(count, size=(_RESAMPLES, count))
    return array[chosen].mean(1)
