"""What the tests of handed cases share: rules, a small network, and comparisons with a twin."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import nn
from twins.evaluating import Traced

from isnet_jax import lrp

RULES = {
    "Epsilon": lrp.Epsilon(1e-2),
    "ZPlus": lrp.ZPlus(),
    "ISNetFlex, z^B": lrp.ISNetFlex(first=lrp.ZBox(0.0, 1.0)),
    "EpsilonPlusFlat": lrp.EpsilonPlusFlat(),
    "AttnLRP": lrp.AttnLRP(),
    "GuidedBackprop": lrp.GuidedBackprop(),
}
every_rule = pytest.mark.parametrize("rules", RULES.values(), ids=RULES)
SMOOTH = {name: RULES[name] for name in ("Epsilon", "AttnLRP")} | {
    "EpsilonPlus": lrp.EpsilonPlus(),
    "ISNetFlex": lrp.ISNetFlex(),
}
smooth_rules = pytest.mark.parametrize("rules", SMOOTH.values(), ids=SMOOTH)


def normal(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape)


def uniform(*shape, seed=0):
    return np.random.default_rng(seed).uniform(size=shape)


P = {
    "w": normal(6, 8, seed=1),
    "b": 0.3 * normal(8, seed=2),
    "u": normal(8, 4, seed=3),
    "q": 0.4 * normal(8, 8, seed=4),
    "table": normal(5, 6, seed=5),
}
X = uniform(3, 6)


def heatmap(f, x, rules, **options):
    """Relevance of a fixed mixture of f's outputs at x."""

    def explain(x):
        output, pullback = lrp.vjp(f, x, rules=rules, **options)[:2]
        return pullback(normal(*output.shape, seed=99))

    return Traced(explain, x)(x)


def assert_close(found, expected, limit):
    off = np.abs(found - expected).max()
    assert off <= limit, f"off by {off:.1e}, of {np.abs(expected).max():.1e}"


def assert_same(f, twin, x, rules, *, limit=1e-9, **options):
    found, expected = heatmap(f, x, rules, **options), heatmap(twin, x, rules)
    for a, b in zip(*map(jax.tree.leaves, (found, expected)), strict=True):
        assert_close(a, b, limit * np.abs(b).max())


def assert_gradient_of_logits(f, p, x, rules):
    """The gradient by parameters of the logits that `lrp.vjp` returns is the model's own."""

    def explained(p):
        return (lrp.vjp(lambda x: f(p, x), x, rules=rules)[0] ** 2).sum()

    found = Traced(jax.grad(explained), p)(p)
    expected = Traced(jax.grad(lambda p: (f(p, x) ** 2).sum()), p)(p)
    scale = max(np.abs(leaf).max() for leaf in jax.tree.leaves(expected))
    for a, b in zip(*map(jax.tree.leaves, (found, expected)), strict=True):
        assert_close(a, b, 1e-9 * scale)


def mlp(p, x):
    return nn.relu(x @ p["w"] + p["b"]) @ p["u"]


def gate(p, x):
    return (jnp.tanh(x @ p["w"]) * jnp.tanh(p["b"])) @ p["u"]
