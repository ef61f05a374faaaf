"""The stabiliser of an activation belongs to the layer in front of it, wherever that is."""

import jax.numpy as jnp
import pytest
from handed import P, X, assert_same, uniform
from jax import lax, nn

from isnet_jax import lrp

pytestmark = [pytest.mark.usefixtures("x64"), pytest.mark.filterwarnings("ignore:lrp")]

OWN = {
    "first": lrp.ISNetFlex(first=lrp.ZBox(0.0, 1.0)),
    "all": lrp.Composite(layer=lrp.ZPlus(), activation=lrp.Epsilon(0.1)),
    "options": lrp.Epsilon(0.1, zero_bias=True),
}
own_rules = pytest.mark.parametrize("rules", OWN.values(), ids=OWN)


def plain(x):
    return nn.relu(x @ P["w"] + P["b"]) @ P["u"]


def mapped(x):
    return lax.map(nn.relu, x @ P["w"] + P["b"]) @ P["u"]


def scanned_twice(x):
    def inner(h):
        return lax.scan(lambda c, v: (c, nn.relu(v)), None, h)[1]

    return lax.map(inner, x @ P["w"] + P["b"]) @ P["u"]


def layer_inside(x):
    return nn.relu(lax.map(lambda v: v @ P["w"] + P["b"], x)) @ P["u"]


def halves(x):
    left, right = jnp.split(P["w"], 2, 1)
    return nn.relu(jnp.concatenate([x @ left, x @ right], 1) + P["b"]) @ P["u"]


@own_rules
@pytest.mark.parametrize("f", [mapped, scanned_twice, layer_inside], ids=lambda f: f.__name__)
def test_across_the_boundary_of_a_scan(f, rules):
    assert_same(f, plain, X, rules)


def stabilised(f, rules):
    return [row.rule for row in lrp.inspect(f, X, rules=rules) if row.kind == "activation"]


@pytest.mark.parametrize("rules", [OWN["first"], OWN["all"]], ids=["first", "all"])
def test_a_layer_in_pieces(rules):
    def summands(x):
        return nn.relu(x[:, :3] @ P["w"][:3] + x[:, 3:] @ P["w"][3:] + P["b"]) @ P["u"]

    passing = stabilised(plain, rules)
    assert stabilised(summands, rules) == stabilised(halves, rules) == passing


def test_a_sum_with_another_value_keeps_it():
    def residual(x):
        h = nn.relu(x @ P["w"])
        return nn.relu(x @ P["w"] + h) @ P["u"]

    assert any("Flex" in rule for rule in stabilised(residual, OWN["first"]))


def test_a_carry_that_begins_with_a_layer():
    """Every step's ReLU stands behind a layer with a rule of its own."""
    x = uniform(2, 3, 6)

    def looped(x):
        def step(h, v):
            return nn.relu(h) @ P["q"] + v @ P["w"], None

        return nn.relu(lax.scan(step, x[:, 0] @ P["w"], x[:, 1:].swapaxes(0, 1))[0]) @ P["u"]

    def unrolled(x):
        h = x[:, 0] @ P["w"]
        for i in (1, 2):
            h = nn.relu(h) @ P["q"] + x[:, i] @ P["w"]
        return nn.relu(h) @ P["u"]

    assert_same(looped, unrolled, x, OWN["all"])
