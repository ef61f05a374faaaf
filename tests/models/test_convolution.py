"""Every lowering is the convolution, with its first and second derivatives."""

from __future__ import annotations

import jax
import jax.extend
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from isnet_jax.models import convolution
from isnet_jax.models.convolution import convolve

pytestmark = pytest.mark.usefixtures("x64")

# (height, width), kernel, channels, features, stride, padding
SHAPES = {
    "1x1": ((5, 6), 1, 3, 4, 1, 0),
    "1x1 stride 2": ((5, 6), 1, 3, 4, 2, 0),
    "3x3": ((9, 8), 3, 2, 3, 1, 1),
    "3x3 stride 2": ((9, 8), 3, 2, 3, 2, 1),
    "3x3 stride 2, small": ((4, 4), 3, 2, 3, 2, 1),
    "2x2 map": ((2, 2), 3, 3, 4, 1, 1),
    "1x1 map": ((1, 1), 3, 3, 4, 1, 1),
    "7x7 stem": ((12, 11), 7, 3, 4, 2, 3),
    "no padding": ((7, 6), 3, 2, 3, 1, 0),
    "one row": ((1, 6), 3, 2, 3, 1, 1),
    "patches": ((8, 8), 4, 3, 5, 4, 0),
    "patches and a rest": ((11, 9), 4, 3, 5, 4, 0),
    "few features of many": ((24, 23), 3, 9, 3, 1, 1),
    "few features, no padding": ((26, 25), 3, 9, 3, 1, 0),
}


def expected(x, kernel, stride, padding):
    return lax.conv_general_dilated(
        x,
        kernel,
        (stride, stride),
        [(padding, padding)] * 2,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )


def derivatives(convolution, stride, padding):
    """Output, gradients, and gradients of a loss on the gradients."""

    def run(x, kernel, g):
        def first(x, kernel):
            y, pull = jax.vjp(lambda x, k: convolution(x, k, stride, padding), x, kernel)
            return y, pull(g * jnp.cos(y))

        def of_the_gradients(x, kernel):
            return sum(jnp.sum(jnp.sin(d)) for d in first(x, kernel)[1])

        return first(x, kernel), jax.grad(of_the_gradients, (0, 1))(x, kernel)

    return jax.jit(run)


@pytest.mark.parametrize("way", ["as chosen", "as product", "for accelerators"])
@pytest.mark.parametrize("case", SHAPES)
def test_a_lowering_is_the_convolution_twice_differentiable(case, way, monkeypatch):
    if way == "as product":
        monkeypatch.setattr(convolution, "_is_slow_on_cpu", lambda *shapes: True)
    size, k, channels, features, stride, padding = SHAPES[case]
    draw = np.random.default_rng(0)
    x = jnp.asarray(draw.standard_normal((2, *size, channels)))
    kernel = jnp.asarray(draw.standard_normal((k, k, channels, features)))
    g = jnp.asarray(draw.standard_normal(expected(x, kernel, stride, padding).shape))

    def ours(x, kernel, stride, padding):
        backend = "gpu" if way == "for accelerators" else "cpu"
        with convolution.lowered_for(backend):
            return convolve(x, kernel, stride=stride, padding=padding)

    found, reference = (derivatives(f, stride, padding)(x, kernel, g) for f in (ours, expected))
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(reference), strict=True):
        assert a.shape == b.shape
        np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-10)


def test_slow_shapes_become_one_product_and_others_stay():
    def primitives(x_shape, kernel_shape):
        shapes = (jax.ShapeDtypeStruct(s, jnp.float32) for s in (x_shape, kernel_shape))
        text = str(jax.make_jaxpr(lambda x, k: convolve(x, k, padding=1))(*shapes))
        return text.count("dot_general["), text.count("conv_general_dilated[")

    assert primitives((8, 2, 2, 16), (3, 3, 16, 16)) == (1, 0)
    assert primitives((8, 32, 32, 16), (3, 3, 16, 16)) == (0, 1)


@pytest.mark.parametrize("case", ["3x3 stride 2", "few features of many", "2x2 map"])
def test_seeds_may_be_mapped_over(case):
    """As vmap over classes does: cotangents have one more axis, weights have not."""
    size, k, channels, features, stride, padding = SHAPES[case]
    draw = np.random.default_rng(1)
    x = jnp.asarray(draw.standard_normal((2, *size, channels)))
    kernel = jnp.asarray(draw.standard_normal((k, k, channels, features)))
    seeds = jnp.asarray(draw.standard_normal((3, *expected(x, kernel, stride, padding).shape)))

    def gradient(run):
        def loss(kernel):
            _, pull = jax.vjp(lambda x: run(x, kernel, stride, padding), x)
            return jnp.sum(jnp.sin(jax.vmap(pull)(seeds)[0]))

        return jax.jit(jax.grad(loss))(kernel)

    def ours(x, kernel, stride, padding):
        return convolve(x, kernel, stride=stride, padding=padding)

    np.testing.assert_allclose(gradient(ours), gradient(expected), rtol=1e-10, atol=1e-10)


def test_accelerators_get_xlas_own_convolution():
    shapes = [jax.ShapeDtypeStruct(s, jnp.float32) for s in ((8, 2, 2, 16), (3, 3, 16, 16))]
    with convolution.lowered_for("tpu"):
        text = str(jax.make_jaxpr(lambda x, k: convolve(x, k, padding=1))(*shapes))
    assert "custom_vjp" not in text
    assert (text.count("dot_general["), text.count("conv_general_dilated[")) == (0, 1)


@pytest.mark.parametrize("stride", [1, 2])
def test_accelerators_get_convolutions_whose_windows_are_kernels(stride):
    """Of the second order too: no kernel as large as the image, which is slow there."""

    def second_order(x, kernel):
        def relevance(x, kernel):
            y, pull = jax.vjp(lambda x: convolve(x, kernel, stride=stride, padding=1), x)
            return jnp.sum(jnp.sin(pull(jnp.cos(y))[0]))

        return jax.grad(relevance, (0, 1))(x, kernel)

    shapes = [jax.ShapeDtypeStruct(s, jnp.float32) for s in ((8, 14, 14, 16), (3, 3, 16, 16))]
    with convolution.lowered_for("gpu"):
        traced = jax.jit(second_order).trace(*shapes)
    windows = [
        (equation.params["window_strides"], equation.params["rhs_dilation"])
        for equation in convolutions(traced.jaxpr.jaxpr)
        if max(equation.invars[1].aval.shape[i] for i in spatial(equation)) > 3
    ]
    # A kernel's gradient has the other gradient as its window, spread by the stride.
    assert set(windows) == {((1, 1), (stride, stride))}


def convolutions(jaxpr):
    for equation in jaxpr.eqns:
        if equation.primitive.name == "conv_general_dilated":
            yield equation
        for inner in jax.extend.core.jaxprs_in_params(equation.params):
            yield from convolutions(inner)


def spatial(equation):
    return equation.params["dimension_numbers"].rhs_spec[2:]
