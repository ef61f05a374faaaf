"""Batches, a user's own derivatives, literals and integers, limits of options, moved values."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from handed import (
    RULES,
    P,
    X,
    assert_gradient_of_logits,
    assert_same,
    every_rule,
    heatmap,
    mlp,
    normal,
    smooth_rules,
    uniform,
)
from jax import lax, nn
from twins.evaluating import Traced

from isnet_jax import UserError, lrp

pytestmark = [pytest.mark.usefixtures("x64"), pytest.mark.filterwarnings("ignore:lrp")]


# 7 and 16. Axis 0 is not the batch because it is the first one.


@smooth_rules
def test_a_channels_first_layer_norm_of_one_sample(rules):
    kernel, head, x = normal(6, 3, seed=1), normal(6, 4, seed=2), uniform(3, 5, 5)

    def net(axis):
        def f(x):
            h = jnp.moveaxis(jnp.tensordot(kernel, jnp.moveaxis(x, axis, 0), (1, 0)), 0, axis)
            h = h - h.mean(axis, keepdims=True)
            h = nn.relu(h * lax.rsqrt((h * h).mean(axis, keepdims=True) + 1e-5))
            return jnp.moveaxis(h, axis, -1).mean((0, 1)) @ head

        return f

    def last(x):
        return net(-1)(jnp.moveaxis(x, 0, -1))

    assert_same(net(0), last, x, rules)


def plus_its_mean(s):
    h = s @ P["w"]
    return nn.relu(h + h.mean(0)).mean(0) @ P["u"]


def instance_norm(s):
    h = s @ P["w"]
    mean = h.mean(0)
    return nn.relu((h - mean) * lax.rsqrt(((h - mean) ** 2).mean(0) + 1e-5)).mean(0) @ P["u"]


def attended(s):
    h = s @ P["w"]
    return (nn.softmax(h @ h.T) @ h).mean(0) @ P["u"]


@smooth_rules
@pytest.mark.parametrize("f", [plus_its_mean, instance_norm, attended], ids=lambda f: f.__name__)
def test_vmap_of_vjp_is_vjp_of_vmap(f, rules):
    x, seed = uniform(2, 5, 6), normal(2, 4, seed=9)

    def inside(x):
        return jax.vmap(lambda x, s: lrp.vjp(f, x, rules=rules)[1](s))(x, seed)

    def outside(x):
        return lrp.vjp(jax.vmap(f), x, rules=rules)[1](seed)

    found, expected = Traced(inside, x)(x), Traced(outside, x)(x)
    assert np.abs(found - expected).max() <= 1e-9 * np.abs(expected).max()


# 9. A user's derivative is the model's.


@jax.custom_jvp
def hard(s):
    return nn.one_hot(jnp.argmax(s, -1), s.shape[-1], dtype=s.dtype)


@hard.defjvp
def _(primals, tangents):
    return hard(*primals), jax.jvp(nn.softmax, primals, tangents)[1]


@jax.custom_jvp
def straight_through(s):
    return jnp.round(s)


@straight_through.defjvp
def _(primals, tangents):
    return jnp.round(*primals), tangents[0]


@jax.custom_jvp
def normalised(s):
    return s / jnp.sqrt((s * s).sum(-1, keepdims=True))


@normalised.defjvp
def _(primals, tangents):
    (s,), (t,) = primals, tangents
    return normalised(s), t / jnp.sqrt((s * s).sum(-1, keepdims=True))


CUSTOM = {"hard": hard, "round": straight_through, "normalised": normalised}


@pytest.mark.parametrize("custom", CUSTOM.values(), ids=CUSTOM)
def test_a_custom_derivative_is_kept(custom):
    def f(p, x):
        return custom(x @ p["w"]) @ p["u"]

    relevance = heatmap(lambda x: f(P, x), X, lrp.Epsilon(0.0))
    _, pull = jax.vjp(lambda x: f(P, x), jnp.asarray(X))
    expected = X * np.asarray(pull(jnp.asarray(normal(3, 4, seed=99)))[0])
    assert np.abs(relevance - expected).max() <= 1e-9 * np.abs(expected).max()
    for rules in RULES.values():
        assert_gradient_of_logits(f, P, X, rules)


# 11. Literals and integers.


@every_rule
def test_a_literal_factor_behind_a_layer(rules):
    def f(x):
        return nn.relu((x @ P["w"]) * 1.25 + P["b"]) @ P["u"]

    def before_the_bias(x):
        return nn.relu((x @ P["w"] + 1) * 1.25 - 1.25 + P["b"]) @ P["u"]

    for g in (f, before_the_bias):
        assert_same(g, lambda x: nn.relu(x @ (P["w"] * 1.25) + P["b"]) @ P["u"], X, rules)


@pytest.mark.parametrize("dtype", [np.uint8, np.int32, np.bool_])
@every_rule
def test_logits_of_integer_inputs(dtype, rules):
    """No layer reads an input that can carry relevance: a reason, and what to do."""
    x = (uniform(3, 6) > 0.5).astype(dtype)

    def f(x):
        return mlp(P, x.astype(jnp.float64) / 2)

    with pytest.raises(UserError, match="Convert it first"):
        lrp.relevance(f, x, target=0, rules=rules)


@pytest.mark.parametrize("dtype", [np.uint8, np.int32, np.bool_])
def test_integer_inputs_have_no_relevance(dtype):
    x = (uniform(3, 6) > 0.5).astype(dtype)

    def f(x):
        return mlp(P, lrp.tap(x.astype(jnp.float64), "pixels"))

    with pytest.raises(UserError, match=rf"of type {np.dtype(dtype)}; relevance needs floating"):
        lrp.vjp(f, x, rules=lrp.Epsilon(1e-2))
    logits, pullback = lrp.vjp(f, x, rules=lrp.Epsilon(1e-2), taps=("pixels",))
    relevance, taps = pullback(jnp.ones_like(logits))
    expected = lrp.vjp(lambda x: mlp(P, x), x.astype(float), rules=lrp.Epsilon(1e-2))[1]
    assert relevance is None
    np.testing.assert_allclose(taps["pixels"], expected(jnp.ones_like(logits)), rtol=1e-9)


# 12. No cliffs.


def test_epsilon_is_continuous_at_zero():
    def gated(x):
        return (nn.relu(x @ P["w"]) * nn.sigmoid(x @ P["w"] + P["b"])) @ P["u"]

    for f in (lambda x: mlp(P, x), gated):
        found, limit = (heatmap(f, X, lrp.Epsilon(e)) for e in (1e-12, 0.0))
        assert np.abs(found - limit).max() <= 1e-6 * np.abs(limit).max()


def test_an_option_does_not_change_what_epsilon_is():
    def without_biases(x):
        return nn.relu(x @ P["w"]) @ P["u"]

    try:
        found = heatmap(without_biases, X, lrp.Epsilon(0.5, zero_bias=True))
    except UserError:
        return
    expected = heatmap(without_biases, X, lrp.Epsilon(0.5))
    assert np.abs(found - expected).max() <= 1e-9 * np.abs(expected).max()


@every_rule
def test_parameters_as_primals(rules):
    seed = normal(3, 4, seed=99)
    try:
        relevance = Traced(lambda p, x: lrp.vjp(mlp, p, x, rules=rules)[1](seed), P, X)(P, X)
    except UserError:
        return
    expected = heatmap(lambda x: mlp(P, x), X, rules)
    assert np.abs(relevance[1] - expected).max() <= 1e-9 * np.abs(expected).max()


# 13. Operations that only move values, and loops.


def log_to_base_two(x):
    return (jnp.log2(1 + jnp.exp(x @ P["w"])) * np.log(2)) @ P["u"]


def conjugated(x):
    h = nn.relu(x @ P["w"])
    return jnp.conj(lax.complex(h, jnp.zeros_like(h))).real @ P["u"]


def subtracted(x):
    h = nn.relu(x @ P["w"])
    return jnp.zeros_like(h).at[:, jnp.arange(8)].subtract(-h) @ P["u"]


def unpacked(x):
    a, b = (x @ P["w"]).reshape(3, 2, 4).swapaxes(0, 1)
    return (a * nn.sigmoid(b)) @ P["u"][:4]


def sliced(x):
    h = x @ P["w"]
    return (h[:, :4] * nn.sigmoid(h[:, 4:])) @ P["u"][:4]


def stacked(x):
    return mlp(P, jnp.stack([x[:, :3], x[:, 3:]], 1).reshape(3, 6))


def tiled(x):
    return mlp(P, jnp.tile(x[:, :3], (1, 2)))


def looped(x):
    return lax.fori_loop(0, 2, lambda _, h: nn.relu(h @ P["q"]), x @ P["w"]) @ P["u"]


def mapped(x):
    return lax.map(lambda s: nn.relu(s @ P["w"] + P["b"]), x) @ P["u"]


MOVED = {
    log_to_base_two: lambda x: nn.softplus(x @ P["w"]) @ P["u"],
    conjugated: lambda x: nn.relu(x @ P["w"]) @ P["u"],
    subtracted: lambda x: nn.relu(x @ P["w"]) @ P["u"],
    unpacked: sliced,
    stacked: lambda x: mlp(P, x),
    tiled: lambda x: mlp(P, jnp.concatenate([x[:, :3]] * 2, 1)),
    looped: lambda x: nn.relu(nn.relu(x @ P["w"] @ P["q"]) @ P["q"]) @ P["u"],
    mapped: lambda x: mlp(P, x),
}


@smooth_rules
@pytest.mark.parametrize(("f", "twin"), MOVED.items(), ids=[f.__name__ for f in MOVED])
def test_values_that_only_move(f, twin, rules):
    assert_same(f, twin, X, rules)
