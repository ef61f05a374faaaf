"""What the predictions on one test set are worth, with 95 % intervals."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float
from scipy.special import expit

from isnet_jax.evaluation.areas import hand_till, mean, one_vs_rest
from isnet_jax.evaluation.decisions import Labels, decided, log_odds, true
from isnet_jax.evaluation.f1 import f1, macro_f1
from isnet_jax.evaluation.intervals import Estimate, wilson

_BINS = 15


@dataclasses.dataclass(frozen=True)
class OfClass:
    """Of one class against all others; shares in [0, 1], and None where nothing is known.

    Attributes:
      images: of the class.
      sensitivity: the share of its images that are taken for it, with Wilson's interval.
      specificity: the share of the other images that are not, likewise.
      f1: the harmonic mean of sensitivity and precision.
      auc: the area below the ROC curve of its probability, with DeLong's interval.
    """

    images: int
    sensitivity: Estimate | None
    specificity: Estimate | None
    f1: float | None
    auc: Estimate | None


@dataclasses.dataclass(frozen=True)
class Statistics:
    """Of a network on one test set. Classes that are not in it count in no mean.

    Attributes:
      images: how many.
      accuracy: with Wilson's interval; without one for multi-label data, where the decisions on
        one image depend on each other.
      macro_f1: the mean over classes, with the Bayesian interval of `f1.macro_f1`.
      auc: the mean over classes of the area of one against the rest, with DeLong's interval.
      auc_pairs: Hand and Till's M, likewise; None for multi-label data.
      calibration_error: see `calibration_error`.
      classes: by their names.
    """

    images: int
    accuracy: Estimate
    macro_f1: Estimate | None
    auc: Estimate | None
    auc_pairs: Estimate | None
    calibration_error: float
    classes: dict[str, OfClass]


def statistics(
    logits: Float[np.ndarray, "n classes"], labels: Labels, class_names: Sequence[str]
) -> Statistics | None:
    """None without images, or where a logit is NaN or infinite: then nothing is known."""
    if not len(logits) or not np.isfinite(logits).all():
        return None
    taken, truth = decided(logits, labels.ndim), true(labels, logits.shape[1])
    areas = one_vs_rest(logits, labels)
    macro = mean(areas.values())
    pairs = hand_till(logits, labels) if labels.ndim == 1 else None
    if labels.ndim == 1:
        accuracy = wilson(int((taken & truth).sum()), len(labels))
    else:
        accuracy = Estimate(float((taken == truth).mean()), None, None)
    assert accuracy is not None
    classes = {}
    for code, name in enumerate(class_names):
        here, said = truth[:, code], taken[:, code]
        harmonic = float(f1(truth[:, [code]], taken[:, [code]])[0])
        classes[name] = OfClass(
            int(here.sum()),
            wilson(int((here & said).sum()), int(here.sum())),
            wilson(int((~here & ~said).sum()), int((~here).sum())),
            harmonic if here.any() else None,
            areas[code].estimate() if code in areas else None,
        )
    return Statistics(
        len(labels),
        accuracy,
        macro_f1(logits, labels),
        macro and macro.estimate(),
        pairs and pairs.estimate(),
        calibration_error(logits, labels),
        classes,
    )


def calibration_error(
    logits: Float[np.ndarray, "n classes"], labels: Labels, bins: int = _BINS
) -> float:
    """The expected calibration error (Guo et al., ICML 2017), in [0, 1].

    How far the probability of the predicted class is from the share of right predictions, in bins
    of equal width, as a mean over the images. Multi-label: how far the probability of yes is from
    the share of yes, over all decisions.
    """
    probabilities, truth = expit(log_odds(logits, labels.ndim)), true(labels, logits.shape[1])
    if labels.ndim == 1:
        chosen = (np.arange(len(logits)), logits.argmax(1))
        probabilities, truth = probabilities[chosen], truth[chosen]
    given, found = probabilities.ravel(), truth.ravel()
    places = np.minimum((given * bins).astype(int), bins - 1)
    gaps = np.bincount(places, given - found, minlength=bins)
    return float(np.abs(gaps).sum() / len(given))
