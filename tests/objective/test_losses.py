"""The pieces of the heatmap loss on cases worked by hand."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from isnet_jax.objective.losses import (
    background_loss,
    foreground_loss,
    gwrp,
    pool_layers,
    shrink_mask,
)

pytestmark = pytest.mark.usefixtures("x64")


def random(*shape: int, seed: int = 0) -> jax.Array:
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape))


def halves() -> tuple[jax.Array, jax.Array]:
    """Relevance (2, 3, 4, 4, 3) and a mask of the left half (first) and the top row (second)."""
    mask = np.zeros((2, 4, 4, 1))
    mask[0, :, :2] = mask[1, :1] = 1
    return random(2, 3, 4, 4, 3), jnp.asarray(mask)


# GWRP


@pytest.mark.parametrize("decay", [0, 0.5, 0.9, 0.996, 1])
def test_gwrp_is_a_weighted_sort(decay):
    x = jnp.abs(random(2, 3, 700))
    ordered = np.sort(x, -1)[..., ::-1]
    weights = float(decay) ** np.arange(700)  # 0 ** 0 is 1
    expected = (ordered * weights).sum(-1) / weights.sum()
    np.testing.assert_allclose(gwrp(x, decay), expected, rtol=1e-7)


@pytest.mark.parametrize("decay", [0, 0.9, 1])
def test_gwrps_gradient_are_the_ranks_weights(decay):
    x = jnp.array([0.3, 2.0, 0.1, 1.0])
    weights = float(decay) ** np.arange(4)
    expected = (weights / weights.sum())[[2, 0, 3, 1]]
    np.testing.assert_allclose(jax.grad(lambda x: gwrp(x, decay))(x), expected, rtol=1e-12)


def test_gwrp_of_one_value_and_its_dtype():
    for decay in (0, 0.9, 1):
        assert float(gwrp(jnp.array([3.0]), decay)) == pytest.approx(3.0)
        assert gwrp(jnp.ones(5, jnp.float32), decay).dtype == jnp.float32


# Background


def test_background_relevance_as_strong_as_the_foreground_costs_log_2():
    relevance = jnp.ones((2, 3, 4, 4, 3))
    mask = jnp.zeros((2, 4, 4, 1)).at[:, :2].set(1)
    loss = background_loss(relevance, mask, decay=0, scale=1.0)
    np.testing.assert_allclose(loss, np.log(2), rtol=1e-9)
    loss = background_loss(relevance, mask, decay=0, scale=0.25)
    np.testing.assert_allclose(loss, np.log(5), rtol=1e-9)


@pytest.mark.parametrize("norm", ["absolute", "signed", "none"])
def test_background_by_a_numpy_formula(norm):
    relevance, mask = halves()
    expected = np.zeros((2, 3, 3))
    for b, k, c in np.ndindex(expected.shape):
        inside = np.asarray(mask[b, ..., 0]) == 1
        mean = {
            "absolute": np.abs(relevance[b, k][inside]).mean(),
            "signed": abs(relevance[b, k][inside].mean()),
            "none": 1 / relevance[b, k].size,
        }[norm]
        outside = np.sort(np.abs(np.where(inside, 0, relevance[b, k, ..., c])).ravel())[::-1]
        weights = 0.9 ** np.arange(16)
        pooled = (outside / mean * weights).sum() / weights.sum()
        expected[b, k, c] = np.log(1 + pooled / 2.0)
    found = background_loss(relevance, mask, decay=0.9, scale=2.0, norm=norm)
    np.testing.assert_allclose(found, expected.mean((1, 2)), rtol=1e-7)


def test_background_without_relevance_outside_is_zero():
    relevance, mask = halves()
    assert not background_loss(relevance * mask[:, None], mask, decay=0.9, scale=1.0).any()


@pytest.mark.parametrize("norm", ["absolute", "signed"])
@pytest.mark.parametrize("factor", [1e-3, 7.0, -1e3])
def test_background_does_not_change_with_the_scale_of_relevance(factor, norm):
    relevance, mask = halves()
    loss = [
        background_loss(f * relevance, mask, decay=0.9, scale=1.0, norm=norm) for f in (1.0, factor)
    ]
    np.testing.assert_allclose(loss[1], loss[0], rtol=1e-6)


def test_an_empty_mask_sits_at_the_cap_without_a_gradient():
    relevance, mask = halves()
    mask = mask.at[0].set(0)

    def total(relevance, sample):
        return background_loss(relevance, mask, decay=0.9, scale=1.0)[sample]

    value, gradient = jax.value_and_grad(total)(relevance, 0)
    assert float(value) == pytest.approx(-np.log(1e-7), rel=1e-6)
    assert not gradient.any()
    assert jax.grad(total)(relevance, 1)[1].any()


def test_the_gradient_flows_through_the_mean_inside():
    relevance, mask = halves()
    gradient = jax.grad(lambda r: background_loss(r, mask, decay=0.9, scale=1.0).sum())(relevance)
    inside = jnp.broadcast_to(mask[:, None] == 1, relevance.shape)
    # More relevance inside lowers the loss; the loss is homogeneous of degree zero.
    assert (jnp.sign(relevance) * gradient)[inside].max() < 0
    assert float((relevance * gradient).sum()) == pytest.approx(0, abs=1e-6)


# Foreground


def relevance_with_sum(total: float) -> tuple[jax.Array, jax.Array]:
    """One heatmap of signed relevance whose absolute sum inside the mask is `total`."""
    relevance = jnp.array([[1.0, -1.0], [9.0, 9.0]]) * total / 2
    return relevance[None, None, :, :, None], jnp.array([[1.0, 1.0], [0.0, 0.0]])[None, ..., None]


@pytest.mark.parametrize(
    ("total", "l2", "hybrid"),
    [
        (0.0, 1.0, 1.0),
        (1.0, 0.25, 0.25),
        (2.0, 0.0, 0.0),
        (5.0, 0.0, 0.0),
        (6.0, 0.25, 0.25),
        (7.0, 1.0, 1.0),
        (9.0, 4.0, 3.0),
        (105.0, 2500.0, 99.0),
    ],
)
def test_foreground_outside_of_2_to_5(total, l2, hybrid):
    relevance, mask = relevance_with_sum(total)
    for form, expected in (("l2", l2), ("hybrid", hybrid)):
        loss = foreground_loss(relevance, mask, bounds=(2.0, 5.0), form=form)
        np.testing.assert_allclose(loss, [expected], rtol=1e-12)


def test_the_hybrid_form_is_continuous_where_it_changes():
    def loss(total):
        relevance, mask = relevance_with_sum(total)
        return foreground_loss(relevance, mask, bounds=(2.0, 5.0), form="hybrid")[0]

    assert float(loss(7 - 1e-9)) == pytest.approx(float(loss(7 + 1e-9)), abs=1e-8)
    assert float(jax.grad(loss)(7 - 1e-6)) == pytest.approx(2 / 2.0, rel=1e-5)  # 2 (F - C2) / C1^2
    assert float(jax.grad(loss)(7 + 1e-6)) == pytest.approx(1.0)


def test_the_hybrid_forms_gradient_is_finite_where_the_square_overflows():
    relevance, mask = relevance_with_sum(1.0)
    relevance = relevance.astype(jnp.float32) * 1e30

    def loss(relevance):
        return foreground_loss(relevance, mask, bounds=(1.0, 25.0), form="hybrid").sum()

    assert jnp.isfinite(loss(relevance))
    assert jnp.isfinite(jax.grad(loss)(relevance)).all()


def test_foreground_is_the_mean_over_what_is_explained():
    relevance, mask = halves()
    whole = foreground_loss(relevance, mask, bounds=(4.0, 6.0))
    parts = [foreground_loss(relevance[:, k : k + 1], mask, bounds=(4.0, 6.0)) for k in range(3)]
    np.testing.assert_allclose(whole, np.mean(parts, 0), rtol=1e-12)


def test_a_foreground_range_for_each_of_what_is_explained():
    relevance, mask = halves()
    bounds = ((4.0, 6.0), (1.0, 2.0), (20.0, 30.0))
    whole = foreground_loss(relevance, mask, bounds=bounds)
    parts = [
        foreground_loss(relevance[:, k : k + 1], mask, bounds=own) for k, own in enumerate(bounds)
    ]
    np.testing.assert_allclose(whole, np.mean(parts, 0), rtol=1e-12)


# Both


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16, jnp.float32, jnp.float64])
def test_losses_are_float32_or_wider(dtype):
    relevance, mask = halves()
    relevance, mask = relevance.astype(dtype), mask.astype(jnp.float32)
    expected = jnp.promote_types(dtype, jnp.float32)
    assert background_loss(relevance, mask, decay=0.9, scale=1.0).dtype == expected
    assert foreground_loss(relevance, mask, bounds=(1.0, 25.0)).dtype == expected


@pytest.mark.parametrize("form", ["l2", "hybrid"])
def test_gradients_against_central_differences(form):
    relevance, mask = halves()
    relevance = relevance * jnp.array([0.3, 1.0, 3.0])[None, :, None, None, None]

    def total(relevance):
        background = background_loss(relevance, mask, decay=0.8, scale=0.5)
        return (background + foreground_loss(relevance, mask, bounds=(4.0, 9.0), form=form)).sum()

    step = jax.jit(jax.value_and_grad(total))
    _, gradient = step(relevance)
    for seed in range(3):
        direction = random(*relevance.shape, seed=seed + 1)
        ends = [step(relevance + d * direction)[0] for d in (1e-6, -1e-6)]
        difference = float(ends[0] - ends[1]) / 2e-6
        assert float((gradient * direction).sum()) == pytest.approx(difference, rel=1e-7)


# Several places


def test_the_worst_layer_counts_most():
    layers = [jnp.array([1.0, 0.0]), jnp.array([2.0, 5.0]), jnp.array([0.5, 1.0])]
    weights = 0.8 ** np.arange(3)
    expected = (np.array([[2.0, 1.0, 0.5], [5.0, 1.0, 0.0]]) * weights).sum(1) / weights.sum()
    np.testing.assert_allclose(pool_layers(layers, 0.8), expected, rtol=1e-12)
    np.testing.assert_array_equal(pool_layers(layers[:1], 0.8), layers[0])


@pytest.mark.parametrize(("size", "cells"), [(8, 4), (8, 3), (7, 2), (5, 4), (9, 1), (6, 6)])
def test_a_cell_that_touches_foreground_is_foreground(size, cells):
    draw = np.random.default_rng(size)
    mask = (draw.random((3, size, size + 2, 1)) < 0.1).astype(float)
    expected = np.zeros((3, cells, cells, 1))
    for b, row, column in np.argwhere(mask[..., 0]):
        for r, s in np.ndindex(cells, cells):
            # The pixel [row, row + 1) against the cell [r, r + 1) * size / cells, open intervals.
            across = row * cells < (r + 1) * size and (row + 1) * cells > r * size
            width = size + 2
            along = column * cells < (s + 1) * width and (column + 1) * cells > s * width
            expected[b, r, s, 0] = max(expected[b, r, s, 0], across and along)
    shrunk = shrink_mask(jnp.asarray(mask), (cells, cells))
    assert shrunk.dtype == mask.dtype
    np.testing.assert_array_equal(shrunk, expected)


@pytest.mark.parametrize("dtype", [bool, jnp.uint8, jnp.int8, jnp.bfloat16, jnp.float32])
def test_cells_full_of_foreground_in_any_dtype(dtype):
    """256 ones sum to 0 in eight bits."""
    assert shrink_mask(jnp.ones((1, 64, 64, 1), dtype), (4, 4)).sum() == 16
