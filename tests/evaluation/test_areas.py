"""Areas and DeLong's variances against their definitions, scikit-learn's areas and R's pROC."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from isnet_jax.evaluation.areas import Area, area_below, hand_till, mean, one_vs_rest
from isnet_jax.evaluation.decisions import rocs

RNG = np.random.default_rng(0)
LOGITS = RNG.normal(size=(80, 4)).round(1)  # with ties
LABELS = RNG.integers(0, 4, 80)
LOGITS[np.arange(80), LABELS] += 1
SEVERAL = (RNG.random((80, 4)) > 0.6).astype(np.float32)


def wins(positives: np.ndarray, negatives: np.ndarray) -> np.ndarray:
    """Of each pair: 1 where the positive is higher, a half where both are alike."""
    return (positives[:, None] > negatives) + 0.5 * (positives[:, None] == negatives)


def delong(positive: np.ndarray, *scores: np.ndarray) -> np.ndarray:
    """The covariance of the areas of several scores, as the paper defines it."""
    pairs = [wins(score[positive], score[~positive]) for score in scores]
    rows, columns = ([pair.mean(axis) for pair in pairs] for axis in (1, 0))
    return np.cov(rows) / positive.sum() + np.cov(columns) / (~positive).sum()


def test_an_area_and_its_variance_by_definition():
    positive = LABELS == 1
    scores = LOGITS[:, 1]
    area = area_below(scores, positive)
    assert area.value == pytest.approx(wins(scores[positive], scores[~positive]).mean())
    assert area.deviation == pytest.approx(np.sqrt(delong(positive, scores)))


def test_the_difference_of_two_networks_by_definition():
    positive, scores = LABELS == 2, (LOGITS[:, 2], LOGITS[:, 0])
    difference = area_below(scores[0], positive).minus(area_below(scores[1], positive))
    covariance = delong(positive, *scores)
    expected = covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1]
    assert difference.deviation == pytest.approx(np.sqrt(expected))


def test_what_proc_of_r_measures():
    """Areas, variances, intervals, paired tests; `proc.R` made the file, with pROC 1.18.0."""
    found = json.loads(Path(__file__).with_name("proc.json").read_text())
    keys = ("first", "second")
    for case in found:
        positive = np.array(case["positive"], bool)
        first, second = (area_below(np.array(case[key], float), positive) for key in keys)
        for area, expected in ((first, case["of_first"]), (second, case["of_second"])):
            assert area.value == pytest.approx(expected["auc"], abs=1e-12)
            assert area.deviation == pytest.approx(np.sqrt(expected["variance"]), abs=1e-12)
            estimate = area.estimate()
            assert (estimate.low, estimate.high) == pytest.approx(expected["interval"], abs=1e-6)
        difference = first.minus(second)
        assert difference.deviation is not None
        assert difference.value / difference.deviation == pytest.approx(case["z"], abs=1e-9)
        assert difference.p_value() == pytest.approx(case["p"], abs=1e-9)


def test_areas_of_each_class_are_scikit_learns_and_the_curves():
    probabilities = np.exp(LOGITS) / np.exp(LOGITS).sum(1, keepdims=True)
    areas = one_vs_rest(LOGITS, LABELS)
    curves = rocs(LOGITS, LABELS)
    for code, area in areas.items():
        expected = roc_auc_score(code == LABELS, probabilities[:, code])
        assert area.value == pytest.approx(expected, abs=1e-12)
        assert area.value == pytest.approx(curves[code].area, abs=1e-12)
    for code, area in one_vs_rest(LOGITS, SEVERAL).items():
        assert area.value == pytest.approx(roc_auc_score(SEVERAL[:, code], LOGITS[:, code]))


def test_hand_and_till_is_scikit_learns():
    probabilities = np.exp(LOGITS) / np.exp(LOGITS).sum(1, keepdims=True)
    found = hand_till(LOGITS, LABELS)
    expected = roc_auc_score(LABELS, probabilities, multi_class="ovo", average="macro")
    assert found is not None
    assert found.value == pytest.approx(expected, abs=1e-12)


def statistic(kind: str, logits: np.ndarray, labels: np.ndarray) -> Area:
    found = mean(one_vs_rest(logits, labels).values()) if kind == "rest" else None
    found = hand_till(logits, labels) if kind == "pairs" else found
    assert found is not None
    return found


@pytest.mark.parametrize("kind", ["rest", "pairs"])
def test_the_variance_over_several_classes_is_the_jackknifes(kind: str):
    """They agree as far as the jackknife's own error, which goes with the size of the sample."""
    rng = np.random.default_rng(1)
    labels = np.arange(240) % 3
    logits = rng.normal(size=(240, 3))
    logits[np.arange(240), labels] += 0.7
    whole = statistic(kind, logits, labels)
    left = np.array(
        [
            statistic(kind, np.delete(logits, n, 0), np.delete(labels, n)).value
            for n in range(len(labels))
        ]
    )
    jackknife = (len(left) - 1) / len(left) * ((left - left.mean()) ** 2).sum()
    assert whole.deviation == pytest.approx(np.sqrt(jackknife), rel=0.02)


def test_intervals_hold_the_true_area():
    """Normal scores a unit apart: 0.7602 is right in about 95 of 100 samples."""
    rng = np.random.default_rng(2)
    positive, held = np.arange(120) < 50, 0
    for _ in range(400):
        estimate = area_below(rng.normal(size=120) + positive, positive).estimate()
        assert estimate.low is not None
        assert estimate.high is not None
        held += estimate.low < 0.76025 < estimate.high
    assert 0.92 < held / 400 < 0.98


def test_two_classes_are_one_question():
    logits, labels = LOGITS[:, :2], LABELS % 2
    areas = one_vs_rest(logits, labels)
    np.testing.assert_allclose(areas[0].influence, areas[1].influence, atol=1e-15)
    pairs, rest = hand_till(logits, labels), mean(areas.values())
    assert pairs is not None
    assert rest is not None
    assert pairs.estimate() == rest.estimate()


def test_scores_do_not_saturate():
    """Softmax's probabilities would all be 1, and their order lost."""
    logits = np.array([[90.0, 0], [80.0, 0], [70.0, 0], [60.0, 0]], np.float32)
    areas = one_vs_rest(logits, np.array([0, 0, 1, 1]))
    assert areas[0].value == areas[1].value == 1


@pytest.mark.parametrize(
    ("scores", "value"), [([2.0, 2, 2, 2], 0.5), ([0, 1, 2, 3], 1.0), ([3, 2, 1, 0], 0.0)]
)
def test_where_no_sample_tells_more_than_another_there_is_no_interval(scores: Any, value: float):
    positive = np.array([False, False, True, True])
    area = area_below(np.array(scores, float), positive)
    assert area.value == value
    assert area.estimate().low is None
    opposite = area_below(-np.array(scores, float), positive)
    assert area.minus(opposite).p_value() == (1 if value == 0.5 else None)


def test_one_sample_on_a_side_has_an_area_and_no_interval():
    area = area_below(np.array([1.0, 2, 3]), np.array([False, True, False]))
    assert area.value == 0.5
    assert area.deviation is None
    assert area.minus(area).p_value() is None


def test_equal_networks_do_not_differ():
    area = area_below(LOGITS[:, 1], LABELS == 1)
    assert area.minus(area).p_value() == 1


def test_classes_that_are_not_there():
    labels = np.where(LABELS == 3, 0, LABELS)
    assert list(one_vs_rest(LOGITS, labels)) == [0, 1, 2]
    assert one_vs_rest(LOGITS, np.zeros(80, int)) == {}
    assert hand_till(LOGITS, np.zeros(80, int)) is None
    assert mean([]) is None
