"""Macro-averaged F1 against scikit-learn, and its posterior against closed forms."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import beta
from sklearn.metrics import f1_score

from isnet_jax.evaluation.f1 import macro_f1, posterior_f1

RNG = np.random.default_rng(0)
LOGITS = RNG.normal(size=(90, 4))
LABELS = RNG.integers(0, 3, 90)  # Nothing is of class 3.
LOGITS[np.arange(90), LABELS] += 1


def test_macro_f1_is_scikit_learns_over_the_classes_that_are_there():
    found = macro_f1(LOGITS, LABELS)
    expected = f1_score(LABELS, LOGITS.argmax(1), labels=[0, 1, 2], average="macro")
    assert found is not None
    assert found.value == pytest.approx(expected)
    several = (RNG.random((90, 4)) > 0.6).astype(np.float32)
    found = macro_f1(LOGITS, several)
    assert found is not None
    assert found.value == pytest.approx(f1_score(several, LOGITS > 0, average="macro"))
    assert found.low is not None
    assert found.high is not None
    assert found.low < found.value < found.high


@pytest.mark.parametrize(("tp", "wrong"), [(30, (6, 10)), (3, (1, 2))])
def test_of_two_classes_the_posterior_is_known(tp: int, wrong: tuple[int, int]):
    """F1 / (2 - F1) has a beta distribution (Goutte and Gaussier, ECIR 2005)."""
    draws = posterior_f1(np.array([[40, wrong[0]], [wrong[1], tp]]))[:, 1]
    shares = np.array([0.025, 0.25, 0.5, 0.75, 0.975])
    known = beta(tp + 1 / 4, sum(wrong) + 2 / 4).ppf(shares)
    expected = 2 * known / (1 + known)
    np.testing.assert_allclose(np.quantile(draws, shares), expected, atol=0.01)


def test_of_three_classes_it_is_that_of_the_model():
    """Drawn one after the other from NumPy's Dirichlet, as the model says."""
    matrix = np.array([[20, 3, 0], [2, 8, 5], [1, 0, 30]])
    rng = np.random.default_rng(1)
    expected = []
    for _ in range(4000):
        frequency = rng.dirichlet(matrix.sum(1) + 1)
        joint = frequency[:, None] * [rng.dirichlet(row + 1) for row in matrix]
        expected.append(2 * joint.diagonal() / (joint.sum(0) + joint.sum(1)))
    draws = posterior_f1(matrix, prior=1)
    np.testing.assert_allclose(draws.mean(0), np.mean(expected, 0), atol=0.005)
    np.testing.assert_allclose(draws.std(0), np.std(expected, 0), atol=0.004)
    shares = (0.025, 0.975)
    found, drawn = draws.mean(1), np.mean(expected, 1)
    np.testing.assert_allclose(np.quantile(found, shares), np.quantile(drawn, shares), atol=0.01)


def test_the_interval_holds_what_was_observed_of_few_images_and_many_classes():
    logits = 9 * np.eye(10)[np.repeat(np.arange(10), 3)]
    found = macro_f1(logits, logits.argmax(1))
    assert found is not None
    assert found.value == 1
    assert found.low is not None
    assert 0.8 < found.low < 0.97
    assert found.high == pytest.approx(1, abs=0.01)


def test_intervals_hold_the_true_value():
    """Of 200 test sets of 60 images, drawn from one table of probabilities."""
    rows = np.array([[0.8, 0.15, 0.05], [0.2, 0.7, 0.1], [0.05, 0.05, 0.9]])
    joint = rows / 3
    true = np.mean(2 * joint.diagonal() / (joint.sum(0) + joint.sum(1)))
    rng, held = np.random.default_rng(3), 0
    for _ in range(200):
        matrix = rng.multinomial(60, joint.ravel()).reshape(3, 3)
        low, high = np.quantile(posterior_f1(matrix).mean(1), (0.025, 0.975))
        held += low < true < high
    assert 0.9 < held / 200 < 0.99


def test_nothing_is_there():
    assert macro_f1(LOGITS, np.zeros((90, 4), np.float32)) is None
    alone = macro_f1(LOGITS[:1], LABELS[:1])
    assert alone is not None
    assert alone.low is not None


def test_many_classes_are_drawn_in_parts():
    assert posterior_f1(np.eye(330, dtype=int)).shape == (200, 330)
