"""Models and inputs off the beaten track: ensembles, other dtypes, empty batches, nesting."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from isnet_jax import UserError, lrp

pytestmark = pytest.mark.usefixtures("x64")

FOLDING = {
    "epsilon": lrp.Composite(layer=lrp.Epsilon(0.1)),
    "plus": lrp.ZPlus(),
    "box": lrp.EpsilonGammaBox(-3.0, 3.0),
    "block": lrp.ISNetBlock(0.1),
}


def normal(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape))


def dense(p, x):
    return jax.nn.relu(x @ p[0] + p[1]) @ p[2] + p[3]


def convolutional(p, x):
    x = lax.conv_general_dilated(
        x, p[0], (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    return jax.nn.relu((x + p[1]) * p[2]).mean((1, 2)) @ p[3] + p[4]


def ensemble(f):
    """Parameters of two networks, and images."""
    if f is dense:
        return [normal(2, *s, seed=i) for i, s in enumerate(((4, 6), (6,), (6, 3), (3,)))], (3, 4)
    shapes = ((3, 3, 2, 4), (4,), (4,), (4, 3), (3,))
    return [normal(2, *s, seed=i) for i, s in enumerate(shapes)], (3, 5, 5, 2)


@pytest.mark.parametrize("f", [dense, convolutional])
@pytest.mark.parametrize("rules", FOLDING)
def test_an_ensemble_under_vmap_is_its_members(rules, f):
    """vmap over parameters makes batched products and grouped convolutions; biases still fold."""
    parameters, shape = ensemble(f)
    x, seed = normal(2, *shape, seed=8), normal(2, 3, 3, seed=9)

    def member(p, x, seed):
        return lrp.vjp(lambda x: f(p, x), x, rules=FOLDING[rules])[1](seed)

    @jax.jit
    def together(x, seed):
        own = lrp.vjp(lambda x: jax.vmap(f)(parameters, x), x, rules=FOLDING[rules])[1]
        shared = lrp.vjp(
            lambda x: jax.vmap(f, (0, None))(parameters, x), x[0], rules=FOLDING[rules]
        )
        return own(seed), shared[1](seed)

    expected = jnp.stack([member([p[i] for p in parameters], x[i], seed[i]) for i in range(2)])
    same = sum(member([p[i] for p in parameters], x[0], seed[i]) for i in range(2))
    own, shared = together(x, seed)
    np.testing.assert_allclose(own, expected, atol=1e-12 * np.abs(expected).max())
    np.testing.assert_allclose(shared, same, atol=1e-12 * np.abs(same).max())


def test_inputs_of_every_kind():
    """NumPy arrays, Python numbers, keys, booleans, half precision, None in a tree."""
    w = normal(4, 4)

    def f(x, scale, key, keep, options):
        noise = jax.random.normal(key, (3, 4), x.dtype)
        return jax.nn.relu(jnp.where(keep, x, 0) @ w.astype(x.dtype) * scale + noise)

    x, keep = np.asarray(normal(3, 4, seed=1)), np.eye(3, 4, dtype=bool)
    for dtype in (np.float64, np.float32, np.float16, jnp.bfloat16):
        arguments = (x.astype(dtype), 2.0, jax.random.key(0), keep, {"none": None})
        value, pullback = lrp.vjp(f, *arguments, rules=lrp.Epsilon(0.1))
        at_x, at_scale, at_key, at_keep, at_none = pullback(jnp.ones_like(value))
        assert at_x.dtype == jnp.promote_types(dtype, jnp.float32)
        assert np.isfinite(at_x).all()
        assert np.isfinite(at_scale)
        assert (at_key, at_keep, at_none) == (None, None, {"none": None})


@pytest.mark.parametrize("rules", FOLDING)
def test_an_empty_batch(rules):
    (parameters, shape), x = ensemble(convolutional), jnp.zeros((0, 5, 5, 2))
    assert shape[1:] == x.shape[1:]

    def f(x):
        return convolutional([p[0] for p in parameters], x).max(1)

    value, pullback = lrp.vjp(f, x, rules=FOLDING[rules])
    assert pullback(value).shape == x.shape


def test_complex_values_between():
    """A Fourier transform is linear and the modulus homogeneous: relevance is conserved."""
    w, x = normal(4, 4), normal(3, 4, seed=1)
    value, pullback = lrp.vjp(lambda x: jnp.abs(jnp.fft.fft(x @ w)), x, rules=lrp.AttnLRP())
    np.testing.assert_allclose(pullback(value).sum(), (value**2).sum(), rtol=1e-12)
    with pytest.raises(UserError, match="no rule for the operation 'exp'"):
        lrp.vjp(lambda x: jnp.exp(1j * x).real, x, rules=lrp.AttnLRP())


@pytest.mark.parametrize("rules", [lrp.Gradient(), lrp.GuidedBackprop()])
def test_gradients_need_no_rule(rules):
    """Where the composite is the plain VJP, an operation without a rule is no obstacle."""
    x = normal(3, 4)

    def f(x):
        return jnp.cumprod(x, 1) / (1 + jnp.exp(x))

    value, pullback = lrp.vjp(f, x, rules=rules)
    expected = jax.vjp(f, x)[1](value)[0] * (x if rules == lrp.Gradient() else 1)
    np.testing.assert_allclose(pullback(value), expected, rtol=1e-12)


def test_relevance_is_a_function_like_any_other():
    """LRP of LRP, LRP of a gradient, and second derivatives in every direction."""
    w, x = normal(4, 4), normal(2, 4, seed=1)

    def relevance(x):
        value, pullback = lrp.vjp(lambda x: jnp.tanh(x @ w), x, rules=lrp.Epsilon(0.1))
        return pullback(value)

    def gradient(x):
        return jax.grad(lambda x: jnp.sum(jnp.tanh(x @ w)))(x)

    for f in (relevance, gradient):
        value, pullback = lrp.vjp(f, x, rules=lrp.Epsilon(0.0))
        np.testing.assert_array_equal(value, f(x))
        expected = x * jax.vjp(f, x)[1](value)[0]
        np.testing.assert_allclose(pullback(value), expected, rtol=1e-9, atol=1e-12)
    forward, reverse = jax.jacfwd(relevance)(x), jax.jacrev(relevance)(x)
    np.testing.assert_allclose(forward, reverse, rtol=1e-9, atol=1e-12)


def test_a_long_way_to_the_first_layer():
    """Rearrangements that branch and meet, and chains of hundreds of scalings, take no time."""
    w, x = normal(4, 3), normal(2, 4, seed=1)

    def branching(x):
        for _ in range(16):
            x = jnp.concatenate([x[:, 2:], x[:, :2]], 1) * 0.99
        return x @ w

    def chain(x):
        for _ in range(400):
            x = x * 0.999
        return x @ w

    for f in (branching, chain):
        assert lrp.inspect(f, x, rules=lrp.EpsilonPlusFlat()).rows[0].rule.startswith("Flat")

    def relevance(f):
        value, pullback = lrp.vjp(f, x, rules=lrp.ZBox(-3.0, 3.0))
        return pullback(value)

    expected = relevance(lambda x: (x * 0.99**16) @ w)
    found = jax.jit(lambda: relevance(branching))()
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-12)


def test_places_and_stabilisers_that_do_not_fit():
    w, x = normal(4, 4), normal(3, 4, seed=1)

    def f(x):
        return lrp.tap(lrp.tap(x @ w, "here")[:, :2], "there")

    with pytest.raises(UserError, match=r"mask at 'here' has shape \(5,\); .*, \(3, 4\)"):
        lrp.vjp(f, x, rules=lrp.Epsilon(0.1), masks={"here": jnp.ones(5)})
    with pytest.raises(UserError, match=r"two places are named 'both', .*\(3, 4\)"):
        lrp.vjp(
            lambda x: lrp.tap(f(lrp.tap(x, "both")), "both"), x, rules=lrp.Zero(), taps=("both",)
        )
    with pytest.raises(UserError, match=r"epsilon is traced, .* lambda z: lrp.stabilise"):
        jax.jit(lrp.Epsilon)(0.1)

    @jax.grad
    def by_epsilon(epsilon):
        rules = lrp.Epsilon(lambda z: lrp.stabilise(z, epsilon))
        return lrp.vjp(lambda x: jax.nn.relu(x @ w), x, rules=rules)[1](jnp.ones((3, 4))).sum()

    y = np.maximum(x @ w, 0)
    np.testing.assert_allclose(by_epsilon(0.1), -(x @ w * y / (y + 0.1) ** 2).sum(), rtol=1e-9)
