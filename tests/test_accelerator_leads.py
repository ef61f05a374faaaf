"""Other ways to GWRP's largest values (benchmarks/accelerator_leads.py): equal, ties included."""

from __future__ import annotations

import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from isnet_jax.objective.losses import gwrp

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
accelerator_leads = pytest.importorskip("accelerator_leads")


def rows(kind: str) -> jax.Array:
    r = np.random.default_rng(0)
    values = np.abs(r.standard_normal((3, 2500))).astype(np.float32)
    if kind == "ties":
        values = np.round(values, 1)
    if kind == "mostly zero":
        values[:, 100:] = 0
    if kind == "few":
        values = values[:, :60]
    return jnp.asarray(values)


@pytest.mark.parametrize("kind", ["random", "ties", "mostly zero", "few"])
@pytest.mark.parametrize("way", ["chunks", "threshold", "sort"])
def test_values_are_those_of_top_k(way: str, kind: str):
    x = rows(kind)
    count = min(x.shape[1], 175)
    largest = jax.jit(accelerator_leads.WAYS[way], static_argnums=1)(x, count)
    np.testing.assert_array_equal(largest, jax.lax.top_k(x, count)[0])


@pytest.mark.parametrize("kind", ["random", "ties", "mostly zero"])
@pytest.mark.parametrize("way", ["chunks", "threshold"])
def test_so_is_the_gradient(way: str, kind: str):
    x = rows(kind)
    pooled = jax.jit(
        jax.grad(lambda x: accelerator_leads.pooled(accelerator_leads.WAYS[way], x).sum())
    )
    expected = jax.jit(jax.grad(lambda x: gwrp(x, 0.9).sum()))(x)
    np.testing.assert_allclose(pooled(x), expected, rtol=1e-6)
