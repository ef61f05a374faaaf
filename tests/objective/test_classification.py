"""The classification loss: hand-worked numbers, PyTorch's conventions, errors."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest

from isnet_jax import Classification, UserError
from isnet_jax.objective.classification import accuracy, classification_loss

pytestmark = pytest.mark.usefixtures("x64")

P = np.array([[0.5, 0.25, 0.25], [0.1, 0.1, 0.8]])
LABELS = jnp.array([1, 2])


def loss(labels=LABELS, logits=None, **options):
    logits = jnp.log(P) if logits is None else logits
    return float(classification_loss(logits, labels, Classification(**options)))


def test_cross_entropy_of_hand_worked_numbers():
    assert loss() == pytest.approx(-np.log([0.25, 0.8]).mean(), rel=1e-12)


def test_half_precision_logits_are_judged_in_float32():
    found = classification_loss(jnp.log(P).astype(jnp.bfloat16), LABELS, Classification())
    assert found.dtype == jnp.float32


def test_label_smoothing_spreads_over_all_classes():
    targets = 0.7 * np.eye(3)[[1, 2]] + 0.1
    expected = -(targets * np.log(P)).sum(1).mean()
    assert loss(label_smoothing=0.3) == pytest.approx(expected, rel=1e-12)


def test_class_weights_make_a_weighted_mean():
    expected = (4 * -np.log(0.25) + 2 * -np.log(0.8)) / 6
    assert loss(class_weights=(1.0, 4.0, 2.0)) == pytest.approx(expected, rel=1e-12)


def test_class_weights_weigh_the_smoothed_targets_too():
    weights, targets = np.array([1.0, 4.0, 2.0]), 0.7 * np.eye(3)[[1, 2]] + 0.1
    expected = -(targets * weights * np.log(P)).sum() / 6
    found = loss(class_weights=(1.0, 4.0, 2.0), label_smoothing=0.3)
    assert found == pytest.approx(expected, rel=1e-12)


def test_multilabel_is_binary_cross_entropy_of_each_class():
    labels, p = jnp.array([[1.0, 0.0], [1.0, 1.0]]), np.array([[0.9, 0.2], [0.6, 0.3]])
    logits = jnp.log(p / (1 - p))
    each = -np.log([[0.9, 0.8], [0.6, 0.3]])
    assert loss(labels, logits, task="multilabel") == pytest.approx(each.mean(), rel=1e-12)
    weighted = (each * [3, 1]).mean() / 2
    found = loss(labels, logits, task="multilabel", class_weights=(3.0, 1.0))
    assert found == pytest.approx(weighted, rel=1e-12)
    targets = 0.8 * np.asarray(labels) + 0.1
    smooth = -(targets * np.log(p) + (1 - targets) * np.log(1 - p)).mean()
    found = loss(labels, logits, task="multilabel", label_smoothing=0.2)
    assert found == pytest.approx(smooth, rel=1e-12)


def test_accuracy():
    assert float(accuracy(jnp.log(P), LABELS)) == 0.5
    decisions = jnp.array([[1.0, -2.0, 3.0, -1.0]])
    assert float(accuracy(decisions, jnp.array([[1.0, 1.0, 1.0, 0.0]]))) == 0.75


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"task": "multiclas"}, "unknown task 'multiclas'; did you mean 'multiclass'"),
        ({"label_smoothing": 1.0}, r"label_smoothing is 1.0; expected in \[0, 1\)"),
        ({"class_weights": (1.0, 0.0)}, r"class_weights are \(1.0, 0.0\); expected finite"),
        ({"class_weights": (float("inf"), 1.0)}, r"class_weights are \(inf, 1.0\)"),
    ],
)
def test_options_that_make_no_sense(options, message):
    with pytest.raises(UserError, match=message):
        Classification(**options)


@pytest.mark.parametrize(
    ("labels", "options", "message"),
    [
        (LABELS, {"class_weights": (1.0, 2.0)}, "2 class_weights for 3 classes"),
        (LABELS, {"task": "multilabel"}, r"labels of shape \(2,\); expected \(2, 3\), 1 where"),
        (jnp.ones((2, 3)), {}, r'labels of shape \(2, 3\); .* Classification\(task="multilabel"\)'),
        (2 * jnp.ones((2, 3)), {"task": "multilabel"}, "labels from 2.0 to 2.0; expected 0 to 1"),
        (LABELS + 1, {"class_weights": (1.0, 2.0, 1.0)}, "for 3 classes; expected class numbers"),
        (jnp.ones(2), {}, r"the labels are float\d\d; expected class numbers \(ints\)"),
    ],
)
def test_labels_that_do_not_fit(labels, options, message):
    with pytest.raises(UserError, match=message):
        loss(labels, **options)
