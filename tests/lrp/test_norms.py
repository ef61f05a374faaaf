"""Norms behind other maps, with other sums, and what is only guessed to be one."""

import warnings

import jax
import jax.numpy as jnp
import pytest
from handed import P, X, assert_same, normal, smooth_rules
from jax import lax, nn

from isnet_jax import lrp

pytestmark = [pytest.mark.usefixtures("x64"), pytest.mark.filterwarnings("ignore:lrp")]


def rms(h):
    return jnp.sqrt((h * h).mean(-1, keepdims=True) + 1e-6)


def length(h, axis=-1):
    return jnp.sqrt((h * h).sum(axis, keepdims=True))


BEHIND = {
    "a product": (lambda h: (h @ P["u"]) * (1 / rms(h)), lambda h: (h / rms(h)) @ P["u"]),
    "a cosine head": (
        lambda h: (h @ P["u"]) / (length(h) * length(P["u"], 0)),
        lambda h: (h / length(h)) @ (P["u"] / length(P["u"], 0)),
    ),
    "a cosine head, stabilised": (
        lambda h: (h @ P["u"]) / jnp.maximum(length(h) * length(P["u"], 0), 1e-8),
        lambda h: (h / length(h)) @ (P["u"] / length(P["u"], 0)),
    ),
}
UNITS = 1e-5
"""The stabiliser of 1e-6 is in units of a layer's output, before or behind its scale."""


@smooth_rules
@pytest.mark.parametrize("pair", BEHIND.values(), ids=BEHIND)
def test_a_norm_behind_a_map_that_it_commutes_with(pair, rules):
    behind, before = pair
    net, twin = (lambda x: behind(x @ P["w"])), (lambda x: before(x @ P["w"]))
    assert_same(net, twin, X, rules, limit=UNITS if rules == lrp.EpsilonPlus() else 1e-9)


def test_a_norm_behind_a_relu():
    def behind(x):
        h = x @ P["w"]
        return nn.relu(h @ P["q"]) / rms(h) @ P["u"]

    def before(x):
        h = x @ P["w"]
        return nn.relu((h / rms(h)) @ P["q"]) @ P["u"]

    assert_same(behind, before, X, lrp.AttnLRP())


@smooth_rules
def test_cosine_attention(rules):
    q, k, v = (0.5 * normal(6, 3, seed=i) for i in range(3))

    def behind(x):
        a, b = x @ q, x @ k
        scores = (a @ b.swapaxes(1, 2)) / (length(a) * length(b).swapaxes(1, 2))
        return (nn.softmax(scores) @ (x @ v)).mean(1)

    def before(x):
        a, b = x @ q, x @ k
        scores = (a / length(a)) @ (b / length(b)).swapaxes(1, 2)
        return (nn.softmax(scores) @ (x @ v)).mean(1)

    assert_same(behind, before, normal(2, 4, 6), rules)


def by_scan(h):
    total, _ = lax.scan(lambda c, row: (c + row * row, None), jnp.zeros(h.shape[:1]), h.T)
    return jnp.sqrt(total[:, None] / h.shape[-1] + 1e-6)


SUMS = {
    "cumsum": lambda h: jnp.sqrt(jnp.cumsum(h * h, -1)[:, -1:] / h.shape[-1] + 1e-6),
    "scan": by_scan,
}


@smooth_rules
@pytest.mark.parametrize("total", SUMS.values(), ids=SUMS)
def test_an_rms_norm_by_other_sums(total, rules):
    def net(total):
        return lambda x: (lambda h: h / total(h))(x @ P["w"]) @ P["u"]

    assert_same(net(total), net(rms), X, rules)


def halves(h):
    both = jnp.concatenate([h[None], (h * h)[None]]).sum(-1, keepdims=True) / h.shape[-1]
    return both[0], both[1]


def last(h):
    both = jnp.stack([h, h * h], -1).mean(1, keepdims=True)
    return both[..., 0], both[..., 1]


STACKED = {
    "an index": lambda h: tuple(jnp.stack([h, h * h]).mean(-1, keepdims=True)[i] for i in (0, 1)),
    "unpacked": lambda h: tuple(jnp.stack([h, h * h]).mean(-1, keepdims=True)),
    "the last axis": last,
    "concatenated": halves,
    "vmap": lambda h: tuple(jax.vmap(lambda a: a.mean(-1, keepdims=True))(jnp.stack([h, h * h]))),
    "turned": lambda h: (
        (both := jnp.stack([h, h * h]).mean(-1, keepdims=True).transpose(1, 0, 2))[:, 0],
        both[:, 1],
    ),
}


@smooth_rules
@pytest.mark.parametrize("moments", STACKED.values(), ids=STACKED)
def test_moments_that_are_stacked_while_they_are_taken(moments, rules):
    def stacked(x):
        mean, square = moments(h := x @ P["w"])
        normed = (h - mean) / jnp.sqrt(square - mean**2 + 1e-6)
        return nn.relu(jnp.concatenate([normed, h], -1) @ jnp.concatenate([P["q"], P["q"]]))

    def plain(x):
        h = x @ P["w"]
        normed = (h - h.mean(-1, keepdims=True)) / jnp.sqrt(h.var(-1, keepdims=True) + 1e-6)
        return nn.relu(jnp.concatenate([normed, h], -1) @ jnp.concatenate([P["q"], P["q"]]))

    assert_same(stacked, plain, X, rules)


def windows(h):
    padded = jnp.pad(h * h, ((0, 0), (1, 1)))
    return sum(padded[:, i : i + h.shape[-1]] for i in range(3))


def reduced_windows(h):
    return lax.reduce_window(h * h, 0.0, lax.add, (1, 3), (1, 1), ((0, 0), (1, 1)))


LOCAL = {
    "slices": lambda h: h / (2 + 0.1 * windows(h)) ** 0.75,
    "log1p": lambda h: h * 2**-0.75 * jnp.exp(-0.75 * jnp.log1p(0.05 * reduced_windows(h))),
}


@smooth_rules
@pytest.mark.parametrize("norm", LOCAL.values(), ids=LOCAL)
def test_local_response_norm(norm, rules):
    def net(norm):
        return lambda x: norm(x @ P["w"]) @ P["u"]

    twin, limit = net(lambda h: h / (2 + 0.1 * reduced_windows(h)) ** 0.75), 1e-9
    assert_same(net(norm), twin, X, rules, limit=UNITS if rules == lrp.EpsilonPlus() else limit)


def damped(h, one=1.0):
    return h / (one + jnp.abs(h).mean(-1, keepdims=True))


@pytest.mark.parametrize("norm", [damped, LOCAL["slices"], LOCAL["log1p"]])
def test_a_constant_that_is_not_small_makes_it_a_guess(norm):
    def net(x):
        return norm(x @ P["w"]) @ P["u"]

    with pytest.warns(UserWarning, match="lrp guessed: .*test_norms.py.* a constant that is not"):
        lrp.vjp(net, X, rules=lrp.AttnLRP())
    table = lrp.inspect(net, X, rules=lrp.AttnLRP())
    assert len(table.guesses) == 1
    assert [row.kind for row in table if row.guess] == ["statistics"]


def test_no_guess_where_the_constant_is_small_or_the_user_has_said_it():
    def said(h):
        scale = 1 / (1 + jnp.abs(h).mean(-1, keepdims=True))
        return h * lrp.mark(scale, "norm_statistics")

    for norm in (lambda h: damped(h, 1e-3), said):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            lrp.vjp(lambda x, norm=norm: norm(x @ P["w"]) @ P["u"], X, rules=lrp.AttnLRP())


def test_what_is_no_norm_stays_a_product():
    """A gate is not homogeneous; a scale of another value is none of this one."""
    for factor in (lambda h, x: nn.sigmoid(h.mean(-1, keepdims=True)), lambda h, x: 1 / rms(x)):
        table = lrp.inspect(
            lambda x, f=factor: (f(x @ P["w"], jnp.tanh(x) + 1) * (x @ P["w"])) @ P["u"],
            X,
            rules=lrp.AttnLRP(),
        )
        assert "product" in [row.kind for row in table]


def test_a_rule_that_sees_the_scale_of_its_layer_behind_it_says_so():
    def net(x):
        return nn.relu((x @ P["w"]) / rms(x) + P["b"]) @ P["u"]

    assert "by a norm of its input" in lrp.inspect(net, X, rules=lrp.ZPlus()).guesses[0]
    assert not lrp.inspect(net, X, rules=lrp.AttnLRP()).guesses
    twin = net(X), nn.relu((X / rms(X)) @ P["w"] + P["b"]) @ P["u"]
    assert abs(twin[0] - twin[1]).max() < 1e-12
