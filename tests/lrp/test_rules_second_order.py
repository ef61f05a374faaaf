"""The gradient of a loss on the relevance, by the weights, against central differences."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from isnet_jax import lrp

pytestmark = pytest.mark.usefixtures("x64")

RULES = {
    "zero": lrp.Zero(),
    "epsilon": lrp.Composite(layer=lrp.Epsilon(0.1)),
    "epsilon, zero bias": lrp.LayerEpsilon(0.1, zero_bias=True),
    "flex": lrp.Epsilon(0.1),
    "gamma": lrp.Gamma(0.3, 0.1),
    "z+": lrp.ZPlus(0.1),
    "alpha beta": lrp.AlphaBeta(2.0, 1.0, 0.1),
    "box": lrp.EpsilonGammaBox(-3.0, 3.0, 0.1),
    "flat": lrp.EpsilonPlusFlat(0.1),
    "w^2 at every layer": lrp.WSquare(0.1),
    "flat at every layer": lrp.Flat(0.1),
    "gradient * input": lrp.Gradient(),
    "guided": lrp.GuidedBackprop(),
    "deconvnet": lrp.Deconvnet(),
    "norm": lrp.Composite(layer=lrp.Norm(0.1), average=lrp.Norm(0.1)),
    "attention": lrp.AttnLRP(0.1),
    "excitation": lrp.ExcitationBackprop(),
}


def network(parameters, x):
    for kernel, bias, strides in zip(*parameters, ((1, 1), (2, 2)), strict=True):
        x = lax.conv_general_dilated(
            x, kernel, strides, "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
        x = jax.nn.relu(x + bias)
    return x.mean((1, 2))


@pytest.fixture(scope="module")
def problem(x64):
    rng = np.random.default_rng(3)
    x = jnp.asarray(rng.normal(size=(2, 4, 4, 2)))
    kernels = [jnp.asarray(rng.normal(size=s)) for s in ((3, 3, 2, 3), (2, 2, 3, 4))]
    biases = [jnp.asarray(rng.normal(size=s)) for s in (3, 4)]
    direction = [
        [jnp.asarray(rng.normal(size=p.shape)) for p in group] for group in (kernels, biases)
    ]
    weights = jnp.asarray(rng.normal(size=x.shape))
    return x, (kernels, biases), tuple(direction), weights


def check(rules, problem, network=network, biases=True):
    x, parameters, direction, weights = problem
    if not biases:
        direction = (direction[0], [jnp.zeros_like(d) for d in direction[1]])

    @jax.jit
    def both(step):
        moved = jax.tree.map(lambda p, d: p + step * d, parameters, direction)

        def loss(parameters):
            _, pullback = lrp.vjp(lambda x: network(parameters, x), x, rules=rules)
            return jnp.sum(jnp.sin(pullback(jnp.ones((2, 4)))) * weights)

        value, gradient = jax.value_and_grad(loss)(moved)
        dots = jax.tree.map(lambda g, d: jnp.sum(g * d), gradient, direction)
        return value, sum(jax.tree.leaves(dots))

    step = 1e-5
    numeric = (both(step)[0] - both(-step)[0]) / (2 * step)
    _, gradient = both(0.0)
    assert abs(gradient) > 1e-4
    np.testing.assert_allclose(gradient, numeric, rtol=1e-6)


@pytest.mark.parametrize("rules", RULES.values(), ids=RULES)
def test_gradient_of_relevance(rules, problem):
    check(rules, problem)


@pytest.mark.parametrize("rules", [lrp.ISNetBlock(0.1), lrp.ISNetBlock(0.1, lrp.ZBox(-3, 3))])
def test_gradient_with_constant_biases(rules, problem):
    """By the kernels only: biases enter their own layer's denominator as constants."""
    check(rules, problem, biases=False)
