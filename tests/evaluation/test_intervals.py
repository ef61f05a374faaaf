"""Intervals of shares, of draws, and over trainings."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binomtest, bootstrap

from isnet_jax.evaluation.intervals import between_seeds, over_seeds, shortest, wilson


@pytest.mark.parametrize(("hits", "count"), [(0, 5), (5, 5), (7, 20), (930, 1000)])
def test_wilson(hits: int, count: int):
    expected = binomtest(hits, count).proportion_ci(method="wilson")
    found = wilson(hits, count)
    assert found is not None
    assert found.value == hits / count
    assert (found.low, found.high) == pytest.approx(tuple(expected), abs=1e-6)
    assert wilson(0, 0) is None


def test_the_shortest_interval():
    draws = np.concatenate([np.linspace(0, 1, 96), np.linspace(5, 9, 4)])
    assert shortest(draws) == pytest.approx((0, 94 / 95))
    assert shortest(np.ones(5)) == (1, 1)


def test_over_seeds_is_scipys_bootstrap():
    few, many = [0.81, 0.9, 0.86], np.random.default_rng(0).normal(size=12)
    found = over_seeds(few)
    assert found.value == pytest.approx(np.mean(few))
    assert found.low == pytest.approx(0.8208, abs=2e-3)  # Of all 27 resamples.
    assert found.high == pytest.approx(0.8913, abs=2e-3)
    rng = np.random.default_rng(1)
    expected = bootstrap((many,), np.mean, method="percentile", rng=rng).confidence_interval
    found = over_seeds(many.tolist())
    assert (found.low, found.high) == pytest.approx(tuple(expected), abs=0.02)


def test_the_difference_of_two_means():
    rng = np.random.default_rng(0)
    first, second = rng.normal(1, 1, 9), rng.normal(0, 1, 7)
    found = between_seeds(first.tolist(), second.tolist())

    def difference(a, b, axis):
        return a.mean(axis) - b.mean(axis)

    drawn = bootstrap((first, second), difference, method="percentile", rng=rng)
    expected = drawn.confidence_interval
    assert (found.low, found.high) == pytest.approx(tuple(expected), abs=0.05)
    assert between_seeds([0.5, 0.6], [0.1, 0.3]).value == pytest.approx(0.35)


def test_one_training_says_nothing_about_others():
    assert over_seeds([0.5]).low is None
    assert between_seeds([0.5, 0.6], [0.4]).high is None
