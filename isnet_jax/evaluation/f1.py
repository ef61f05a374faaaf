"""Macro-averaged F1, and what a confusion matrix says about its true value."""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float, Int

from isnet_jax.evaluation.decisions import Labels, confusion, decided, true
from isnet_jax.evaluation.intervals import Estimate, shortest

_DRAWS, _FEWEST_DRAWS = 10_000, 200
_CELLS = 20_000_000  # drawn at most, unless the fewest draws need more
_AT_ONCE = 1_000_000


def f1(
    truth: Bool[np.ndarray, "n classes"], taken: Bool[np.ndarray, "n classes"]
) -> Float[np.ndarray, " classes"]:
    """The harmonic mean of precision and sensitivity of each class; NaN without samples of it."""
    right, of_it = (truth & taken).sum(0), truth.sum(0)
    return np.where(of_it > 0, 2 * right / np.maximum(of_it + taken.sum(0), 1), np.nan)


def macro_f1(logits: Float[np.ndarray, "n classes"], labels: Labels) -> Estimate | None:
    """The mean of the F1 of the classes that are in the test set, with its Bayesian interval.

    None if no class is. See `posterior_f1`; the interval is the one of highest density. Multi-label
    data have a matrix of two rows for each class, and decisions count as independent of each other.
    """
    truth, taken = true(labels, logits.shape[1]), decided(logits, labels.ndim)
    observed = f1(truth, taken)
    if np.isnan(observed).all():
        return None
    if labels.ndim == 1:
        draws = posterior_f1(confusion(logits, labels)).mean(1)
    else:
        present = np.flatnonzero(truth.any(0))
        pairs = ((truth[:, code], taken[:, code]) for code in present)
        found = [posterior_f1(_two_by_two(*pair), seed=n)[:, -1] for n, pair in enumerate(pairs)]
        draws = np.mean(found, axis=0)
    return Estimate(float(np.nanmean(observed)), *shortest(draws))


def posterior_f1(
    matrix: Int[np.ndarray, "classes classes"], *, prior: float | None = None, seed: int = 0
) -> Float[np.ndarray, "draws present"]:
    """Draws from the posterior of the F1 of each class that is in a test set.

    After Zhang, Wang and Zhao (ICTIR 2015), as the ISNet paper has it: how frequent the classes
    are, and how the images of each are distributed over the predictions, are multinomials with
    Dirichlet priors. These are conjugate, so the draws are exact and independent; no Markov chain.

    Args:
      matrix: samples of each class (row) taken for each (column).
      prior: of each cell and of each class. None: the prior of the whole matrix weighs as much as
        one image, spread over its cells (Perks's). The paper's is 1, uniform, which of each class
        weighs as much as so many images as there are classes.
    """
    classes = len(matrix)
    present = np.flatnonzero(matrix.sum(1))
    rng = np.random.default_rng(seed)
    cells = len(present) * classes
    count = min(_DRAWS, max(_FEWEST_DRAWS, _CELLS // cells))
    concentration = matrix[present] + (1 / cells if prior is None else prior)
    frequency = matrix[present].sum(1) + (1 / len(present) if prior is None else prior)
    parts = []
    for start in range(0, count, max(_AT_ONCE // cells, 1)):
        some = min(max(_AT_ONCE // cells, 1), count - start)
        of_class = rng.standard_gamma(frequency, (some, len(present)))
        of_class /= of_class.sum(1, keepdims=True)
        joint = rng.standard_gamma(concentration, (some, *concentration.shape))
        joint *= (of_class / joint.sum(2))[..., None]
        right = joint[:, np.arange(len(present)), present]
        parts.append(2 * right / (of_class + joint.sum(1)[:, present]))
    return np.concatenate(parts)


def _two_by_two(truth: Bool[np.ndarray, " n"], taken: Bool[np.ndarray, " n"]) -> np.ndarray:
    return np.bincount(2 * truth + taken, minlength=4).reshape(2, 2)
