"""Every rule at every kind of layer against NumPy on materialised weights."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from lrp import oracle

from isnet_jax import lrp

RULES = {
    "zero": (lrp.Zero(), lambda *a, ones: oracle.epsilon(*a, 0.0)),
    "epsilon": (lrp.Composite(layer=lrp.Epsilon(0.1)), lambda *a, ones: oracle.epsilon(*a, 0.1)),
    "epsilon, zero bias": (
        lrp.LayerEpsilon(0.1, zero_bias=True),
        lambda *a, ones: oracle.epsilon(*a, 0.1, zero_bias=True),
    ),
    "epsilon, constant bias": (
        lrp.LayerEpsilon(0.1, constant_bias=True),
        lambda *a, ones: oracle.epsilon(*a, 0.1),
    ),
    "epsilon, a function": (
        lrp.Composite(layer=lrp.Epsilon(lambda z: z + 0.3)),
        lambda x, w, b, r, ones: (x[:, None] * w / (x @ w + b + 0.3) * r).sum(1),
    ),
    "norm": (lrp.Norm(), lambda *a, ones: oracle.epsilon(*a, 1e-6)),
    "gamma": (lrp.Gamma(0.25), lambda *a, ones: oracle.gamma(*a, 0.25)),
    "gamma 3": (lrp.Gamma(3.0, epsilon=0.1), lambda *a, ones: oracle.gamma(*a, 3.0, 0.1)),
    "z+": (lrp.ZPlus(), lambda *a, ones: oracle.alpha_beta(*a, 1, 0)),
    "z+, zero bias": (
        lrp.ZPlus(zero_bias=True),
        lambda *a, ones: oracle.alpha_beta(*a, 1, 0, zero_bias=True),
    ),
    "alpha 2 beta 1": (lrp.AlphaBeta(2.0, 1.0), lambda *a, ones: oracle.alpha_beta(*a, 2, 1)),
    "z^B": (lrp.ZBox(-1.5, 2.0, 0.1), lambda *a, ones: oracle.z_box(*a, -1.5, 2.0, 0.1)),
    "z^B from 0": (lrp.ZBox(0.0, 1.0), lambda *a, ones: oracle.z_box(*a, 0.0, 1.0, 1e-2)),
    "w^2": (lrp.WSquare(), lambda *a, ones: oracle.w_square(*a)),
    "gamma, zero bias": (
        lrp.Gamma(0.25, zero_bias=True),
        lambda *a, ones: oracle.gamma(*a, 0.25, zero_bias=True),
    ),
    "alpha 3 beta 2, zero bias": (
        lrp.AlphaBeta(3.0, 2.0, 0.1, zero_bias=True),
        lambda *a, ones: oracle.alpha_beta(*a, 3, 2, 0.1, zero_bias=True),
    ),
    "z^B, zero bias": (
        lrp.ZBox(-1.5, 2.0, 0.1, zero_bias=True),
        lambda *a, ones: oracle.z_box(*a, -1.5, 2.0, 0.1, zero_bias=True),
    ),
    "w^2, zero bias": (
        lrp.WSquare(zero_bias=True),
        lambda *a, ones: oracle.w_square(*a, zero_bias=True),
    ),
    "z+, a function": (
        lrp.ZPlus(lambda z: z + 0.3),
        lambda *a, ones: oracle.alpha_beta(*a, 1, 0, 0.3),
    ),
    "flat": (lrp.Flat(), lambda *a, ones: oracle.flat(*a, ones)),
}

CONVOLUTIONS = {
    "plain": {},
    "stride and padding": {"stride": 2, "padding": 1},
    "dilation": {"dilation": 2, "padding": 1},
    "groups": {"groups": 2, "padding": 1},
    "transposed": {"spread": 2, "padding": 1},
}


def convolve(x, kernel, stride=1, padding=0, dilation=1, groups=1, spread=1):
    return lax.conv_general_dilated(
        x,
        kernel,
        (stride, stride),
        [(padding, padding)] * 2,
        lhs_dilation=(spread, spread),
        rhs_dilation=(dilation, dilation),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=groups,
    )


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


def normalised(y, scale, shift, mode):
    """Batch norm as most libraries write it, and its factor and offset."""
    axes = tuple(range(y.ndim - 1))
    if mode == "eval":
        mean, variance = jnp.linspace(-0.3, 0.4, y.shape[-1]), jnp.linspace(0.5, 2, y.shape[-1])
    else:
        mean = y.mean(axes)
        variance = jnp.maximum(((y - y.mean(axes, keepdims=True)) ** 2).mean(axes), 0)
    factor = scale * lax.rsqrt(variance + 1e-5)
    return (y - mean) * factor + shift, (factor, shift - mean * factor)


def check(layer, x, matrix_of, bias, mode=None):
    """`layer(x)` with every rule; `matrix_of(kernel -> kernel)` materialises its weights."""
    features = bias.shape[0]
    scale, shift = jnp.linspace(-1, 1.5, features), jnp.linspace(0.2, -0.4, features)

    def f(x):
        y = layer(x) + bias
        return y if mode is None else normalised(y, scale, shift, mode)[0]

    seed = jnp.asarray(np.random.default_rng(1).normal(size=jax.eval_shape(f, x).shape))

    @jax.jit
    def run(x, seed):
        results = {}
        for name, (rule, _) in RULES.items():
            value, pullback = lrp.vjp(f, x, rules=rule)
            results[name] = pullback(seed)
        return value, results

    value, results = run(x, seed)
    np.testing.assert_array_equal(value, jax.jit(f)(x))
    factor, offset = np.ones(features), np.asarray(bias)
    if mode is not None:
        a, b = normalised(layer(x) + bias, scale, shift, mode)[1]
        factor, offset = np.asarray(a), np.asarray(a * bias + b)
    matrix, ones = matrix_of(lambda kernel: kernel * factor), matrix_of(np.ones_like)
    b = np.broadcast_to(offset, value.shape[1:]).ravel()
    for name, (_, formula) in RULES.items():
        expected = [
            formula(row.ravel(), matrix, b, (v * s).ravel(), ones=ones).reshape(x.shape[1:])
            for row, v, s in zip(*map(np.asarray, (x, value, seed)), strict=True)
        ]
        scale_ = np.abs(expected).max()
        np.testing.assert_allclose(
            results[name] / scale_, np.asarray(expected) / scale_, atol=1e-10, err_msg=name
        )


@pytest.mark.parametrize(
    ("kind", "mode"),
    [*((kind, None) for kind in CONVOLUTIONS), ("groups", "eval"), ("stride and padding", "train")],
)
def test_convolution(kind, mode):
    options = CONVOLUTIONS[kind]
    rng = np.random.default_rng(0)
    groups = options.get("groups", 1)
    x = jnp.asarray(rng.normal(size=(2, 5, 4, 4)))
    kernel = rng.normal(size=(3, 2, 4 // groups, 4))

    def matrix_of(change):
        return oracle.convolution_matrix((5, 4, 4), change(kernel), **options)[0]

    check(
        lambda x: convolve(x, jnp.asarray(kernel), **options),
        x,
        matrix_of,
        jnp.asarray(rng.normal(size=4)),
        mode,
    )


@pytest.mark.parametrize("mode", [None, "eval", "train"])
def test_dense(mode):
    rng = np.random.default_rng(0)
    x, kernel = jnp.asarray(rng.normal(size=(3, 6))), rng.normal(size=(6, 5))
    check(
        lambda x: x @ jnp.asarray(kernel),
        x,
        lambda change: change(kernel),
        jnp.asarray(rng.normal(size=5)),
        mode,
    )


def test_dense_with_the_weights_on_the_left():
    """The bias is folded although a transpose stands before it."""
    rng = np.random.default_rng(0)
    x, kernel = jnp.asarray(rng.normal(size=(2, 6))), rng.normal(size=(6, 5))
    check(
        lambda x: (jnp.asarray(kernel.T) @ x.T).T,
        x,
        lambda change: change(kernel),
        jnp.asarray(rng.normal(size=5)),
    )


def test_nonnegative_inputs_take_the_short_way():
    """Inputs known to be nonnegative give what signed formulas give."""
    rng = np.random.default_rng(0)
    x, w = jnp.asarray(rng.normal(size=(3, 6))), jnp.asarray(rng.normal(size=(6, 5)))
    for rule in (lrp.Gamma(0.5), lrp.AlphaBeta(), lrp.ZPlus()):
        value, pullback = lrp.vjp(lambda x: jax.nn.relu(x) @ w, x, rules=rule)
        positive = jnp.maximum(x, 0)
        same, other = lrp.vjp(lambda x: x @ w, positive, rules=rule)
        np.testing.assert_array_equal(value, same)
        np.testing.assert_allclose(pullback(value), other(value), atol=1e-12)
