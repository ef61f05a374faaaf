"""What the metrics of a network hold, on one that always says class 0."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import nnx
from tiny_training import SMALL, split

from isnet_jax.evaluation.judge import by_class, judge


def says_nothing() -> nnx.Module:
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
    ]  # fmt: skip
    assert found["biased"] == float((first.labels == 0).mean())
    assert found["worst_group"] == 0.0
    assert found["interventions"]["agreement_exchanged"] == 1.0
    assert found["interventions"]["background_mean"] == found["biased"]


def test_accuracy_of_each_class():
    logits = np.array([[2.0, 1.0], [0.0, 1.0], [3.0, 1.0], [0.0, 5.0]])
    assert by_class(logits, np.array([0, 0, 0, 1])) == [2 / 3, 1.0]
    several = np.array([[1.0, 1.0], [0.0, 0.0], [1.0, 0.0], [0.0, 0.0]])
    assert by_class(logits - 1.5, several) == [1.0, 0.5]
