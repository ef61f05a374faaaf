"""Layers in pieces, and spellings whose parts looked like something of their own."""

import warnings

import jax.numpy as jnp
import numpy as np
import pytest
from handed import P, X, assert_same, normal, smooth_rules, uniform
from jax import lax, nn

from isnet_jax import UserError, lrp

pytestmark = [pytest.mark.usefixtures("x64"), pytest.mark.filterwarnings("ignore:lrp")]

LAYERS = {"z+": lrp.ZPlus(), "epsilon": lrp.Composite(layer=lrp.Epsilon(0.1))}
RULED = pytest.mark.parametrize("rules", LAYERS.values(), ids=LAYERS)


def explained(f, rules, x=X):
    logits, pullback = lrp.vjp(lambda x: nn.relu(f(x)) @ P["u"], x, rules=rules)
    return pullback(jnp.ones_like(logits))


def guesses(f, rules):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        explained(f, rules)
    return "".join(str(warning.message) for warning in caught)


@RULED
def test_a_bias_behind_a_squeezed_convolution_folds(rules):
    """A convolution over all places is a dense layer: its bias comes once they are squeezed."""
    w = P["w"]

    def convolution(x):
        kernel = jnp.asarray(w.T[:, None, :])
        numbers = ("NCH", "OIH", "NCH")
        h = lax.conv_general_dilated(x[:, None], kernel, (1,), "VALID", dimension_numbers=numbers)
        return nn.relu(h.squeeze(-1) + P["b"]) @ P["u"]

    assert_same(convolution, lambda x: nn.relu(x @ w + P["b"]) @ P["u"], X, rules)


@RULED
def test_a_bias_behind_a_map_of_its_layer_is_refused(rules):
    def mapped(x):
        return lax.map(lambda row: row @ P["w"], x) + P["b"]

    with pytest.raises(
        UserError, match=r"in a scan or map, and the operation 'add'.*Put that into"
    ):
        explained(mapped, rules)
    explained(lambda x: lax.map(lambda row: row @ P["w"] + P["b"], x), rules)


@RULED
def test_layers_in_pieces_are_guesses(rules):
    w = P["w"]

    def columns(x):
        return jnp.concatenate([x @ w[:, :2], x @ w[:, 2:]], 1)

    def rows(x):
        return x[:, :2] @ w[:2] + x[:, 2:] @ w[2:]

    def outer(x):
        return sum(x[:, i, None] * w[i] for i in range(w.shape[0]))

    assert not guesses(columns, rules)
    assert "not for their bias" in guesses(lambda x: columns(x) + P["b"], rules)
    assert not guesses(lambda x: columns(x) * 2, rules)
    assert "a sum of layers of the pieces of one value" in guesses(rows, rules)
    assert "is taken for a scale" in guesses(outer, rules)
    assert not guesses(rows, lrp.Epsilon(0.01))


def turned(h):
    return h @ jnp.eye(h.shape[1])[::-1]


MOVED = {
    "indexed": lambda h: h[:, np.arange(h.shape[1])[::-1]],
    "reversed": lambda h: h[:, ::-1],
    "rolled": lambda h: jnp.roll(h, 1, -1),
    "rows reversed": lambda h: h[::-1],
    "cut": lambda h: jnp.pad(h[:, 1:], ((0, 0), (0, 1))),
    "masked": lambda h: jnp.where(jnp.arange(h.shape[1]) > 0, h, 0.0),
    "split": lambda h: jnp.concatenate(jnp.split(h, 2, -1)[::-1], -1),
    "by a matrix": turned,
}


@RULED
@pytest.mark.parametrize("moved", MOVED.values(), ids=MOVED)
def test_a_bias_behind_moved_values_of_a_layer_is_a_guess(moved, rules):
    said = "not for the layer's bias or norm"
    assert said in guesses(lambda x: moved(x @ P["w"]) + P["b"], rules)
    assert said not in guesses(lambda x: moved(x @ P["w"] + P["b"]), rules)
    assert said not in guesses(lambda x: moved(x @ P["w"]) * 2, rules)
    assert said not in guesses(lambda x: moved(x @ P["w"]) + P["b"], lrp.ISNetFlex(first=None))


@RULED
def test_taking_the_only_element_of_an_axis_is_a_rearrangement(rules):
    """As vmap over channels makes of a batch norm that reads and returns one of them."""

    def by_take(x):
        return nn.relu((x @ P["w"])[..., None].take(0, -1) + P["b"]) @ P["u"]

    assert_same(by_take, lambda x: nn.relu(x @ P["w"] + P["b"]) @ P["u"], X, rules)


@smooth_rules
def test_the_reciprocal_of_a_sum_is_a_guess(rules):
    """A softmax of differences, which nothing here takes for one."""

    def gated(x):
        h = x @ P["w"]
        return (1 / jnp.exp(h[:, None, :] - h[:, :, None]).sum(-1)) @ P["q"]

    assert "the reciprocal of a statistic" in guesses(gated, rules)


@smooth_rules
def test_the_centre_of_a_layer_norm_behind_its_scale(rules):
    def scaled_first(x):
        h = x @ P["w"]
        scale = lax.rsqrt(h.var(-1, keepdims=True) + 1e-6)
        return (h * scale + (P["b"] - h.mean(-1, keepdims=True) * scale)) @ P["u"]

    def centred_first(x):
        h = x @ P["w"]
        centred = h - h.mean(-1, keepdims=True)
        return (centred * lax.rsqrt(h.var(-1, keepdims=True) + 1e-6) + P["b"]) @ P["u"]

    assert_same(scaled_first, centred_first, X, rules)


@pytest.mark.parametrize(
    "relu",
    [lambda h: h * jnp.heaviside(h, 0.0), lambda h: h * jnp.clip(jnp.sign(h), 0, 1)],
    ids=["heaviside", "sign"],
)
@pytest.mark.parametrize(
    "rules", [lrp.ZPlus(), lrp.AttnLRP(), lrp.GuidedBackprop()], ids=["z+", "attn", "guided"]
)
def test_a_gate_inside_a_relu_is_no_activation_of_its_own(relu, rules):
    assert_same(
        lambda x: relu(x @ P["w"]) @ P["u"], lambda x: nn.relu(x @ P["w"]) @ P["u"], X, rules
    )


@pytest.mark.parametrize("first", [lrp.Flat(), lrp.WSquare(), lrp.ZBox(0.0, 1.0)], ids=str)
def test_padding_has_no_share(first):
    images, kernel = uniform(2, 5, 5, 2), jnp.asarray(normal(3, 3, 2, 8, seed=7))
    numbers = ("NHWC", "HWIO", "NHWC")
    around = ((0, 0), (1, 1), (1, 1), (0, 0))

    def same(x):
        h = lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=numbers)
        return nn.relu(h + P["b"]).mean((1, 2)) @ P["u"]

    def padded(x):
        x = jnp.pad(x, around)
        h = lax.conv_general_dilated(x, kernel, (1, 1), "VALID", dimension_numbers=numbers)
        return nn.relu(h + P["b"]).mean((1, 2)) @ P["u"]

    assert_same(padded, same, images, lrp.Composite(layer=lrp.Epsilon(0.1), first=first))
