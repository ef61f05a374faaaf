"""What the metrics of a network hold, on one that always says class 0."""

from __future__ import annotations

import json
from typing import Any

import jax.numpy as jnp
import numpy as np
from tiny_training import SMALL, split

from isnet_jax.evaluation.judge import (
    EXPLAINED,
    by_class,
    class_means,
    compare_all,
    judge,
    measure,
)


def says_nothing() -> Any:
    """Class 0 for any image."""
    model: Any = SMALL.create()
    model.fc.kernel[...] = jnp.zeros_like(model.fc.kernel[...])
    model.fc.bias[...] = jnp.array([1.0, 0.0, 0.0])
    return model


def test_a_network_is_judged_on_all_test_sets():
    first, second = split(12), split(9)
    found = judge(says_nothing(), {"train": first, "test_biased": first, "test_unseen": second})
    assert list(found) == [
        "biased", "unseen", "worst_group", "background_relevance", "interventions",
        "explanations", "statistics",
    ]  # fmt: skip
    assert found["biased"] == float((first.labels == 0).mean())
    assert found["worst_group"] == 0.0
    assert found["interventions"]["agreement_exchanged"] == 1.0
    assert found["interventions"]["background_mean"] == found["biased"]
    of_biased = found["statistics"]["biased"]
    assert of_biased["accuracy"]["value"] == found["biased"]
    assert of_biased["auc"]["value"] == 0.5
    assert of_biased["classes"]["a"]["sensitivity"]["value"] == 1
    assert list(found["explanations"]) == list(EXPLAINED)
    json.dumps(found, allow_nan=False)


def test_a_network_that_is_not_finite():
    """It is judged all the same, and no NaN is written."""
    model = says_nothing()
    model.fc.bias[...] = jnp.full(3, jnp.nan)
    splits = {"test": split(12)}
    measured = {"plain": measure(says_nothing(), splits), "isnet": measure(model, splits)}
    found = measured["isnet"].judged
    assert found["statistics"] == {"test": None}
    assert compare_all(measured, splits) == {"plain": {"test": None}}
    json.dumps(found, allow_nan=False)


def test_the_last_network_is_compared_with_the_others():
    splits = {"test_one": split(12), "test_two": split(9, 1)}
    measured = dict.fromkeys(("plain", "isnet"), measure(says_nothing(), splits))
    found = compare_all(measured, splits)
    assert list(found) == ["plain"]
    assert list(found["plain"]) == ["one", "two"]
    assert found["plain"]["two"]["accuracy"]["p"] == 1
    assert compare_all({"isnet": measured["isnet"]}, splits) == {}


def test_accuracy_of_each_class():
    logits = np.array([[2.0, 1.0], [0.0, 1.0], [3.0, 1.0], [0.0, 5.0]])
    assert by_class(logits, np.array([0, 0, 0, 1])) == [2 / 3, 1.0]
    several = np.array([[1.0, 1.0], [0.0, 0.0], [1.0, 0.0], [0.0, 0.0]])
    assert by_class(logits - 1.5, several) == [1.0, 0.5]


def test_where_a_class_is_looked_for():
    split_, network = split(12), SMALL.create(0)
    found = measure(network, {"test": split_})
    np.testing.assert_allclose(found.places.sum((1, 2)), 1, atol=1e-6)
    maps = np.arange(12.0).reshape(3, 2, 2)
    np.testing.assert_array_equal(class_means(maps, np.array([1, 1, 0]), 3)[2], 0)
    np.testing.assert_array_equal(class_means(maps, np.array([1, 1, 0]), 3)[1], maps[:2].mean(0))
    several = np.array([[1, 0], [1, 1], [0, 0]])
    np.testing.assert_array_equal(class_means(maps, several, 2), [maps[:2].mean(0), maps[1]])
