"""Confusion matrices and ROC curves against values by hand and by scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import confusion_matrix, roc_auc_score

from isnet_jax.evaluation.decisions import confusion, roc, rocs

RNG = np.random.default_rng(0)
LOGITS = RNG.normal(size=(60, 4)).round(1)  # with ties
LABELS = RNG.integers(0, 4, 60)


def test_confusion():
    expected = confusion_matrix(LABELS, LOGITS.argmax(1), labels=range(4))
    np.testing.assert_array_equal(confusion(LOGITS, LABELS), expected)


def test_a_curve_by_hand():
    found = roc(np.array([0.9, 0.5, 0.5, 0.1]), np.array([True, True, False, False]))
    assert found is not None
    assert found.false_positives.tolist() == [0, 0, 0.5, 1]
    assert found.true_positives.tolist() == [0, 0.5, 1, 1]
    assert found.area == 0.875
    assert roc(np.zeros(3), np.ones(3, bool)) is None


def test_areas_of_each_class_against_the_others():
    probabilities = np.exp(LOGITS) / np.exp(LOGITS).sum(1, keepdims=True)
    for code, found in rocs(LOGITS, LABELS).items():
        expected = roc_auc_score(code == LABELS, probabilities[:, code])
        assert found.area == pytest.approx(expected, abs=1e-12)
    several = (RNG.random((60, 4)) > 0.6).astype(np.float32)
    for code, found in rocs(LOGITS, several).items():
        assert found.area == pytest.approx(roc_auc_score(several[:, code], LOGITS[:, code]))


def test_two_classes_have_one_curve():
    assert list(rocs(LOGITS[:, :2], LABELS % 2)) == [1]
