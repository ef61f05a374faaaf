"""`lrp.vjp`, `relevance`, `tap`, `inspect`, `register_rule` on small networks of plain jnp."""

from __future__ import annotations

import functools

import chex
import golden_values
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small_copies
from flax import nnx
from helpers import relative_error

from isnet_jax import UserError, lrp
from isnet_jax.lrp.trace import registry as rules_of_names

pytestmark = pytest.mark.usefixtures("x64")

FLEX = lrp.Epsilon(1e-2)


def normal(*shape: int, seed: int = 0) -> jax.Array:
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape))


WEIGHTS = {
    "conv": {"kernel": normal(3, 3, 2, 4), "bias": normal(4, seed=1)},
    "inner": {"kernel": normal(3, 3, 4, 4, seed=2) / 3, "bias": normal(4, seed=3)},
    "head": {"kernel": normal(4, 3, seed=4), "bias": normal(3, seed=5)},
}
X = normal(2, 6, 6, 2, seed=6)


def conv(layer, x, bias):
    y = jax.lax.conv_general_dilated(
        x, layer["kernel"], (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    return y + layer["bias"] if bias else y


def network(weights, x, *, bias=True, remat=False):
    def block(x):
        return lrp.tap(jax.nn.relu(conv(weights["inner"], x, bias)), "inner")

    x = lrp.tap(jax.nn.relu(conv(weights["conv"], x, bias)), "outer")
    x = x + (jax.checkpoint(block) if remat else block)(x)
    x = x.mean((1, 2)) @ weights["head"]["kernel"]
    return x + weights["head"]["bias"] if bias else x


def cast(tree):
    """The module's constants in float64 (they are made before x64 is on)."""
    return jax.tree.map(lambda a: a.astype(jnp.float64), tree)


def weights():
    return cast(WEIGHTS)


def image():
    return cast(X)


def biased(x):
    return network(weights(), x)


def bias_free(x, **options):
    return network(weights(), x, bias=False, **options)


RULES = [FLEX, lrp.Epsilon(0.0), lrp.ISNetFlex(first=lrp.ZBox(-3.0, 3.0))]


# What holds for every explanation


@pytest.mark.parametrize("rules", RULES, ids=["flex", "gradient", "box"])
def test_the_output_is_bit_equal(rules):
    logits, _ = lrp.vjp(biased, image(), rules=rules)
    np.testing.assert_array_equal(logits, biased(image()))


def test_gradient_times_input():
    x = image()
    _, relevance = lrp.relevance(biased, x, target=1, rules=lrp.Epsilon(0.0))
    gradient = jax.grad(lambda x: biased(x)[:, 1].sum())(x)
    np.testing.assert_allclose(relevance, x * gradient, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("rules", [lrp.Composite(), lrp.Epsilon(0.0)], ids=["zero", "gradient"])
def test_relevance_is_conserved_without_biases_at_the_input_and_at_each_cut(rules):
    logits, pullback = lrp.vjp(bias_free, image(), rules=rules, taps=("outer", "inner"))
    seed = jax.nn.one_hot(jnp.array([0, 2]), 3, dtype=float)
    relevance, at = pullback(seed)
    expected = (logits * seed).sum(1)
    np.testing.assert_allclose(relevance.sum((1, 2, 3)), expected, rtol=1e-10)
    # "outer" is a cut of the network; "inner" is one of two ways to the sum.
    np.testing.assert_allclose(at["outer"].sum((1, 2, 3)), expected, rtol=1e-10)
    head = weights()["head"]["kernel"] @ seed.T
    inner = jax.nn.relu(conv(weights()["conv"], image(), False))
    inner = jax.nn.relu(conv(weights()["inner"], inner, False)).mean((1, 2))
    np.testing.assert_allclose(at["inner"].sum((1, 2)), inner * head.T, rtol=1e-10)


def test_relevance_is_linear_in_the_seed():
    _, pullback = lrp.vjp(biased, image(), rules=RULES[2])
    one, two = normal(2, 3, seed=7).astype(float), normal(2, 3, seed=8).astype(float)
    np.testing.assert_allclose(
        pullback(2 * one - 3 * two), 2 * pullback(one) - 3 * pullback(two), rtol=1e-9, atol=1e-12
    )


@pytest.mark.parametrize("rules", [FLEX, lrp.ISNetFlex(first=lrp.ZBox())], ids=["flex", "box"])
def test_batch_mates_do_not_matter_in_eval_mode(rules):
    model = small_copies.own()
    run = jax.jit(lambda x: lrp.relevance(model, x, target=1, rules=rules)[1])
    x = golden_values.drawn_batch(2, 3, 8, 4)["image"]
    together, others = run(x), run(x.at[1:].set(x[1:][::-1] ** 2))
    np.testing.assert_allclose(together[0], others[0], rtol=1e-10, atol=1e-13)
    assert relative_error(together[1], others[1]) > 1e-3


def test_jit_vmap_and_grad_agree_with_the_eager_loop():
    x = image()
    seeds = jnp.eye(3)[:, None].repeat(2, 1)
    logits, pullback = lrp.vjp(biased, x, rules=FLEX)
    loop = jnp.stack([pullback(seed) for seed in seeds])
    np.testing.assert_allclose(jax.vmap(pullback)(seeds), loop, rtol=1e-10, atol=1e-14)

    def explain(x):
        return lrp.relevance(biased, x, target="all", rules=FLEX)

    compiled = jax.jit(explain)(x)
    np.testing.assert_allclose(compiled[0], logits, rtol=1e-12)
    np.testing.assert_allclose(compiled[1], jnp.moveaxis(loop, 0, 1), rtol=1e-9, atol=1e-13)

    def loss(x):
        return jnp.sum(jnp.sin(explain(x)[1]))

    gradient = jax.grad(loss)(x)
    np.testing.assert_allclose(jax.jit(jax.grad(loss))(x), gradient, rtol=1e-8, atol=1e-12)
    direction = normal(*x.shape, seed=9).astype(float)
    run = jax.jit(loss)
    difference = (run(x + 1e-6 * direction) - run(x - 1e-6 * direction)) / 2e-6
    np.testing.assert_allclose((gradient * direction).sum(), difference, rtol=1e-6)


@pytest.mark.parametrize("rules", RULES, ids=["flex", "gradient", "box"])
def test_rematerialisation_changes_nothing(rules):
    x = image()

    def explain(remat, x):
        f = functools.partial(network, weights(), remat=remat)
        _, pullback = lrp.vjp(f, x, rules=rules, taps=("inner",))
        return pullback(jnp.ones((2, 3)))

    def both(remat):
        return explain(remat, x), jax.grad(lambda x: jnp.sum(explain(remat, x)[0] ** 2))(x)

    chex.assert_trees_all_close(both(True), both(False), rtol=1e-9, atol=1e-12)


def test_one_trace_of_the_users_function():
    @chex.assert_max_traces(1)
    def f(x):
        return biased(x)

    logits, pullback = lrp.vjp(f, image(), rules=FLEX)
    pullback(logits)
    pullback(2 * logits)

    @jax.jit
    @chex.assert_max_traces(1)
    def explain(x):
        return lrp.relevance(biased, x, target="all", rules=FLEX)[1]

    for factor in (1, 2, 3):
        explain(factor * image())


def test_forward_over_reverse_agrees_with_reverse_over_reverse():
    x = image()
    direction = normal(*x.shape, seed=9).astype(float)

    def loss(x):
        return jnp.sum(jnp.sin(lrp.relevance(biased, x, target=0, rules=FLEX)[1]))

    forward = jax.jvp(loss, (x,), (direction,))[1]
    np.testing.assert_allclose(forward, (jax.grad(loss)(x) * direction).sum(), rtol=1e-9)


def test_low_precision_networks_have_float32_relevance():
    x, w = image().astype(jnp.bfloat16), jax.tree.map(lambda a: a.astype(jnp.bfloat16), WEIGHTS)
    logits, relevance = lrp.relevance(lambda x: network(w, x), x, target=0, rules=FLEX)
    assert (logits.dtype, relevance.dtype) == (jnp.bfloat16, jnp.float32)


@pytest.mark.parametrize(
    ("rules", "pools"),
    [
        (FLEX, True),
        (lrp.Composite(layer=lrp.Flat()), True),
        (lrp.ISNetFlex(1e-2, first=lrp.ZBox(0.0, 1.0)), False),
        (lrp.EpsilonPlusFlat(), False),
        (lrp.EpsilonAlpha2Beta1Flat(), False),
    ],
    ids=["epsilon", "flat", "isnet", "first flat", "alpha"],
)
def test_inputs_narrower_than_the_network(rules, pools: bool):
    """Images in float32, parameters in float64; relevance is moved and pooled before the layers."""

    weights = jax.tree.map(lambda a: a.astype(float), WEIGHTS)

    def f(x):
        padded = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
        moved = lrp.tap(nnx.max_pool(padded, (2, 2)) if pools else padded, "moved")
        return network(weights, lrp.tap(moved.astype(float), "wide"))

    x = jax.random.uniform(jax.random.key(0), X.shape, jnp.float32)
    taps = ("moved", "wide")
    logits, pullback = lrp.vjp(f, x, rules=rules, taps=taps)
    wide, expected_pullback = lrp.vjp(f, x.astype(float), rules=rules, taps=taps)
    np.testing.assert_allclose(logits, wide, rtol=1e-12)
    found, expected = pullback(jnp.ones_like(logits)), expected_pullback(jnp.ones_like(wide))
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        assert relative_error(one, other) < 1e-6
    assert jax.tree.leaves(found)[0].dtype == jnp.float32


# Primals, auxiliary output, targets


def test_pytrees_several_primals_and_integers():
    def f(inputs, scale):
        return biased(inputs["image"] * scale) + jnp.eye(3)[inputs["class"]]

    inputs = {"image": image(), "class": jnp.array([0, 1])}
    scale = jnp.full((2, 1, 1, 1), 1.5)
    logits, pullback = lrp.vjp(f, inputs, scale, rules=FLEX)
    at_inputs, at_scale = pullback(jnp.ones_like(logits))
    assert at_inputs["class"] is None
    assert at_inputs["image"].shape == (2, 6, 6, 2)
    assert at_scale.shape == scale.shape
    # A product shares in halves.
    np.testing.assert_allclose(at_scale.sum(), at_inputs["image"].sum(), rtol=1e-10)


def test_auxiliary_output():
    def f(x):
        return biased(x), {"mean": x.mean()}

    logits, pullback, aux = lrp.vjp(f, image(), rules=FLEX, has_aux=True)
    np.testing.assert_allclose(aux["mean"], image().mean())
    expected = lrp.vjp(biased, image(), rules=FLEX)[1](logits)
    np.testing.assert_allclose(pullback(logits), expected, rtol=1e-12)
    with pytest.raises(UserError, match=r"f must return \(output, auxiliary\)"):
        lrp.vjp(biased, image(), rules=FLEX, has_aux=True)


def test_targets():
    x = image()
    logits, every = lrp.relevance(biased, x, target="all", rules=FLEX)
    assert (logits.shape, every.shape) == ((2, 3), (2, 3, 6, 6, 2))
    for target in (2, np.int32(2), jnp.array([2, 0])):
        found = lrp.relevance(biased, x, target=target, rules=FLEX)[1]
        rows = np.broadcast_to(target, 2)
        np.testing.assert_allclose(found, every[np.arange(2), rows], rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize(
    ("target", "message"),
    [
        (3, "target 3 is out of range; the logits have 3 classes, 0 to 2"),
        (-1, "target -1 is out of range"),
        (np.array([0, 7]), "target 7 is out of range"),
        ("al", "target is 'al'; expected ints or \"all\""),
        (np.array([0, 1, 2]), r"int64 of shape \(3,\); expected an int or ints of shape \(2,\)"),
        (0.5, r"target is float64 of shape \(\); expected an int"),
    ],
)
def test_targets_that_do_not_fit(target, message):
    with pytest.raises(UserError, match=message):
        lrp.relevance(biased, image(), target=target, rules=FLEX)


def test_logits_of_another_shape():
    with pytest.raises(UserError, match=r"f returned \(2,\); expected logits of shape \(B, C\)"):
        lrp.relevance(lambda x: biased(x)[:, 0], image(), target=0, rules=FLEX)


# Names, taps, rules


def test_a_tap_does_nothing_by_itself():
    x = image()
    np.testing.assert_array_equal(lrp.tap(x, "here"), x)
    logits, pullback = lrp.vjp(biased, x, rules=FLEX)
    tapped, with_taps = lrp.vjp(biased, x, rules=FLEX, taps=("outer",))
    relevance, at = with_taps(logits)
    np.testing.assert_array_equal(tapped, logits)
    np.testing.assert_allclose(relevance, pullback(logits), rtol=1e-12)
    assert at["outer"].shape == (2, 6, 6, 4)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"taps": ("iner",)}, "no relevance reaches a place named 'iner'; places.*: inner, outer"),
        (
            {"rules": lrp.Composite(names=(("con", lrp.Epsilon(1.0)),))},
            r"the pattern 'con' matches no layer. Did you mean 'conv'\? Layers: conv, head, inner",
        ),
        ({"rules": "epsilon"}, "rules is a str; expected a rule such as lrp.Epsilon"),
        ({"rules": lrp.Epsilon}, "rules is a .*; expected a rule such as lrp.Epsilon"),
    ],
)
def test_names_and_rules_that_do_not_fit(options, message):
    f = functools.partial(network, weights())
    with pytest.raises(UserError, match=message):
        lrp.vjp(f, image(), **({"rules": FLEX} | options))


def test_a_first_rule_without_a_first_layer():
    def f(x):
        return (jnp.tanh(x) ** 2).reshape(2, -1) @ jnp.ones((72, 3))

    with pytest.raises(UserError, match=r"no layer for the composite's first-layer rule ZBox.*Use"):
        lrp.vjp(f, image(), rules=lrp.ISNetFlex(first=lrp.ZBox()))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: lrp.Epsilon(-1.0), "epsilon is -1.0; expected a number of at least 0"),
        (lambda: lrp.ZBox(1.0, 0.0), "low is 1.0 and high is 0.0; expected low < high"),
        (
            lambda: lrp.Composite(batch_statistics="constnt"),
            "batch_statistics is 'constnt'; expected \"constant\"",
        ),
    ],
)
def test_rules_that_make_no_sense(make, message):
    with pytest.raises(UserError, match=message):
        make()


# The table


def test_inspect_lists_what_differs_from_the_plain_vjp():
    f = functools.partial(network, weights())
    rules = lrp.ISNetFlex(1e-2, first=lrp.ZBox(-3.0, 3.0))
    table = lrp.inspect(f, jax.ShapeDtypeStruct((2, 6, 6, 2), float), rules=rules, taps=("inner",))
    rows = list(table)
    layers = [row for row in rows if row.kind == "layer"]
    assert [row.name for row in layers] == ["conv", "inner", "head"]
    assert layers[0].input_shape == (2, 6, 6, 2)
    assert layers[0].output_shape == (2, 6, 6, 4)
    assert "ZBox" in layers[0].rule
    assert [row.operation for row in layers] == ["conv_general_dilated"] * 2 + ["dot_general"]
    assert sum(row.kind == "activation" for row in rows) == 2
    assert [row.name for row in rows if row.kind == "tap"] == ["inner"]
    assert all("test_engine_basics.py:" in row.where for row in rows)
    text = str(table)
    assert "✗" not in text
    assert "2x6x6x4" in text
    assert not table.unsupported
    assert len(table) == len(rows)


def mystery(x):
    return jnp.cumprod(x, axis=-1)


def test_the_table_marks_what_is_unsupported_and_vjp_says_where_it_is():
    def f(x):
        return mystery(biased(x))

    table = lrp.inspect(f, image(), rules=FLEX)
    (row,) = table.unsupported
    assert row.operation == "cumprod"
    assert "✗" in str(table)
    assert "1 unsupported" in str(table)
    with pytest.raises(UserError, match=r"'cumprod' at .*test_engine_basics.py:\d+.*\(2, 3\)") as e:
        lrp.vjp(f, image(), rules=FLEX)
    assert 'lrp.register_rule("cumprod"' in str(e.value)
    with pytest.warns(UserWarning, match="no rule and keep their plain VJP"):
        lrp.vjp(f, image(), rules=FLEX, strict=False)


# Teaching operations


@pytest.fixture
def registry(monkeypatch):
    monkeypatch.setattr(rules_of_names, "_handlers", dict(rules_of_names._handlers))


@pytest.mark.usefixtures("registry")
def test_register_rule_for_a_primitive():
    def f(x):
        return mystery(biased(x))

    lrp.register_rule("cumprod", "linear")
    _, pullback = lrp.vjp(f, image(), rules=lrp.Epsilon(0.0))
    gradient = jax.vjp(f, image())[1](jnp.ones((2, 3)))[0]
    np.testing.assert_allclose(pullback(jnp.ones((2, 3))), image() * gradient, rtol=1e-10)


@pytest.mark.usefixtures("registry")
def test_register_rule_for_a_named_function():
    @jax.jit
    def swoosh(x):
        return x * jnp.exp(-(x**2))

    def f(x):
        return swoosh(biased(x))

    def ours(inputs, output, g):
        return (g * 7 * output / inputs[0],)

    inner = lrp.vjp(biased, image(), rules=FLEX)[1]
    seed, y, z = jnp.ones((2, 3)), biased(image()), f(image())
    for handler, factor in (
        ("activation", z / lrp.stabilise(y, 1e-2)),
        (ours, 7 * z / y),
        ("linear", jax.grad(lambda y: swoosh(y).sum())(y)),
    ):
        lrp.register_rule("swoosh", handler)
        relevance = lrp.vjp(f, image(), rules=FLEX)[1](seed)
        np.testing.assert_allclose(relevance, inner(seed * factor), rtol=1e-9, atol=1e-12)


def test_register_rule_of_nonsense():
    with pytest.raises(UserError, match="the handler is 'linaer'; expected \"linear\""):
        lrp.register_rule("cumprod", "linaer")


# The plain gradient is untouched


@pytest.mark.parametrize("rules", RULES, ids=["flex", "gradient", "box"])
def test_the_gradient_through_the_logits_is_the_plain_one(rules):
    """Bit-equal, op by op: the outer pass knows nothing of the rules."""
    x = image()

    def ours(w):
        return jnp.sum(jnp.sin(lrp.vjp(lambda x: network(w, x), x, rules=rules)[0]))

    def plain(w):
        return jnp.sum(jnp.sin(network(w, x)))

    chex.assert_trees_all_equal(jax.grad(ours)(weights()), jax.grad(plain)(weights()))


def test_nnx_remat():
    class Block(nnx.Module):
        def __init__(self, rngs):
            self.conv = nnx.Conv(2, 4, (3, 3), param_dtype=float, rngs=rngs)

        @nnx.remat
        def inner(self, x):
            return nnx.relu(self.conv(x))

        def __call__(self, x, remat=True):
            x = self.inner(x) if remat else nnx.relu(self.conv(x))
            return x.mean((1, 2))

    graph, state = nnx.split(Block(nnx.Rngs(0)))

    def relevance(remat):
        def f(x):
            return nnx.merge(graph, state, copy=True)(x, remat=remat)

        return lrp.relevance(f, image(), target=1, rules=FLEX)[1]

    found, expected = relevance(True), relevance(False)
    np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-15)
