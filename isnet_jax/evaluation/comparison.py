"""Whether one network is better than another on the same test images."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence

import numpy as np
from jaxtyping import Bool, Float
from scipy import sparse
from scipy.special import bdtr

from isnet_jax.evaluation.areas import Area, mean, one_vs_rest
from isnet_jax.evaluation.decisions import Labels, decided, true
from isnet_jax.evaluation.f1 import f1
from isnet_jax.evaluation.intervals import Z, central

_RESAMPLES = 2000
_AT_ONCE = 100


@dataclasses.dataclass(frozen=True)
class Difference:
    """Of the first network's value to the second's, with its 95 % interval.

    Attributes:
      p: two-sided, of the hypothesis that there is none; None where nothing is tested.
    """

    value: float
    low: float | None
    high: float | None
    p: float | None


@dataclasses.dataclass(frozen=True)
class OfClass:
    """Attributes: p_adjusted: p by Holm's method, for as many tests as there are classes."""

    auc: Difference
    p_adjusted: float | None


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Of two networks on one test set; both see the same images, so all is paired.

    Attributes:
      accuracy: interval by bootstrap over the images, p by McNemar's exact test; multi-label, the
        share of right decisions, and no p.
      macro_f1: interval by bootstrap over the images.
      auc: the mean over classes of the area of one against the rest: of two classes, DeLong's
        test; of more, and multi-label, the same variance of the mean (see `areas`).
      classes: by name, DeLong's test of the area of each class against the rest.
    """

    images: int
    accuracy: Difference
    macro_f1: Difference | None
    auc: Difference | None
    classes: dict[str, OfClass]


def compare(
    first: Float[np.ndarray, "n classes"],
    second: Float[np.ndarray, "n classes"],
    labels: Labels,
    class_names: Sequence[str],
) -> Comparison | None:
    """Compare two networks by their logits; None without images, or if a logit is not finite."""
    if not len(first) or not (np.isfinite(first).all() and np.isfinite(second).all()):
        return None
    truth = true(labels, first.shape[1])
    taken = [decided(logits, labels.ndim) for logits in (first, second)]
    if labels.ndim == 1:
        of_image = [(truth & each).any(1) for each in taken]
    else:
        of_image = [(truth == each).mean(1) for each in taken]
    right, other = (np.asarray(each, np.float64) for each in of_image)
    gains = right - other
    resampled = []
    for weights in _resamples(len(gains)):
        scores = [_macro_f1(weights, truth, each) for each in taken]
        resampled.append((weights @ gains / len(gains), scores[0] - scores[1]))
    of_accuracy, of_f1 = np.concatenate(resampled, axis=1)
    p = _mcnemar(gains) if labels.ndim == 1 else None
    accuracy = Difference(float(gains.mean()), *central(of_accuracy), p)
    macro_f1 = None
    if truth.any():
        observed = [float(np.nanmean(f1(truth, each))) for each in taken]
        macro_f1 = Difference(observed[0] - observed[1], *central(of_f1), None)
    mine, theirs = one_vs_rest(first, labels), one_vs_rest(second, labels)
    areas = {code: mine[code].minus(theirs[code]) for code in mine}
    adjusted = holm({code: area.p_value() for code, area in areas.items()})
    macro = mean(areas.values())
    return Comparison(
        len(labels),
        accuracy,
        macro_f1,
        macro and _difference(macro),
        {class_names[code]: OfClass(_difference(areas[code]), adjusted[code]) for code in areas},
    )


def holm(p_values: dict[int, float | None]) -> dict[int, float | None]:
    """Adjusted for their number (Holm, Scand. J. Stat. 6:65, 1979); None stays and counts not."""
    known = sorted((p, code) for code, p in p_values.items() if p is not None)
    adjusted, least = dict(p_values), 0.0
    for place, (p, code) in enumerate(known):
        least = max(least, min(1.0, p * (len(known) - place)))
        adjusted[code] = least
    return adjusted


def _difference(area: Area) -> Difference:
    deviation, p = area.deviation, area.p_value()
    if deviation is None:
        return Difference(area.value, None, None, p)
    return Difference(area.value, area.value - Z * deviation, area.value + Z * deviation, p)


def _mcnemar(gains: Float[np.ndarray, " n"]) -> float:
    """Of the images that only one network is right on, whether one has more than the other."""
    only_first, only_second = int((gains > 0).sum()), int((gains < 0).sum())
    fewer = min(only_first, only_second)
    return min(1.0, float(2 * bdtr(fewer, only_first + only_second, 0.5)))


def _resamples(count: int) -> Iterator[np.ndarray]:
    """How often each image is drawn, in blocks of resamples (row) by images."""
    rng = np.random.default_rng(0)
    for _ in range(_RESAMPLES // _AT_ONCE):
        drawn = rng.integers(count, size=(_AT_ONCE, count))
        yield np.stack([np.bincount(row, minlength=count) for row in drawn])


def _macro_f1(
    weights: np.ndarray,
    truth: Bool[np.ndarray, "n classes"],
    taken: Bool[np.ndarray, "n classes"],
) -> np.ndarray:
    """Of each resample, over the classes that are in it."""
    of_it, said, right = (
        (sparse.csr_array(table.T, dtype=np.float64) @ weights.T).T
        for table in (truth, taken, truth & taken)
    )
    each = 2 * right / np.maximum(of_it + said, 1) * (of_it > 0)
    return each.sum(1) / np.maximum((of_it > 0).sum(1), 1)
