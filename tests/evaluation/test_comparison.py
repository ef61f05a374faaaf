"""Two networks on the same test images."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest

from isnet_jax.evaluation.areas import area_below
from isnet_jax.evaluation.comparison import Comparison, compare, holm

NAMES = ("a", "b", "c")
RNG = np.random.default_rng(0)
LABELS = np.arange(90) % 3
COMMON = RNG.normal(size=(90, 3))
BETTER, WORSE = (COMMON + RNG.normal(size=(90, 3)) for _ in range(2))
BETTER[np.arange(90), LABELS] += 3


def compared(first: np.ndarray, second: np.ndarray, labels: np.ndarray, names=NAMES) -> Comparison:
    found = compare(first, second, labels, names)
    assert found is not None
    json.dumps(dataclasses.asdict(found), allow_nan=False)
    return found


def test_a_better_network():
    found = compared(BETTER, WORSE, LABELS)
    gains = (BETTER.argmax(1) == LABELS) * 1.0 - (WORSE.argmax(1) == LABELS)
    accuracy = found.accuracy
    assert accuracy.value == gains.mean()
    assert accuracy.low == pytest.approx(gains.mean() - 1.96 * gains.std() / 90**0.5, abs=0.02)
    assert accuracy.high == pytest.approx(gains.mean() + 1.96 * gains.std() / 90**0.5, abs=0.02)
    for difference in (found.accuracy, found.macro_f1, found.auc):
        assert difference is not None
        assert difference.low is not None
        assert difference.low > 0.1
    assert found.auc is not None
    assert found.auc.p is not None
    assert found.auc.p < 1e-6


def test_the_other_way_round():
    one, other = compared(BETTER, WORSE, LABELS), compared(WORSE, BETTER, LABELS)
    assert one.accuracy.p == other.accuracy.p
    for name in NAMES:
        assert one.classes[name].auc.p == pytest.approx(other.classes[name].auc.p)
        assert one.classes[name].auc.value == -other.classes[name].auc.value


def test_equal_networks():
    found = compared(BETTER, BETTER, LABELS)
    differences = [found.accuracy, found.auc, *(of.auc for of in found.classes.values())]
    for difference in differences:
        assert difference is not None
        assert (difference.value, difference.p) == (0, 1)
    assert found.macro_f1 is not None
    assert (found.macro_f1.low, found.macro_f1.high) == (0, 0)


def test_of_two_classes_it_is_delongs_test():
    labels = LABELS[:60] % 2
    found = compared(BETTER[:60, :2], WORSE[:60, :2], labels, NAMES[:2])
    scores = [given[:60, 1] - given[:60, 0] for given in (BETTER, WORSE)]
    first, second = (area_below(score, labels == 1) for score in scores)
    assert found.auc is not None
    assert found.auc.p == pytest.approx(first.minus(second).p_value())


def test_p_is_uniform_where_there_is_no_difference():
    """Of 300 pairs of equally good networks about 5 in 100 differ at the level of 5 %."""
    rng, found = np.random.default_rng(1), 0
    positive = np.arange(80) < 40
    for _ in range(300):
        common = rng.normal(size=80) + positive
        first, second = (area_below(common + rng.normal(size=80), positive) for _ in range(2))
        p = first.minus(second).p_value()
        assert p is not None
        found += p < 0.05
    assert 0.02 < found / 300 < 0.09


def test_mcnemar_by_hand():
    """Right on 1 that the other is wrong on, wrong on 5: 2 * (1 + 6) / 2**6."""
    labels = np.zeros(10, int)
    first, second = np.tile([1.0, 0], (10, 1)), np.tile([1.0, 0], (10, 1))
    second[0] = 0, 1
    first[1:6] = 0, 1
    assert compared(first, second, labels, NAMES[:2]).accuracy.p == pytest.approx(14 / 64)


def test_holm_by_hand():
    found = holm({0: 0.01, 1: 0.04, 2: 0.03, 3: None, 4: 0.9})
    assert found == pytest.approx({0: 0.04, 1: 0.09, 2: 0.09, 3: None, 4: 0.9})


def test_several_labels_an_image_and_a_class_that_is_not_there():
    several = np.stack([LABELS == 0, LABELS < 2, np.zeros(90)], 1).astype(np.float32)
    found = compared(BETTER, WORSE, several)
    assert list(found.classes) == ["a", "b"]
    assert found.accuracy.p is None
    nothing = compared(BETTER, WORSE, np.zeros_like(several))
    assert (nothing.macro_f1, nothing.auc, nothing.classes) == (None, None, {})
    compared(BETTER[:1], WORSE[:1], LABELS[:1])


def test_logits_that_are_not_finite():
    bad = np.where(np.arange(90)[:, None] == 3, np.nan, BETTER)
    assert compare(BETTER, bad, LABELS, NAMES) is None
