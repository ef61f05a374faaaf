"""Control flow, nested functions, taps and masks: equal to the plain, unrolled program."""

import functools
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.ad_checkpoint import checkpoint_name

from isnet_jax import lrp
from isnet_jax.errors import UserError

pytestmark = pytest.mark.usefixtures("x64")

RULES = [lrp.Epsilon(0.1), lrp.ZPlus(), lrp.ISNetBlock(0.1), lrp.EpsilonPlusFlat()]


@pytest.fixture(scope="module")
def problem(x64):
    rng = np.random.default_rng(0)
    x, w, head = (jnp.asarray(rng.normal(size=s)) for s in ((2, 4), (3, 4, 4), (4, 3)))
    return x, w, head


def step(x, w):
    return x + jax.nn.relu(x @ w)


def unrolled(x, w, head):
    for matrix in w:
        x = step(x, matrix)
    return x @ head


def scanned(x, w, head):
    return lax.scan(lambda x, matrix: (step(x, matrix), None), x, w)[0] @ head


def rematted(x, w, head):
    block = jax.checkpoint(step, policy=jax.checkpoint_policies.dots_saveable)
    for matrix in w:
        x = block(x, matrix)
    return x @ head


def branched(x, w, head):
    for i, matrix in enumerate(w):
        x = lax.cond(w.sum() < jnp.inf, step, lambda x, w: -x, x, matrix)
        x = lax.switch(i, [lambda x: x, lambda x: 1.0 * x, lambda x: x / 1.0], x)
    return x @ head


def nested(x, w, head):
    def inner(x, matrix):
        return lax.cond(x.sum() > jnp.inf, lambda x, w: x, jax.checkpoint(step), x, matrix), None

    return jax.jit(lambda x: lax.scan(inner, x, w)[0])(x) @ head


def relevance_and_gradient(f, x, w, head, rules):
    def loss(w):
        value, pullback = lrp.vjp(lambda x: f(x, w, head), x, rules=rules)
        heatmap = pullback(jnp.ones_like(value))
        return jnp.sum(jnp.sin(heatmap)), (value, heatmap)

    (_, (value, heatmap)), gradient = jax.jit(jax.value_and_grad(loss, has_aux=True))(w)
    return value, heatmap, gradient


@pytest.mark.parametrize("rules", RULES, ids=["flex", "z+", "block", "plus flat"])
def test_control_flow_is_the_unrolled_program(rules, problem):
    if rules == lrp.EpsilonPlusFlat():  # the input of a scanned body is not a first layer's
        variants = [rematted, branched]
    else:
        variants = [scanned, rematted, branched, nested]
    if isinstance(rules, lrp.ZPlus):
        variants = [scanned]
    expected = relevance_and_gradient(unrolled, *problem, rules)
    for f in variants:
        for one, other in zip(relevance_and_gradient(f, *problem, rules), expected, strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-9, atol=1e-11, err_msg=f.__name__)


def test_a_scan_over_the_input_is_a_recurrent_network(problem):
    x, w, head = problem
    sequence = jnp.stack([x, 2 * x, -x])

    def recurrent(sequence):
        def cell(state, x):
            state = jnp.tanh(x @ w[0] + state @ w[1])
            return state, state.sum()

        state, sums = lax.scan(cell, jnp.zeros_like(x), sequence)
        return state @ head + sums.sum()

    def plain(sequence):
        state, total = jnp.zeros_like(x), 0.0
        for row in sequence:
            state = jnp.tanh(row @ w[0] + state @ w[1])
            total = total + state.sum()
        return state @ head + total

    for rules in (lrp.Epsilon(0.1), lrp.Composite(first=lrp.ZBox(-3, 3), names=())):
        value, pullback = lrp.vjp(recurrent, sequence, rules=rules)
        same, other = lrp.vjp(plain, sequence, rules=rules)
        np.testing.assert_allclose(value, same, rtol=1e-12)
        np.testing.assert_allclose(
            pullback(jnp.ones_like(value)), other(jnp.ones_like(value)), atol=1e-10
        )


def test_a_while_loop_is_a_clear_error_where_relevance_would_pass(problem):
    x, w, _ = problem

    def looped(x):
        return lax.while_loop(lambda s: s[0] < 2, lambda s: (s[0] + 1, s[1] @ w[0]), (0, x))[1]

    with pytest.raises(UserError, match=r"while loop at .*test_control_flow.py.*jax.lax.scan"):
        lrp.vjp(looped, x, rules=lrp.Epsilon(0.1))

    def beside(x):
        count = lax.while_loop(lambda s: s < 3, lambda s: s + 1, 0)
        return x @ w[0] * count

    value, pullback = lrp.vjp(beside, x, rules=lrp.Epsilon(0.1))
    np.testing.assert_allclose(value, 3 * x @ w[0], rtol=1e-12)
    pullback(value)


def test_an_unknown_operation_is_an_error_or_its_plain_vjp(problem):
    x, w, _ = problem

    def f(x):
        return jnp.linalg.cholesky(x.T @ x + jnp.eye(4)) @ w[0]

    with pytest.raises(UserError, match=r"'cholesky' at .*test_control_flow.py:.*strict=False"):
        lrp.vjp(f, x, rules=lrp.Epsilon(0.1))
    with pytest.warns(UserWarning, match="keep their plain VJP: 'cholesky'"):
        value, pullback = lrp.vjp(f, x, rules=lrp.Epsilon(0.1), strict=False)
    assert pullback(value).shape == x.shape


def test_custom_derivatives(problem):
    x, w, head = problem

    @jax.custom_jvp
    def mixed(x):
        return jax.nn.relu(x @ w[0]) @ w[1]

    mixed.defjvp(lambda p, t: (mixed(*p), t[0]))

    @jax.custom_vjp
    def reversed_(x):
        return x * 2

    reversed_.defvjp(lambda x: (x * 2, None), lambda _, g: (-g,))

    with pytest.warns(UserWarning, match=r"custom_jvp keeps its own") as caught:
        value, pullback = lrp.vjp(lambda x: mixed(x) @ head, x, rules=lrp.Epsilon(0.1))
    assert len(caught) == 1
    np.testing.assert_allclose(pullback(value), x * (value @ head.T), rtol=1e-12)
    with pytest.warns(UserWarning, match=r"custom_vjp keeps its own") as caught:
        value, pullback = lrp.vjp(lambda x: reversed_(x) @ head, x, rules=lrp.Epsilon(0.1))
    assert len(caught) == 1
    np.testing.assert_allclose(pullback(value), x * -(value @ head.T), rtol=1e-12)


def test_taps_in_scans_masks_and_embeddings(problem):
    x, w, head = problem

    def scanned(x):
        def body(x, matrix):
            return lrp.tap(step(x, matrix), "block"), None

        return lax.scan(body, x, w)[0] @ head

    def plain(x):
        for i, matrix in enumerate(w):
            x = lrp.tap(step(x, matrix), f"block{i}")
        return x @ head

    names = ("block0", "block1", "block2")
    value, pullback = lrp.vjp(scanned, x, rules=lrp.Epsilon(0.1), taps=("block",))
    _, other = lrp.vjp(plain, x, rules=lrp.Epsilon(0.1), taps=names)
    _, taps = pullback(jnp.ones_like(value))
    _, each = other(jnp.ones_like(value))
    np.testing.assert_allclose(taps["block"], jnp.stack([each[n] for n in names]), atol=1e-12)

    # Concept relevance: relevance through single channels adds up to all of it.
    def through(mask):
        _, pullback = lrp.vjp(
            plain, x, rules=lrp.Epsilon(0.1), taps=("block1",), masks={"block1": mask}
        )
        return pullback(jnp.ones_like(value))

    at_input, at_tap = jax.vmap(through)(jnp.eye(4))
    np.testing.assert_allclose(at_input.sum(0), other(jnp.ones_like(value))[0], atol=1e-12)
    np.testing.assert_allclose(at_tap["block1"], each["block1"] * jnp.eye(4)[:, None], atol=1e-12)

    def embedded(tokens):
        return lrp.tap(w[0][tokens], "embedding") @ head

    value, pullback = lrp.vjp(
        embedded, jnp.array([1, 3]), rules=lrp.Epsilon(0.1), taps=("embedding",)
    )
    at_input, at_tap = pullback(value)
    assert at_input is None
    expected = w[0][jnp.array([1, 3])] * (value @ head.T)
    np.testing.assert_allclose(at_tap["embedding"], expected, rtol=1e-12)


def test_all_targets_in_chunks(problem):
    x, w, head = problem
    _, whole = lrp.relevance(
        lambda x: unrolled(x, w, head), x, target="all", rules=lrp.Epsilon(0.1)
    )
    for chunk in (1, 2, 5):
        _, parts = lrp.relevance(
            lambda x: unrolled(x, w, head), x, target="all", rules=lrp.Epsilon(0.1), chunk=chunk
        )
        np.testing.assert_allclose(parts, whole, atol=1e-12)


NAMED = (
    *("relu", "relu6", "silu", "elu", "selu", "celu", "leaky_relu", "softplus", "hard_swish"),
    *("mish", "squareplus", "soft_sign", "hard_tanh", "log_sigmoid", "sigmoid", "tanh", "gelu"),
)


@pytest.mark.parametrize(
    "activation",
    [
        *(getattr(jax.nn, name) for name in NAMED),
        lambda x: jax.nn.gelu(x, approximate=False),
        lambda x: jnp.maximum(x, 0),
        lambda x: jnp.where(x > 0, x, 0.3 * x),
        lambda x: jnp.square(jax.nn.relu(x)),
        lambda x: jnp.clip(x, 0, 6),
        lambda x: x * jax.nn.sigmoid(1.702 * x),
    ],
)
def test_every_activation_is_one_site(activation, problem):
    x, w, head = problem
    z = x @ w[0]

    def f(x):
        return activation(x @ w[0]) @ head

    value, pullback = lrp.vjp(f, x, rules=lrp.Composite(activation=lrp.Epsilon(0.1)))
    seed = jnp.ones_like(value)
    factor = activation(z) / (z + jnp.where(z >= 0, 0.1, -0.1))
    expected = x * ((factor * (seed @ head.T)) @ w[0].T)
    np.testing.assert_allclose(pullback(seed), expected, rtol=1e-9, atol=1e-12)


def test_attention_shares_and_conserves():
    """AttnLRP on `jax.nn.dot_product_attention` and on einsum: half to values, half to scores."""
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=(2, 5, 2, 4)))

    def fused(x):
        return jax.nn.dot_product_attention(x, x, x, is_causal=True).sum((1, 2))

    def by_einsum(x):
        scores = jnp.einsum("bthd,bshd->bhts", x, x) / 2
        scores = jnp.where(jnp.tril(jnp.ones((5, 5), bool)), scores, -jnp.inf)
        return jnp.einsum("bhts,bshd->bthd", jax.nn.softmax(scores), x).sum((1, 2))

    value, pullback = lrp.vjp(fused, x, rules=lrp.AttnLRP())
    same, other = lrp.vjp(by_einsum, x, rules=lrp.AttnLRP())
    np.testing.assert_allclose(value, same, atol=1e-6)  # softmax in float32
    relevance = pullback(jnp.ones_like(value))
    np.testing.assert_allclose(relevance, other(jnp.ones_like(value)), atol=1e-5)

    def values_only(v):
        p = jax.nn.dot_product_attention(x, x, v, is_causal=True)
        return p.sum((1, 2))

    _, through_values = lrp.vjp(values_only, x, rules=lrp.AttnLRP())
    assert np.isfinite(relevance).all()
    np.testing.assert_allclose(through_values(jnp.ones_like(value)).sum(), value.sum(), rtol=1e-9)


def test_dropout_concatenation_and_low_precision(problem):
    x, w, head = problem
    x, w, head = (a.astype(jnp.bfloat16) for a in (x, w, head))
    key = jax.random.key(0)

    def f(x):
        y = jax.nn.relu(jnp.concatenate([x @ w[0], x @ w[1]], -1))
        y = jnp.where(jax.random.bernoulli(key, 0.5, y.shape), 2 * y, 0)
        return y[:, :4] @ head

    for rules in (lrp.Epsilon(0.1), lrp.Gamma(), lrp.EpsilonPlusFlat(), lrp.ISNetBlock()):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            value, pullback = lrp.vjp(f, x, rules=rules)
        relevance = pullback(jnp.ones_like(value))
        assert relevance.dtype == jnp.float32
        assert np.isfinite(relevance).all()


def test_a_layer_with_its_own_derivative_is_that_layer():
    """A custom_vjp around one convolution is a lowering: rules see the convolution."""

    def convolve(x, w):
        return lax.conv_general_dilated(
            x, w, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )

    lowered = jax.custom_vjp(convolve)

    def backward(residuals, g):
        _, pull = jax.vjp(convolve, *residuals)
        return pull(g)

    lowered.defvjp(lambda x, w: (convolve(x, w), (x, w)), backward)
    draw = np.random.default_rng(0)
    x = jnp.asarray(draw.random((2, 5, 5, 3)))
    weights = jnp.asarray(draw.standard_normal((3, 3, 3, 4)))
    rules = lrp.Composite(layer=lrp.Gamma(0.3), first=lrp.ZBox(0.0, 1.0))

    def network(layer):
        def f(x):
            y = jax.nn.relu(layer(x, weights) + 0.1)
            return layer(y, jnp.swapaxes(weights, 2, 3)).sum((1, 2))

        return f

    def relevance_and_gradient(layer):
        def explain(x):
            logits, pullback = lrp.vjp(network(layer), x, rules=rules)
            return pullback(jnp.ones_like(logits))

        return explain(x), jax.grad(lambda x: jnp.sum(explain(x) ** 2))(x)

    for ours, plain in zip(
        relevance_and_gradient(lowered), relevance_and_gradient(convolve), strict=True
    ):
        np.testing.assert_allclose(ours, plain, rtol=1e-10)
    assert "custom_vjp" not in str(lrp.inspect(network(lowered), x, rules=rules))


@pytest.mark.parametrize("treatment", ["constant", "gradient"])
def test_statistics_measured_outside_of_a_checkpoint_are_told_by_their_name(treatment, problem):
    x, w, head = problem

    def moments(x):
        return x.mean(0), (x * x).mean(0) - x.mean(0) ** 2

    def normalised(x, mean, variance, w):
        return jax.nn.relu((x - mean) * lax.rsqrt(variance + 1e-3) @ w)

    def within(x, w, head):
        for matrix in w:
            x = normalised(x, *moments(x), matrix)
        return x @ head

    @jax.checkpoint
    def named(x, mean, variance, w):
        mean, variance = checkpoint_name((mean, variance), "batch_statistics")
        return normalised(x, mean, variance, w)

    def outside(x, w, head):
        for matrix in w:
            x = named(x, *moments(x), matrix)
        return x @ head

    rules = lrp.Composite(layer=lrp.Epsilon(1e-2), sum=lrp.Norm(), batch_statistics=treatment)
    found, expected = (relevance_and_gradient(f, x, w, head, rules) for f in (outside, within))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, 1e-9, 1e-12), found, expected)

    def statistics(f):
        rows = lrp.inspect(lambda x: f(x, w, head), x, rules=rules)
        return [row.name for row in rows if row.kind == "statistics"]

    assert statistics(outside) == statistics(within) == ["batch"] * 2 * len(w)


@pytest.mark.parametrize("wrap", [jax.checkpoint, lambda f: f], ids=["nested", "alone"])
def test_what_carries_no_relevance_outside_carries_none_inside(wrap, problem):
    x, w, head = problem

    def gated(x, gate):
        return jax.nn.relu(x @ w[0]) * gate

    def outside(x):
        gate = lax.stop_gradient(jnp.tanh(x @ w[1]))
        return wrap(jax.checkpoint(gated))(x, gate) @ head

    def within(x):
        return gated(x, lax.stop_gradient(jnp.tanh(x @ w[1]))) @ head

    heatmaps = [
        lrp.vjp(f, x, rules=lrp.Epsilon(0.1))[1](jnp.ones((2, 3))) for f in (outside, within)
    ]
    np.testing.assert_allclose(*heatmaps, rtol=1e-12)


def test_a_layer_in_a_branch_whose_norm_is_behind_the_cond(problem):
    """What a rule needs of it is not known where it is evaluated."""
    x, (w, *_), head = problem
    b = head[:, 0]

    def torn(x):
        h = lax.cond(b[0] < 9, lambda x: x @ w, lambda x: 2 * (x @ w), x)
        return jax.nn.relu(h + b)

    with pytest.raises(UserError, match=r"and the operation 'add' at .*py.* belong together"):
        lrp.vjp(torn, x, rules=lrp.ZPlus())
    rows = lrp.inspect(torn, x, rules=lrp.AttnLRP(), strict=True)
    assert [row.kind for row in rows] == ["layer", "layer"]


def test_a_norm_in_the_branches_whose_layer_is_before_the_cond(problem):
    x, (w, *_), head = problem
    b = head[:, 0]

    def biased(h):
        return jax.nn.leaky_relu(h + b)

    def torn(x):
        h = x @ w
        return lax.cond(h[0, 0] < 9, biased, lambda h: 2 * biased(h), h)

    def read_elsewhere(x):
        h = x @ w
        return lax.cond(h[0, 0] < 9, biased, lambda h: 2 * biased(h), h) + h

    with pytest.raises(UserError, match=r"and the operation 'add' at .*py.* belong together"):
        lrp.vjp(torn, x, rules=lrp.ZPlus())
    lrp.vjp(read_elsewhere, x, rules=lrp.ZPlus())


def test_a_refusal_names_the_users_code_or_none(problem):
    """Where the explained function is a library's wrapper, what it wraps is the place."""
    x, (w, *_), _ = problem
    mesh = jax.sharding.Mesh(np.array(jax.devices()[:1]), ("d",))
    spec = jax.sharding.PartitionSpec()

    def dense(x):
        return x @ w

    mapped = jax.shard_map(dense, mesh=mesh, in_specs=spec, out_specs=spec)
    with pytest.raises(UserError, match=r"'shard_map' at .*test_control_flow.py:.*dense\)"):
        lrp.vjp(mapped, x, rules=lrp.Epsilon(0.1))
    with pytest.raises(UserError, match=r"'cumprod' at the explained function itself"):
        lrp.vjp(functools.partial(jnp.cumprod, axis=1), x, rules=lrp.Epsilon(0.1))


def test_equations_with_a_constant_matrix_are_solved(problem):
    x, (w, *_), _ = problem

    def solved(x):
        return jnp.linalg.solve(w, x.T).T

    found = lrp.vjp(solved, x, rules=lrp.AttnLRP())[1](jnp.ones((2, 4)))
    np.testing.assert_allclose(found, x * jnp.linalg.inv(w).sum(0), rtol=1e-9)
    with pytest.raises(UserError, match="equations are solved whose matrix depends on the input"):
        lrp.vjp(lambda x: jnp.linalg.solve(w + x.sum(), x.T), x, rules=lrp.AttnLRP())
