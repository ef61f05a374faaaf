"""Composites: the formulas they stand for, layer by layer, and how they are put together."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax import lax
from twins.evaluating import Traced

from isnet_jax import lrp
from isnet_jax.errors import UserError

pytestmark = pytest.mark.usefixtures("x64")


def stabilised(z, epsilon):
    return z + jnp.where(z >= 0, epsilon, -epsilon)


def convolve(x, kernel, stride=1):
    return lax.conv_general_dilated(
        x, kernel, (stride, stride), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


@pytest.fixture(scope="module")
def problem(x64):
    """Convolution, batch norm, ReLU, max pool; the same beside a shortcut; average; dense."""
    rng = np.random.default_rng(0)

    def draw(*shape):
        return jnp.asarray(rng.normal(size=shape))

    parameters = {
        "conv1": draw(3, 3, 2, 4),
        "norm1": (draw(4), draw(4)),
        "conv2": draw(3, 3, 4, 4),
        "norm2": (draw(4), draw(4)),
        "dense": (draw(4, 3), draw(3)),
    }
    return parameters, draw(3, 6, 6, 2), draw(3, 3)


def normalise(x, scale, shift):
    mean, variance = x.mean((0, 1, 2)), x.var((0, 1, 2))
    return (x - mean) * (scale * lax.rsqrt(variance + 1e-5)) + shift


def windows(x, size):
    batch, height, width, channels = x.shape
    return x.reshape(batch, height // size, size, width // size, size, channels)


def network(p, x):
    x = jax.nn.relu(normalise(convolve(x, p["conv1"]), *p["norm1"]))
    x = windows(x, 2).max((2, 4))
    x = jax.nn.relu(normalise(convolve(x, p["conv2"]), *p["norm2"]) + x)
    return x.mean((1, 2)) @ p["dense"][0] + p["dense"][1]


def block(p, x, seed, epsilon):
    """LRP-epsilon, explicitly, with fused batch norm, as method.md has it."""

    def fused(x, kernel, scale, shift):
        y = lax.stop_gradient(convolve(x, kernel))
        factor = scale / jnp.sqrt(y.var((0, 1, 2)) + 1e-5)
        bias = lax.stop_gradient(shift) - y.mean((0, 1, 2)) * factor
        return kernel * factor, bias

    def share(a, linear, relevance, bias=0.0):
        """`R_in = a * W^T (R / (z + epsilon sign z))`."""
        z, back = jax.vjp(linear, a)
        return a * back(relevance / stabilised(z + bias, epsilon))[0]

    a1 = jax.nn.relu(normalise(convolve(x, p["conv1"]), *p["norm1"]))
    a2 = windows(a1, 2).max((2, 4))
    branch = normalise(convolve(a2, p["conv2"]), *p["norm2"])
    a3 = jax.nn.relu(branch + a2)
    a4 = a3.mean((1, 2))
    w, b = p["dense"]
    r = share(a4, lambda a: a @ w, (a4 @ w + b) * seed, lax.stop_gradient(b))
    r = share(a3, lambda a: a.mean((1, 2)), r)
    s = r / stabilised(branch + a2, epsilon)
    kernel, bias = fused(a2, p["conv2"], *p["norm2"])
    r = a2 * s + share(a2, lambda a: convolve(a, kernel), branch * s, bias)
    winners = (windows(a1, 2) == a2[:, :, None, :, None]).astype(x.dtype)
    r = (winners * r[:, :, None, :, None]).reshape(a1.shape)
    kernel, bias = fused(x, p["conv1"], *p["norm1"])
    return share(x, lambda a: convolve(a, kernel), r, bias)


def test_isnet_block_is_the_explicit_formulas(problem):
    parameters, x, seed = problem

    @jax.jit
    def ours(p):
        value, pullback = lrp.vjp(lambda x: network(p, x), x, rules=lrp.ISNetBlock(0.05))
        return value, pullback(seed)

    value, relevance = ours(parameters)
    np.testing.assert_array_equal(value, jax.jit(network)(parameters, x))
    expected = block(parameters, x, seed, 0.05)
    np.testing.assert_allclose(relevance, expected, atol=1e-10 * np.abs(expected).max())


def test_isnet_block_has_the_gradient_of_the_explicit_formulas(problem):
    """Biases and batch statistics are constants in the denominators, and only there."""
    parameters, x, seed = problem

    def loss(heatmap):
        return jnp.sum(jnp.sin(heatmap))

    def ours(p):
        _, pullback = lrp.vjp(lambda x: network(p, x), x, rules=lrp.ISNetBlock(0.05))
        return loss(pullback(seed))

    # Op by op: JAX's own gradient of a maximum compares it with its operands, which XLA may compute
    # again, rounded otherwise.
    got = Traced(jax.grad(ours), parameters)(parameters)
    expected = Traced(jax.grad(lambda p: loss(block(p, x, seed, 0.05))), parameters)(parameters)
    for one, other in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-9 * np.abs(other).max())


@pytest.mark.parametrize(
    "rules",
    [
        lrp.EpsilonPlus(),
        lrp.EpsilonPlusFlat(),
        lrp.EpsilonGammaBox(-4.0, 4.0),
        lrp.EpsilonAlpha2Beta1(),
        lrp.EpsilonAlpha2Beta1Flat(),
        lrp.ExcitationBackprop(),
        lrp.AttnLRP(),
        lrp.ISNetBlock(1e-6),
    ],
    ids=lambda rules: str(rules.convolution or rules.layer)[:20],
)
def test_relevance_is_conserved_without_biases(rules, problem):
    """Without biases nothing is lost: every preset hands on the sum of relevance."""
    parameters, x, seed = problem

    def f(x):
        y = jax.nn.relu(convolve(x, parameters["conv1"]))
        y = jax.nn.relu(convolve(y, parameters["conv2"]) + y)
        return y.mean((1, 2)) @ jnp.abs(parameters["dense"][0])

    value, pullback = lrp.vjp(f, x, rules=rules)
    np.testing.assert_allclose(
        pullback(seed).sum((1, 2, 3)), (value * seed).sum(1), rtol=2e-3, atol=1e-3
    )


def test_which_rule_goes_where(problem):
    parameters, x, _ = problem
    kinds = {
        row.name or row.kind: row.rule
        for row in lrp.inspect(lambda x: network(parameters, x), x, rules=lrp.EpsilonPlusFlat())
        if row.kind in ("layer", "sum", "average")
    }
    assert kinds["conv1"].startswith("Flat")
    assert kinds["conv2"].startswith("ZPlus")
    assert kinds["dense"].startswith("Epsilon")
    assert kinds["sum"].startswith("Norm")
    assert kinds["average"].startswith("Norm")


def test_a_convolution_as_a_product_is_a_convolution():
    """Our 1x1 convolutions run as dense products; the kernel's four axes tell."""
    from isnet_jax.models.layers import Conv

    conv = Conv(2, 3, 1, rngs=nnx.Rngs(0))
    x = jnp.ones((1, 4, 4, 2), jnp.float32)
    (row,) = [r for r in lrp.inspect(conv, x, rules=lrp.EpsilonPlus()) if r.kind == "layer"]
    assert row.operation == "dot_general"
    assert row.rule.startswith("ZPlus")


@pytest.mark.parametrize(("rules", "backward"), [(lrp.GuidedBackprop(), 1), (lrp.Deconvnet(), 0)])
def test_guided_backprop_and_deconvnet(rules, backward, problem):
    parameters, x, _ = problem
    k1, k2 = parameters["conv1"], parameters["conv2"]

    def f(x):
        return convolve(jax.nn.relu(convolve(x, k1)), k2).sum((1, 2))

    value, pullback = lrp.vjp(f, x, rules=rules)
    z, first = jax.vjp(lambda x: convolve(x, k1), x)
    _, second = jax.vjp(lambda a: convolve(a, k2).sum((1, 2)), jax.nn.relu(z))
    (g,) = second(jnp.ones_like(value))
    g = jnp.maximum(g, 0) * ((z > 0) if backward else 1)
    np.testing.assert_allclose(pullback(jnp.ones_like(value)), first(g)[0], atol=1e-12)


def test_the_activation_after_a_pooled_layer_passes(problem):
    """Its stabiliser would count twice: the layer before the pool has its own rule."""
    parameters, x, _ = problem
    kernel, (w, _) = parameters["conv1"], parameters["dense"]

    def f(x):
        y = convolve(x, kernel)
        return jax.nn.relu(windows(y, 2).max((2, 4))).sum((1, 2)) @ w

    composite = lrp.Composite(activation=lrp.Epsilon(0.5), convolution=lrp.Gamma())
    table = lrp.inspect(f, x, rules=composite)
    assert [row.rule for row in table if row.kind == "activation"] == ["Pass()"]


def test_flat_at_a_deeper_layer():
    """Relevance that is not proportional to the activations reaches the layer before."""
    rng = np.random.default_rng(0)
    x, w, v = (rng.normal(size=s) for s in ((3, 5), (5, 6), (6, 2)))

    def f(x):
        return jax.nn.relu(x @ jnp.asarray(w)) @ jnp.asarray(v)

    rules = lrp.Composite(layer=lrp.Epsilon(0.1), first=lrp.Epsilon(0.2), dense=lrp.Flat(0.3))
    value, pullback = lrp.vjp(f, jnp.asarray(x), rules=rules)
    value = np.asarray(value)
    relevance = (value / (6 + 0.3)).sum(1, keepdims=True) * np.ones((3, 6))
    z = x @ w
    expected = x * ((relevance / (z + np.where(z >= 0, 0.2, -0.2))) @ w.T)
    np.testing.assert_allclose(pullback(jnp.ones_like(value)), expected, atol=1e-12)


def test_relevance_that_is_not_proportional_cannot_pass_everything():
    w, v = jnp.ones((4, 4)), jnp.ones((4, 4))

    def f(x):
        return jax.nn.softmax(x @ w) @ v

    with pytest.raises(UserError, match="not proportional to the layer's input"):
        lrp.vjp(f, jnp.ones((2, 4)), rules=lrp.Flat())


def test_names_and_patterns(problem):
    parameters, x, _ = problem

    def rows(*names):
        composite = lrp.Composite(names=names)
        table = lrp.inspect(lambda x: network(parameters, x), x, rules=composite, strict=True)
        return {row.name: row.rule for row in table if row.kind == "layer"}

    gamma = lrp.Gamma()
    assert rows(("conv*", gamma))["conv2"].startswith("Gamma")
    assert rows(("conv1", lrp.Zero()), ("conv*", gamma))["conv1"] == "Zero()"
    with pytest.raises(UserError, match=r"'conv9' matches no layer. Did you mean 'conv"):
        rows(("conv*", gamma), ("conv9", gamma))


def test_rules_that_do_not_fit_are_errors():
    with pytest.raises(UserError, match="alpha - beta = 1"):
        lrp.AlphaBeta(2.0, 2.0)
    with pytest.raises(UserError, match="at least 0"):
        lrp.Gamma(epsilon=-1.0)
    with pytest.raises(UserError, match="rule for layers, not for sum"):
        lrp.Composite(sum=lrp.Gamma())
    with pytest.raises(UserError, match="zero_bias=True"):
        lrp.ZBox((0.0, 0.0), (1.0, 1.0))
