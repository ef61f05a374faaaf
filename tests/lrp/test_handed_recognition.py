"""Norms, activations, softmax and layers are known by what they compute.

Each spelling is compared with its plain twin: the same function, so the same relevance.
"""

from __future__ import annotations

import contextlib

import flax.linen as linen
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from handed import P, X, assert_same, every_rule, heatmap, mlp, normal, smooth_rules, uniform
from jax import lax, nn

from isnet_jax import UserError, lrp

pytestmark = [pytest.mark.usefixtures("x64"), pytest.mark.filterwarnings("ignore:lrp")]


# 6. Norms however they are spelt.


def mean_square(h):
    return (h * h).mean(-1, keepdims=True) + 1e-6


NORMS = {
    "** -0.5": lambda h: h * mean_square(h) ** -0.5,
    "einsum": lambda h: h * lax.rsqrt(jnp.einsum("bd,bd->b", h, h)[:, None] / 8 + 1e-6),
    "vecdot": lambda h: h * lax.rsqrt(jnp.vecdot(h, h)[:, None] / 8 + 1e-6),
    "exp log": lambda h: h * jnp.exp(-0.5 * jnp.log(mean_square(h))),
    "/ ** 0.5": lambda h: h / mean_square(h) ** 0.5,
    "/ exp log": lambda h: h / jnp.exp(0.5 * jnp.log(mean_square(h))),
    "1 / sqrt": lambda h: h * (1 / jnp.sqrt(mean_square(h))),
    "outer": lambda h: h * lax.rsqrt(jnp.diag(h @ h.T)[:, None] / 8 + 1e-6),
    "linalg.norm": lambda h: (
        h / jnp.sqrt(jnp.linalg.norm(h, axis=-1, keepdims=True) ** 2 / 8 + 1e-6)
    ),
}


@smooth_rules
@pytest.mark.parametrize("norm", NORMS.values(), ids=NORMS)
def test_an_rms_norm_however_it_is_spelt(norm, rules):
    def net(norm):
        return lambda x: norm(x @ P["w"]) @ P["u"]

    assert_same(net(norm), net(lambda h: h * lax.rsqrt(mean_square(h))), X, rules)


# 8. Functions are known by what they are, not by their names.


def named(name, f):
    f.__name__ = f.__qualname__ = name
    return jax.jit(f)


@every_rule
@pytest.mark.parametrize("name", ["softmax", "celu", "logsumexp", "log_softmax", "relu", "silu"])
def test_a_users_function_of_a_known_name(name, rules):
    layer = named(name, lambda x, w, b: nn.relu(x @ w + b))
    assert_same(lambda x: layer(x, P["w"], P["b"]) @ P["u"], lambda x: mlp(P, x), X, rules)


@smooth_rules
def test_an_exponential_that_a_softmax_shares(rules):
    def f(exponential):
        def net(x):
            s = x @ P["w"]
            e = jnp.exp(s)
            return (e / e.sum(-1, keepdims=True)) @ P["u"] + exponential(s, e) @ P["u"]

        return net

    assert_same(f(lambda s, e: e), f(lambda s, e: jnp.exp(s)), X, rules)


RELUS = {
    "clip": lambda h: jnp.clip(h, 0),
    "where": lambda h: jnp.where(h > 0, h, 0),
    "maximum": lambda h: jnp.maximum(h, jnp.zeros_like(h)),
    "x * (x > 0)": lambda h: h * (h > 0),
    "max(0, x)": lambda h: lax.max(jnp.zeros((), h.dtype), h),
}


@pytest.mark.parametrize("rules", [lrp.GuidedBackprop(), lrp.Deconvnet()], ids=["guided", "deconv"])
@pytest.mark.parametrize("relu", RELUS.values(), ids=RELUS)
def test_other_relus_than_jax_nns(relu, rules):
    def net(relu):
        return lambda x: relu(relu(x @ P["w"] + P["b"]) @ P["q"]) @ P["u"]

    assert_same(net(relu), net(nn.relu), X, rules)


# 10. A kernel that the program makes is no layer.

NHWC = ("NHWC", "HWIO", "NHWC")
KERNEL, HEAD = normal(3, 3, 3, 4, seed=1), normal(4, 3, seed=2)


def conv(x, kernel=KERNEL):
    return lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=NHWC)


def classify(x):
    return nn.relu(conv(x)).mean((1, 2)) @ HEAD


def bilinear(x):
    return jax.image.resize(x, (1, 8, 8, 3), "bilinear")


def mixed_colours(x):
    mix = jnp.full((3, 3), 0.25) + jnp.eye(3) * 0.25
    return x @ mix


def smoothed(x):
    kernel = jnp.tile(jnp.eye(3)[None, None] / 4, (2, 2, 1, 1))
    return lax.conv_general_dilated(x, kernel, (1, 1), "VALID", dimension_numbers=NHWC)


FIRSTS = {
    "flat": lrp.EpsilonPlusFlat(),
    "box": lrp.EpsilonGammaBox(0.0, 1.0),
    "flex": lrp.ISNetFlex(first=lrp.ZBox(0.0, 1.0)),
}


@pytest.mark.parametrize("rules", FIRSTS.values(), ids=FIRSTS)
@pytest.mark.parametrize("before", [bilinear, mixed_colours, smoothed], ids=lambda f: f.__name__)
def test_the_first_layer_is_the_first_with_a_parameter(before, rules):
    x = uniform(1, 6, 6, 3)
    found = heatmap(lambda x: classify(before(x)), x, rules)
    values, pull = jax.vjp(before, jnp.asarray(x))
    expected = x * np.asarray(pull(heatmap(classify, np.asarray(values), rules) / values)[0])
    # The division by the resized value has a stabiliser of 1e-6.
    assert np.abs(found - expected).max() <= 1e-4 * np.abs(expected).max()


@pytest.mark.parametrize("rules", FIRSTS.values(), ids=FIRSTS)
def test_a_nearest_resize_only_moves(rules):
    def resized(x):
        return classify(jax.image.resize(x, (1, 8, 8, 3), "nearest"))

    def repeated(x):
        return classify(jnp.repeat(jnp.repeat(x, 2, 1), 2, 2))

    assert_same(resized, repeated, uniform(1, 4, 4, 3), rules)


# 14. Flax's own group norm.


PLAIN = {"use_bias": False, "use_scale": False, "dtype": jnp.float64}


def of_linen():
    norm = linen.GroupNorm(4, **PLAIN)
    return lambda h: norm.apply({}, h)


def of_nnx():
    return nnx.GroupNorm(8, num_groups=4, rngs=nnx.Rngs(0), **PLAIN)


def group_norm(h):
    g = h.reshape(2, 4, 4, 4, 2)
    g = g - g.mean((1, 2, 4), keepdims=True)
    return (g * lax.rsqrt((g**2).mean((1, 2, 4), keepdims=True) + 1e-6)).reshape(h.shape)


@smooth_rules
@pytest.mark.parametrize("make", [of_linen, of_nnx], ids=lambda f: f.__name__)
def test_flax_group_norm(make, rules):
    def net(norm):
        return lambda x: nn.relu(norm(x @ P["q"])).mean((1, 2)) @ P["u"]

    assert_same(net(make()), net(group_norm), normal(2, 4, 4, 8), rules)


# 15. Rearrangements by convolution and one-hot products; softmax and activations by value.


@pytest.mark.parametrize("preset", [lrp.EpsilonPlus, lrp.EpsilonAlpha2Beta1, lrp.ISNetBlock])
def test_patches_are_a_rearrangement(preset):
    second = jnp.asarray(normal(3, 3, 4, 4, seed=7))  # the program sees its four axes

    def unfolded(x):
        patches = lax.conv_general_dilated_patches(
            conv(x), (3, 3), (1, 1), "SAME", dimension_numbers=NHWC
        )
        y = patches @ second.transpose(2, 0, 1, 3).reshape(-1, 4)
        return nn.relu(y).mean((1, 2)) @ HEAD

    def direct(x):
        return nn.relu(conv(conv(x), second)).mean((1, 2)) @ HEAD

    assert_same(unfolded, direct, uniform(2, 6, 6, 3), preset())


@smooth_rules
def test_a_one_hot_dispatch_is_a_choice(rules):
    experts = normal(3, 8, 4, seed=6)

    def outputs(x):
        h = nn.relu(x @ P["w"])
        return h, jnp.argmax(h[:, :3], -1), jnp.einsum("bi,eio->beo", h, experts)

    def dispatched(x):
        _, chosen, y = outputs(x)
        return jnp.einsum("be,beo->bo", nn.one_hot(chosen, 3, dtype=y.dtype), y)

    def taken(x):
        _, chosen, y = outputs(x)
        return jnp.take_along_axis(y, chosen[:, None, None], 1)[:, 0]

    assert_same(dispatched, taken, X, rules)


def shifted_exponential(s):
    return jnp.exp(s - lax.stop_gradient(s.max(-1, keepdims=True)))


def total(e):
    return e.sum(-1, keepdims=True)


SOFTMAX = {
    "e / sum": lambda s: jnp.exp(s) / total(jnp.exp(s)),
    "exp(log_softmax)": lambda s: jnp.exp(nn.log_softmax(s)),
    "exp(s - logsumexp)": lambda s: jnp.exp(s - nn.logsumexp(s, -1, keepdims=True)),
    "e * (1 / sum)": lambda s: (lambda e: e * (1 / total(e)))(shifted_exponential(s)),
    "where=": lambda s: nn.softmax(s, where=jnp.ones(s.shape, bool)),
    "masked e / sum": lambda s: (lambda e: e / total(e))(jnp.exp(s) * jnp.ones(s.shape, bool)),
    "e / (sum + 1e-12)": lambda s: (lambda e: e / (total(e) + 1e-12))(jnp.exp(s)),
}


def attention(softmax, x):
    q, k, v = (0.5 * normal(6, 3, seed=i) for i in range(3))
    return (softmax((x @ q) @ (x @ k).swapaxes(1, 2)) @ (x @ v)).mean(1)


@smooth_rules
@pytest.mark.parametrize("softmax", SOFTMAX.values(), ids=SOFTMAX)
def test_softmax_however_it_is_spelt(softmax, rules):
    x = normal(2, 4, 6)
    assert_same(lambda x: attention(softmax, x), lambda x: attention(nn.softmax, x), x, rules)


@smooth_rules
@pytest.mark.parametrize("none", [-jnp.inf, -1e9, "where="])
def test_masked_softmax(none, rules):
    keep = np.tril(np.ones((4, 4), bool))

    def masked(s):
        if none == "where=":
            return nn.softmax(s, where=jnp.asarray(keep))
        return nn.softmax(jnp.where(keep, s, none))

    def twin(s):
        return nn.softmax(s + jnp.where(keep, 0.0, -1e6))

    x = normal(2, 4, 6)
    assert_same(lambda x: attention(masked, x), lambda x: attention(twin, x), x, rules)


@smooth_rules
def test_shares_of_absolute_values_are_a_norm_or_refused(rules):
    def shares(x):
        h = x @ P["w"]
        return (h / jnp.abs(h).sum(-1, keepdims=True)) @ P["u"]

    def constant(x):
        h = x @ P["w"]
        return (h * lax.stop_gradient(1 / jnp.abs(h).sum(-1, keepdims=True))) @ P["u"]

    with contextlib.suppress(UserError):
        assert_same(shares, constant, X, rules)


ACTIVATIONS = {
    "1 / (1 + exp(-x))": (lambda h: 1 / (1 + jnp.exp(-h)), nn.sigmoid),
    "log(1 + exp(x))": (lambda h: jnp.log(1 + jnp.exp(h)), nn.softplus),
    "relu6(x + 3) / 6": (lambda h: nn.relu6(h + 3) / 6, nn.hard_sigmoid),
    "x * (x > 0)": (lambda h: h * (h > 0), nn.relu),
    "where": (lambda h: jnp.where(h > 0, h, 0), nn.relu),
    "maximum": (lambda h: jnp.maximum(h, jnp.zeros_like(h)), nn.relu),
    "clip": (lambda h: jnp.clip(h, 0), nn.relu),
    "x / (1 + exp(-x))": (lambda h: h / (1 + jnp.exp(-h)), nn.silu),
    "1 - 2 / (exp(2x) + 1)": (lambda h: 1 - 2 / (jnp.exp(2 * h) + 1), jnp.tanh),
}


@smooth_rules
@pytest.mark.parametrize("pair", ACTIVATIONS.values(), ids=ACTIVATIONS)
def test_activations_however_they_are_spelt(pair, rules):
    def net(activation):
        return lambda x: activation(x @ P["w"]) @ P["u"]

    assert_same(net(pair[0]), net(pair[1]), X, rules)


STACKED = {
    "select": lambda h: jnp.select([h > 0], [h], 0.0),
    "max of a stack": lambda h: jnp.max(jnp.stack([h, jnp.zeros_like(h)]), 0),
    "max of an array": lambda h: jnp.array([jnp.zeros_like(h), h]).max(0),
}


@every_rule
@pytest.mark.parametrize("relu", STACKED.values(), ids=STACKED)
def test_relus_by_what_is_stacked(relu, rules):
    def net(relu):
        return lambda x: relu(x @ P["w"] + P["b"]) @ P["u"]

    assert_same(net(relu), net(nn.relu), X, rules)


ATTENTION = {rules: getattr(lrp, rules)() for rules in ("AttnLRP", "CPLRP", "ISNetFlex")}


@pytest.mark.parametrize("rules", ATTENTION.values(), ids=ATTENTION)
@pytest.mark.parametrize("shift", [lambda s: 0, lambda s: lax.stop_gradient(s.max(-1))[..., None]])
def test_a_softmax_that_is_normalised_behind_the_values(shift, rules):
    q, k, v = (0.5 * normal(6, 3, seed=i) for i in range(3))

    def behind(x):
        s = (x @ q) @ (x @ k).swapaxes(1, 2)
        e = jnp.exp(s - shift(s))
        return ((e @ (x @ v)) * (1 / e.sum(-1))[..., None]).mean(1)

    x = normal(2, 4, 6)
    assert_same(behind, lambda x: attention(nn.softmax, x), x, rules)


COLOURS = [[0.299, 0.587, 0.114], [-0.169, -0.331, 0.5], [0.5, -0.419, -0.081]]


def test_a_matrix_in_a_list_of_the_module_is_a_guess():
    def net(x):
        return classify(x @ jnp.array(COLOURS))

    table = lrp.inspect(net, uniform(1, 6, 6, 3), rules=lrp.EpsilonPlusFlat())
    assert "a matrix that is written into the function" in table.guesses[0]
    assert [row.kind for row in table].count("layer") == 2


def test_a_batch_norm_centred_by_a_matrix_is_said():
    def net(x):
        h = (jnp.eye(3) - jnp.ones((3, 3)) / 3) @ (x @ P["w"])
        return nn.relu(h * lax.rsqrt((h * h).mean(0) + 1e-5)) @ P["u"]

    table = lrp.inspect(net, X, rules=lrp.AttnLRP())
    assert "mixes the samples" in table.guesses[0]
