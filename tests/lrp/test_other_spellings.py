"""Programs spelt otherwise than the drawn twins are, beside plain ones that mean the same."""

from __future__ import annotations

from contextlib import nullcontext

import equinox as eqx
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax import lax

from isnet_jax import UserError, lrp

pytestmark = pytest.mark.usefixtures("x64")

RULES = {
    "ISNetFlex": lrp.ISNetFlex(),
    "ZPlus": lrp.ZPlus(),
    "EpsilonPlusFlat": lrp.EpsilonPlusFlat(),
    "AttnLRP": lrp.AttnLRP(),
}
SMALL = 1e-5


def drawn(seed: int, *shape: int) -> jax.Array:
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape))


def assert_same(f, twin, x, rules=tuple(RULES)):
    logits = f(x)
    np.testing.assert_allclose(logits, twin(x), atol=1e-12)
    seed = drawn(9, *logits.shape)
    for name in rules:
        found, right = (lrp.vjp(g, x, rules=RULES[name])[1](seed) for g in (f, twin))
        np.testing.assert_allclose(found, right, atol=1e-9 * np.abs(right).max(), err_msg=name)


def normalised(norm):
    """A network of two layers with a norm between them; 5 samples of 6."""
    w, b, scale, shift, end = (
        drawn(0, 6, 8),
        drawn(1, 8),
        drawn(2, 8),
        drawn(3, 8),
        drawn(4, 8, 4),
    )

    def network(x):
        return jax.nn.relu(norm(x @ w + b) * scale + shift) @ end

    return network


def by_square(mean):
    """RMS norm with this mean over the channels."""
    return lambda h: h * lax.rsqrt(mean(h * h)[:, None] + SMALL)


def centred(mean):
    def norm(h):
        d = h - mean(h)
        return d * lax.rsqrt(mean(d * d) + SMALL)

    return norm


def over_axis(mean, *names):
    """Batch norm of one sample at a time, under vmap."""
    return jax.vmap(centred(lambda a: mean(a, "samples")), axis_name="samples")


def linen_batch_norm(h):
    layer = nn.BatchNorm(False, axis_name="samples", epsilon=SMALL, use_scale=False, use_bias=False)
    known = {"batch_stats": {"mean": jnp.zeros(8), "var": jnp.ones(8)}}
    return jax.vmap(
        lambda a: layer.apply(known, a, mutable=["batch_stats"])[0], axis_name="samples"
    )(h)


def equinox_batch_norm(h):
    make = eqx.nn.make_with_state(eqx.nn.BatchNorm)
    layer, state = make(8, axis_name="samples", mode="batch", eps=SMALL, channelwise_affine=False)
    return jax.vmap(lambda a: layer(a, state)[0], axis_name="samples")(h)


def guarded(h):
    v = (h * h).mean(-1, keepdims=True) + SMALL
    return jnp.where(v > 0, h / jnp.sqrt(v), 0)


RMS = by_square(lambda q: q.mean(-1))
OF_BATCH = centred(lambda h: h.mean(0))
GROUPS = jnp.repeat(jnp.arange(5), 8)
NORMS = {
    "pmean": (over_axis(lax.pmean), OF_BATCH),
    "psum": (over_axis(lambda a, name: lax.psum(a, name) / 5), OF_BATCH),
    "linen.BatchNorm": (linen_batch_norm, OF_BATCH),
    "eqx.nn.BatchNorm": (equinox_batch_norm, OF_BATCH),
    "sum of pieces": (by_square(lambda q: sum(jnp.unstack(q, axis=-1)) / 8), RMS),
    "segment_sum": (by_square(lambda q: jax.ops.segment_sum(q.ravel(), GROUPS, 5) / 8), RMS),
    "mean of means": (by_square(lambda q: q.reshape(5, 2, 4).mean(-1).mean(-1)), RMS),
    "nanmean": (by_square(lambda q: jnp.nanmean(q, -1)), RMS),
    "convolution": (
        by_square(lambda q: jax.vmap(lambda a: jnp.convolve(a, jnp.ones(8) / 8, "valid"))(q)[:, 0]),
        RMS,
    ),
    "sums of functions of pieces, said as a guess": (
        centred(lambda h: sum(h[:, i : i + 1] for i in range(8)) / 8),
        centred(lambda h: h.mean(-1, keepdims=True)),
    ),
    "h / v * sqrt(v)": (
        lambda h: (lambda v: h / v * jnp.sqrt(v))((h * h).mean(-1, keepdims=True) + SMALL),
        RMS,
    ),
    "where(v > 0, ...)": (guarded, RMS),
    "nan_to_num": (lambda h: jnp.nan_to_num(RMS(h)), RMS),
}


@pytest.mark.parametrize("name", NORMS)
def test_norms(name: str):
    spelt, plain = NORMS[name]
    guessed = "guess" in name  # and its sums are no averages for EpsilonPlusFlat
    said = pytest.warns(UserWarning, match="lrp guessed") if guessed else nullcontext()
    rules = [rule for rule in RULES if not (guessed and rule == "EpsilonPlusFlat")]
    with said:
        assert_same(normalised(spelt), normalised(plain), drawn(5, 5, 6), rules)


def test_a_pooled_value_is_no_statistic_of_itself():
    first, end = drawn(0, 6, 8), drawn(1, 8, 3)

    def network(activation):
        return lambda x: activation(OF_BATCH(jnp.tanh(x @ first).mean(1))) @ end

    assert_same(network(lambda s: s * jax.nn.sigmoid(s)), network(jax.nn.silu), drawn(5, 4, 3, 6))


def attention(softmax):
    query, key, value, end = (drawn(i, 6, 6) / 2 for i in range(4))

    def network(x):
        weights = softmax((x @ query) @ (x @ key).swapaxes(1, 2))
        return (weights @ (x @ value)).mean(1) @ end[:, :3]

    return network


def total(e):
    return e.sum(-1, keepdims=True)


SOFTMAXES = {
    "e * exp(-log(sum))": lambda e: e * jnp.exp(-jnp.log(total(e))),
    "e * sum ** -1.0": lambda e: e * total(e) ** -1.0,
    "e / cumsum": lambda e: e / jnp.cumsum(e, -1)[..., -1:],
    "e / (e0 + e1 + e2 + e3)": lambda e: e / sum(e[..., i : i + 1] for i in range(4)),
    "e / (e @ 1)": lambda e: e / (e @ jnp.ones((4, 1))),
}


@pytest.mark.parametrize("name", SOFTMAXES)
def test_softmaxes(name: str):
    assert_same(
        attention(lambda s: SOFTMAXES[name](jnp.exp(s - s.max(-1, keepdims=True)))),
        attention(jax.nn.softmax),
        drawn(5, 2, 4, 6),
    )


def test_an_expert_that_the_input_chooses_is_a_layer():
    first, router, experts, end = drawn(0, 5, 8), drawn(1, 8, 4), drawn(2, 4, 8, 8), drawn(3, 8, 3)

    def network(chosen):
        return lambda x: jax.nn.relu(chosen(jnp.tanh(x @ first))).mean(1) @ end

    def by_weights(h):
        return jnp.einsum("bti,btio->bto", h, experts[(h @ router).argmax(-1)])

    def by_outputs(h):
        index = (h @ router).argmax(-1)[..., None, None]
        return jnp.take_along_axis(jnp.einsum("bti,eio->bteo", h, experts), index, 2)[:, :, 0]

    assert_same(network(by_weights), network(by_outputs), drawn(5, 2, 4, 5))


def test_the_samples_are_found_behind_a_turned_convolution():
    kernel, end = drawn(0, 3, 3, 3, 4), drawn(1, 4, 3)
    numbers = ("NHWC", "HWIO", "NHWC")
    flat = centred(lambda h: h.reshape(-1, 4).mean(0))

    def rows(h):  # the samples' axis is lost here
        return h.transpose(3, 0, 1, 2).reshape(4, -1)

    def by_rows(h):
        d = h - h.mean((0, 1, 2))
        return d * lax.rsqrt((rows(d) ** 2).mean(1) + SMALL)

    def network(norm):
        def f(x):
            h = lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=numbers)
            return (h + norm(h)).mean((1, 2)) @ end

        return f

    x = drawn(5, 2, 6, 6, 3)
    seed = drawn(6, 2, 3)
    turned = lrp.vjp(lambda y: network(by_rows)(y.T), x.T, rules=lrp.ISNetFlex())[1](seed)
    right = lrp.vjp(network(flat), x, rules=lrp.ISNetFlex())[1](seed)
    np.testing.assert_allclose(turned.T, right, atol=1e-12)


def test_a_tree_that_is_read_once_costs_the_names_only():
    def explained(explain):
        layer, state = eqx.nn.make_with_state(eqx.nn.BatchNorm)(6, axis_name="b", mode="batch")
        return explain(lambda x: jax.vmap(lambda a: layer(a, state)[0], axis_name="b")(x))

    x = drawn(0, 5, 6)
    logits = explained(lambda f: lrp.vjp(f, x, rules=lrp.ZPlus())[0])
    np.testing.assert_allclose(logits, explained(lambda f: jax.vjp(f, x)[0]))


def test_what_is_refused_says_why():
    w, x = drawn(0, 6, 8), drawn(1, 5, 6)
    with pytest.raises(UserError, match="complex numbers, which have no sign"):
        lrp.vjp(lambda x: ((x + 0j) @ (w + 0j)).real, x, rules=lrp.ZPlus())
    with pytest.raises(UserError, match=r"float8_e4m3fn; relevance needs .* 16 bits or more"):
        lrp.vjp(lambda x: x.astype(float) @ w, x.astype(jnp.float8_e4m3fn), rules=lrp.ZPlus())
    layers = nnx.vmap(lambda rngs: nnx.Linear(6, 6, rngs=rngs))(nnx.Rngs(0).split(3))
    steps = nnx.scan(lambda layer, h: layer(h), in_axes=(0, nnx.Carry), out_axes=nnx.Carry)
    with pytest.raises(UserError, match="f changes a Flax model that it captures"):
        lrp.vjp(lambda x: steps(layers, x), x, rules=lrp.ZPlus())


def test_a_convolution_as_a_sum_of_rolls_is_said():
    kernel = drawn(0, 3, 4, 4)

    def f(x):
        return sum(jnp.roll(x, 1 - i, 1) @ kernel[i] for i in range(3)).mean(1)

    with pytest.warns(UserWarning, match="a sum of layers of the pieces of one value"):
        lrp.vjp(f, drawn(1, 2, 6, 4), rules=lrp.ZPlus())


def test_a_scale_in_branches_before_other_layers_is_refused():
    first, gate, end = drawn(0, 6, 8), drawn(1, 8), drawn(2, 8, 3)

    def network(x, scale):
        h = x @ first
        return lax.cond(gate.sum() > 0, lambda h: scale(h) @ end, lambda h: -scale(h) @ end, h)

    x = drawn(3, 2, 6)
    with pytest.raises(UserError, match="belong together, but one of them is in the branches"):
        lrp.vjp(lambda x: network(x, lambda h: h * gate), x, rules=lrp.ZPlus())
    lrp.vjp(lambda x: network(x, lambda h: 2 * h), x, rules=lrp.ZPlus())
    lrp.vjp(lambda x: network(x, jax.nn.relu), x, rules=lrp.ZPlus())


def test_deep_and_doubling_programs_are_planned_in_time():
    weights = [drawn(i, 4, 4) for i in range(120)]

    def leaky(x):
        for w in weights:
            x = jax.nn.leaky_relu(x @ w)
        return x

    def batch_norms(x):
        for w in weights:
            x = jax.nn.relu(OF_BATCH(x @ w))
        return x

    def doubled(x):
        small = weights[0][:1, :1]
        for _ in range(60):
            small = small + small
        return x / jnp.sqrt((x * x).mean(-1, keepdims=True) + small)

    for f in (leaky, batch_norms, doubled):
        lrp.inspect(f, drawn(5, 2, 4), rules=lrp.ISNetFlex())
