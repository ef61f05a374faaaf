"""Intervals of accuracies."""

from __future__ import annotations

import pytest
from scipy.stats import binomtest

from isnet_jax.report.card import wilson_interval


@pytest.mark.parametrize(("hits", "count"), [(0, 5), (5, 5), (7, 20), (930, 1000)])
def test_wilson_interval(hits: int, count: int):
    expected = binomtest(hits, count).proportion_ci(method="wilson")
    assert wilson_interval(hits / count, count) == pytest.approx(tuple(expected), abs=1e-6)
