"""What the user says of values and functions overrides what would be recognised."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from handed import P, X, assert_same, heatmap, mlp
from jax import lax, nn

from isnet_jax import UserError, lrp

pytestmark = [pytest.mark.usefixtures("x64"), pytest.mark.filterwarnings("ignore:lrp")]

ATTENTION = lrp.AttnLRP()


def layers(f, rules=ATTENTION):
    return [row for row in lrp.inspect(f, X, rules=rules) if row.kind == "layer"]


def test_a_constant_takes_no_relevance():
    def gated(gate):
        def f(x):
            h = x @ P["w"]
            return (h * gate(nn.sigmoid(h[:, :1]))) @ P["u"]

        return f

    found = heatmap(gated(lambda g: lrp.mark(g, "constant")), X, ATTENTION)
    expected = heatmap(gated(lax.stop_gradient), X, ATTENTION)
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-12)
    with pytest.raises(AssertionError):
        np.testing.assert_allclose(heatmap(gated(lambda g: g), X, ATTENTION), expected, rtol=1e-3)


def test_a_mark_changes_no_logit_and_no_gradient():
    def f(w):
        return (mlp({**P, "w": lrp.mark(w, "constant")}, X) ** 2).sum()

    def plain(w):
        return (mlp({**P, "w": w}, X) ** 2).sum()

    np.testing.assert_array_equal(jax.grad(f)(P["w"]), jax.grad(plain)(P["w"]))


def test_a_weight_makes_a_layer_and_fixed_makes_none():
    computed = lambda: jnp.eye(6) * 0.5 + 0.1  # noqa: E731
    assert len(layers(lambda x: mlp(P, x @ computed()))) == 2
    assert len(layers(lambda x: mlp(P, x @ lrp.mark(computed(), "weight")))) == 3
    assert len(layers(lambda x: mlp({**P, "w": lrp.mark(P["w"], "fixed")}, x))) == 1

    def by_itself(x):
        return x @ lrp.mark(jnp.outer(x.mean(0), jnp.ones(8)), "weight") @ P["u"]

    assert len(layers(by_itself)) == 2
    logits, relevance = lrp.relevance(by_itself, X, target=0, rules=ATTENTION)
    np.testing.assert_allclose(relevance.sum(1), logits[:, 0], rtol=1e-9)


@pytest.mark.parametrize("meaning", ["batch_statistics", "norm_statistics"])
def test_statistics_follow_the_composite(meaning):
    def f(x):
        h = x @ P["w"]
        return (h * lrp.mark(1 / (1 + (h * h).mean(-1, keepdims=True) ** 2), meaning)) @ P["u"]

    constant, gradient = (
        heatmap(f, X, lrp.Composite(**{meaning: treatment}))
        for treatment in ("constant", "gradient")
    )
    assert np.abs(constant - gradient).max() > 1e-3 * np.abs(gradient).max()


def test_a_function_as_one_activation_and_as_linear():
    def wobble(h):
        return h + jnp.sin(h) * h.mean(-1, keepdims=True)

    def net(f):
        return lambda x: f(x @ P["w"]) @ P["u"]

    rows = lrp.inspect(net(lrp.as_activation(wobble)), X, rules=ATTENTION)
    assert [row.kind for row in rows] == ["layer", "activation", "layer"]
    linear = net(lrp.as_linear(wobble))
    assert [row.kind for row in lrp.inspect(linear, X, rules=ATTENTION)] == ["layer", "layer"]
    found, expected = (heatmap(f, X, lrp.Gradient()) for f in (linear, net(wobble)))
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-12)


def test_a_mark_without_a_meaning():
    with pytest.raises(UserError, match="meaning is 'wieght'; expected one of 'weight'"):
        lrp.mark(X, "wieght")


@pytest.mark.parametrize("rules", [lrp.ZPlus(), lrp.EpsilonPlusFlat(), lrp.LayerEpsilon(0.1)])
def test_a_layer_that_is_written_out_is_a_layer(rules):
    def written_out(x):
        return nn.relu((x[:, :, None] * P["w"]).sum(1) + P["b"]) @ P["u"]

    def pooled(x):
        return (jnp.stack([x, x], 1) * P["table"][0]).mean(1) @ P["w"]

    assert_same(written_out, lambda x: mlp(P, x), X, rules)
    kinds = [row.kind for row in lrp.inspect(pooled, X, rules=rules)]
    assert kinds.count("layer") == 1
    table = lrp.inspect(written_out, X, rules=rules, relevance=True)
    plain = lrp.inspect(lambda x: mlp(P, x), X, rules=rules, relevance=True)
    sums = [(row.arrives, row.leaves) for row in table if row.kind == "layer"]
    expected = [(row.arrives, row.leaves) for row in plain if row.kind == "layer"]
    np.testing.assert_allclose(sums, expected, rtol=1e-9, atol=1e-12)
