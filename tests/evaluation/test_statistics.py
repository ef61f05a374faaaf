"""What the predictions on a test set are worth, against scikit-learn and by hand."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
from sklearn.metrics import precision_recall_fscore_support

from isnet_jax.evaluation.statistics import Statistics, calibration_error, statistics

NAMES = ("a", "b", "c", "d")
RNG = np.random.default_rng(0)
LOGITS = RNG.normal(size=(60, 4))
LABELS = RNG.integers(0, 4, 60)
SEVERAL = (RNG.random((60, 4)) > 0.6).astype(np.float32)


def measured(logits: np.ndarray, labels: np.ndarray, names=NAMES) -> Statistics:
    """The record has to be JSON without NaN."""
    found = statistics(logits, labels, names)
    assert found is not None
    json.dumps(dataclasses.asdict(found), allow_nan=False)
    return found


def test_each_class_is_scikit_learns():
    found = measured(LOGITS, LABELS)
    _, recall, f1, count = precision_recall_fscore_support(LABELS, LOGITS.argmax(1))
    _, other, _, _ = precision_recall_fscore_support(LABELS != 1, LOGITS.argmax(1) != 1)
    for code, name in enumerate(NAMES):
        of = found.classes[name]
        assert of.sensitivity is not None
        assert of.sensitivity.value == pytest.approx(recall[code])
        assert of.f1 == pytest.approx(f1[code])
        assert of.images == count[code]
        assert of.auc is not None
    specificity = found.classes["b"].specificity
    assert specificity is not None
    assert specificity.value == pytest.approx(other[1])
    assert found.accuracy.value == (LOGITS.argmax(1) == LABELS).mean()


def test_several_labels_an_image():
    found = measured(LOGITS, SEVERAL)
    assert found.accuracy.value == ((LOGITS > 0) == (SEVERAL > 0.5)).mean()
    assert found.accuracy.low is None
    assert found.auc_pairs is None
    _, recall, f1, _ = precision_recall_fscore_support(SEVERAL, LOGITS > 0)
    assert found.classes["c"].f1 == pytest.approx(f1[2])
    assert found.classes["c"].sensitivity is not None
    assert found.classes["c"].sensitivity.value == pytest.approx(recall[2])


def test_a_class_that_is_not_in_the_test_set():
    found = measured(LOGITS, np.where(LABELS == 3, 0, LABELS))
    absent = found.classes["d"]
    assert (absent.images, absent.sensitivity, absent.f1, absent.auc) == (0, None, None, None)
    assert absent.specificity is not None
    known = [of.auc.value for of in found.classes.values() if of.auc is not None]
    assert found.auc is not None
    assert found.auc.value == pytest.approx(np.mean(known))
    measured(LOGITS, np.where(np.arange(4) == 3, 0, SEVERAL))
    measured(LOGITS, np.zeros_like(SEVERAL))
    measured(LOGITS, np.ones_like(SEVERAL))


def test_one_image_one_class_and_ties():
    found = measured(LOGITS[:1], LABELS[:1])
    assert found.auc is None
    assert found.accuracy.low is not None
    assert measured(LOGITS[:, :1], np.zeros(60, int), NAMES[:1]).accuracy.value == 1
    tied = measured(np.zeros((60, 4)), LABELS)
    assert tied.auc is not None
    assert (tied.auc.value, tied.auc.low) == (0.5, None)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_logits_that_are_not_finite_say_nothing(bad: float):
    logits = LOGITS.copy()
    logits[7, 1] = bad
    assert statistics(logits, LABELS, NAMES) is None
    assert statistics(LOGITS[:0], LABELS[:0], NAMES) is None


def test_calibration_error():
    """Two bins: 0.7 and 0.9 sure and half of them right, 0.55 sure and all right."""
    sure = np.array([0.7, 0.9, 0.7, 0.9, 0.55, 0.55])
    logits = np.stack([np.log(sure), np.log(1 - sure)], 1)
    labels = np.array([0, 0, 1, 1, 0, 0])
    assert calibration_error(logits, labels, bins=5) == pytest.approx(
        (abs(1.4 - 1) + abs(1.8 - 1) + abs(1.1 - 2)) / 6
    )
    several = np.stack([labels == 0, labels == 1], 1).astype(np.float32)
    decisions = logits - np.flip(logits, 1)
    given, found = 1 / (1 + np.exp(-decisions)).ravel(), several.ravel()
    bins = np.minimum((given * 15).astype(int), 14)
    expected = sum(abs((given - found)[bins == n].sum()) for n in range(15)) / 12
    assert calibration_error(decisions, several) == pytest.approx(expected)
