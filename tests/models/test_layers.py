"""Layers against Flax's, and max-pooling's choice of winners."""

from __future__ import annotations

import golden_values
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from isnet_jax import lrp, models
from isnet_jax.models.layers import BatchNorm, Conv, Linear, global_average, max_pool

pytestmark = pytest.mark.usefixtures("x64")


def normal(*shape: int, seed: int = 0) -> jax.Array:
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape))


def norms() -> tuple[BatchNorm, nnx.BatchNorm]:
    """Ours and Flax's with the same random parameters and statistics."""
    ours = BatchNorm(5, rngs=nnx.Rngs(0))
    flax = nnx.BatchNorm(5, momentum=0.9, epsilon=1e-5, use_fast_variance=False, rngs=nnx.Rngs(0))
    values = (normal(5), normal(5, seed=1), normal(5, seed=2), 1 + normal(5, seed=3) ** 2)
    for norm in (ours, flax):
        for name, value in zip(("scale", "bias", "mean", "var"), values, strict=True):
            getattr(norm, name).set_value(value)
    return ours, flax


@pytest.mark.parametrize("shape", [(4, 3, 6, 5), (7, 5)])
@pytest.mark.parametrize("train", [True, False])
def test_batch_norm_is_flaxs_with_the_unbiased_running_variance(shape, train):
    ours, flax = norms()
    for norm in (ours, flax):
        (norm.train if train else norm.eval)()
    x = 3 + 2 * normal(*shape, seed=4)
    before = np.asarray(ours.var[...])
    np.testing.assert_allclose(ours(x), flax(x), rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(ours.mean[...], flax.mean[...], rtol=1e-12)
    expected = 0.9 * before + 0.1 * x.reshape(-1, 5).var(0, ddof=1) if train else before
    np.testing.assert_allclose(ours.var[...], expected, rtol=1e-12)


def test_batch_norms_gradient_is_flaxs():
    x, g = normal(4, 3, 6, 5, seed=4), normal(4, 3, 6, 5, seed=5)
    found = []
    for norm in norms():
        graph, parameters, rest = nnx.split(norm, nnx.Param, ...)

        def loss(x, parameters, graph=graph, rest=rest):
            return jnp.sum(g * jnp.sin(nnx.merge(graph, parameters, rest, copy=True)(x)))

        dx, dp = jax.jit(jax.grad(loss, (0, 1)))(x, parameters)
        found.append((dx, dp["scale"][...], dp["bias"][...]))
    for ours, flax in zip(*found, strict=True):
        np.testing.assert_allclose(ours, flax, rtol=1e-9, atol=1e-11)


def test_batch_norms_variance_does_not_cancel_in_float32():
    """The running mean is near the mean, as after some steps: the one-pass variance is exact."""
    norm = BatchNorm(1, rngs=nnx.Rngs(0))
    norm.mean.set_value(jnp.full(1, 999.0, jnp.float32))
    norm.var.set_value(jnp.ones(1, jnp.float32))
    x = (1000 + 0.1 * normal(4000, 1)).astype(jnp.float32)
    np.testing.assert_allclose(norm(x).std(), 1, rtol=1e-2)


def test_batch_norm_averages_over_a_mapped_axis():
    x = normal(6, 2, 3, 5, seed=4)
    whole, _ = norms()
    expected = whole(x)
    graph, state = nnx.split(norms()[0])

    def shard(x):
        norm = nnx.merge(graph, state, copy=True)
        norm.axis_name = "shards"
        return norm(x), norm.mean[...], norm.var[...]

    y, mean, variance = jax.vmap(shard, axis_name="shards")(x.reshape(3, 2, 2, 3, 5))
    np.testing.assert_allclose(y.reshape(x.shape), expected, rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(mean, [whole.mean[...]] * 3, rtol=1e-12)
    np.testing.assert_allclose(variance, [whole.var[...]] * 3, rtol=1e-12)


def test_conv_and_linear_are_flaxs():
    x = normal(2, 7, 6, 3)
    ours, flax = Conv(3, 4, 3, stride=2, use_bias=True, rngs=nnx.Rngs(0)), None
    flax = nnx.Conv(3, 4, (3, 3), strides=2, padding=1, param_dtype=float, rngs=nnx.Rngs(1))
    flax.kernel.set_value(ours.kernel[...])
    for conv in (ours, flax):
        conv.bias.set_value(normal(4, seed=3))
    np.testing.assert_allclose(ours(x), flax(x), rtol=1e-12, atol=1e-12)
    dense = Linear(3, 2, rngs=nnx.Rngs(0))
    np.testing.assert_allclose(dense(x), x @ dense.kernel[...] + dense.bias[...], rtol=1e-12)
    np.testing.assert_allclose(global_average(x), x.mean((1, 2)), rtol=1e-12)


@pytest.mark.parametrize("wide", [False, True])
@pytest.mark.parametrize(("size", "inputs", "outputs"), [(3, 5, 6), (2, 4, 8), (1, 1, 1)])
def test_kernels_are_drawn_as_flax_draws_them(size: int, inputs: int, outputs: int, wide: bool):
    with jax.enable_x64(wide):
        kernel = Conv(inputs, outputs, size, rngs=nnx.Rngs(0)).kernel[...]
        draw = nnx.initializers.variance_scaling(2.0, "fan_out", "normal")
        expected = draw(nnx.Rngs(0).params(), (size, size, inputs, outputs), kernel.dtype)
    assert kernel.dtype == (np.float64 if wide else np.float32)
    # JAX 0.12 multiplies in another order.
    np.testing.assert_allclose(kernel, expected, rtol=4 * np.finfo(kernel.dtype).eps)


# Max-pooling


@pytest.mark.parametrize(
    ("size", "stride", "padding"), [(2, None, 0), (3, None, 0), (3, 2, 1), (2, 1, 0), (4, None, 0)]
)
def test_max_pool_and_its_gradient(size, stride, padding):
    x = normal(2, 12, 12, 3)

    def expected(x):
        return nnx.max_pool(x, (size, size), (stride or size,) * 2, [(padding, padding)] * 2)

    def ours(x):
        return max_pool(x, size, stride=stride, padding=padding)

    np.testing.assert_array_equal(ours(x), expected(x))
    g = normal(*expected(x).shape, seed=1)
    (found,), (reference,) = jax.vjp(ours, x)[1](g), jax.vjp(expected, x)[1](g)
    np.testing.assert_array_equal(found, reference)


@pytest.mark.parametrize("place", [(0, 0), (0, 1), (1, 1)])
def test_max_pool_does_not_hide_a_nan(place):
    x = jnp.ones((1, 2, 2, 1)).at[0, *place, 0].set(jnp.nan)
    assert jnp.isnan(max_pool(x, 2)).all()


def test_no_window_loses_its_winner_under_jit():
    """Fused and computed once more, a value may be rounded otherwise than the maximum was.

    Derivatives that look for the winner by equality then find none, or divide by none (NaN). At
    XLA's level 0 that happens in most windows of this network; at others in one of thousands.
    """
    model = models.create("small", num_classes=4, rngs=nnx.Rngs(0))
    models.load_torch(model, golden_values.drawn_weights(model, 0))
    model.eval()
    x = golden_values.drawn_batch(0, 4, 16, 4)["image"]

    def run(x):
        return lrp.relevance(model, x, target=0, rules=lrp.Epsilon(1e-2))[1]

    found, expected = jax.jit(run)(x), jax.jit(run)(x)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12)


def test_lrp_sees_max_pool_as_the_plain_winner_takes_all():
    x = normal(2, 4, 4, 3)

    def f(x):
        return max_pool(x, 2).sum((1, 2))

    assert [row.kind for row in lrp.inspect(f, x, rules=lrp.Epsilon(1e-2))] == []
    logits, relevance = lrp.relevance(f, x, target=1, rules=lrp.Epsilon(1e-2))
    np.testing.assert_allclose(relevance.sum((1, 2, 3)), logits[:, 1], rtol=1e-12)
    assert ((relevance != 0).sum((1, 2, 3)) == 4).all()
