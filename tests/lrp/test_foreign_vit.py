"""A Vision Transformer that somebody else wrote (equimo's, in Equinox), unmodified."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from isnet_jax import lrp

try:
    from equimo.core.layers.attention import Attention
    from equimo.vision.models import VisionTransformer
except ModuleNotFoundError:  # before version 2
    from equimo.layers.attention import Attention
    from equimo.models import VisionTransformer

pytestmark = pytest.mark.usefixtures("x64")

RULES = {"attention": lrp.AttnLRP(), "flex": lrp.Epsilon(0.5), "gradient": lrp.Epsilon(0.0)}


def made(**options):
    """A tiny one: 2x2 patches, a class token, four registers, one block."""
    sizes = {"img_size": 4, "in_channels": 3, "patch_size": 2, "dim": 8, "num_heads": 2}
    model = VisionTransformer(**sizes, depths=[1], num_classes=3, key=jax.random.key(0), **options)
    return eqx.nn.inference_mode(model)


def on_batches(model):
    key = jax.random.key(0)
    return jax.vmap(lambda x: model(x, key=key, inference=True))


def images():
    return jax.random.uniform(jax.random.key(1), (2, 3, 4, 4), float)


MODELS = {
    "learned positions": {},
    "rotary positions, gated, scaled": {
        "use_local_pos_embed": True,
        "ffn_layer": "swiglu",
        "init_values": 0.1,
        "qk_norm": True,
    },
    "maximum over tokens": {"norm_layer": "rmsnorm", "global_pool": "avgmax"},
}


@pytest.mark.parametrize("options", MODELS)
def test_nothing_is_unsupported_and_the_logits_are_bit_equal(options):
    f, x = on_batches(made(**MODELS[options])), images()
    with jax.disable_jit():  # op by op, as `lrp.vjp` evaluates: XLA rounds otherwise where it fuses
        expected = f(x)
    for rules in RULES.values():
        table = lrp.inspect(f, x, rules=rules, strict=True)
        assert not table.unsupported
        assert {"blocks/0/blocks/0/attn/qkv", "head"} <= {row.name for row in table}
    np.testing.assert_array_equal(lrp.vjp(f, x, rules=lrp.AttnLRP())[0], expected)


# The same network, written so that its plain gradient times the input is AttnLRP.


def frozen(value):
    return lax.stop_gradient(value)


def passing_gelu(x):
    return x * frozen(jax.nn.gelu(x) / x)


def halved(product, a, b):
    return (jnp.einsum(product, a, frozen(b)) + jnp.einsum(product, frozen(a), b)) / 2


class HalvedAttention(Attention):
    def __call__(self, x, key, inference=None, **_):
        qkv = jax.vmap(self.qkv)(x).reshape(len(x), 3, self.num_heads, self.head_dim)
        q, k, v = qkv.transpose(1, 2, 0, 3)
        scores = halved("hqd,hkd->hqk", q, k) / np.sqrt(self.head_dim)
        weights = jax.nn.softmax(scores.astype(jnp.float32)).astype(x.dtype)
        return jax.vmap(self.proj)(
            halved("hqk,hkd->hqd", weights, v).swapaxes(0, 1).reshape(x.shape)
        )


class FrozenScaleNorm(eqx.nn.LayerNorm):
    def __call__(self, x):
        scale = lax.rsqrt(x.var() + self.eps)
        return (x - x.mean()) * frozen(scale) * self.weight + self.bias


def test_attnlrp_is_the_gradient_of_the_network_with_its_rules_written_in():
    x = images()
    surrogate = on_batches(
        made(act_layer=passing_gelu, attn_layer=HalvedAttention, norm_layer=FrozenScaleNorm)
    )
    expected, gradient = jax.vjp(surrogate, x)
    logits, pullback = lrp.vjp(on_batches(made()), x, rules=lrp.AttnLRP())
    np.testing.assert_allclose(logits, expected, rtol=1e-5)
    seed = jax.nn.one_hot(jnp.array([0, 2]), 3, dtype=float)
    relevance = x * gradient(seed)[0]
    # equimo's softmax is in float32.
    np.testing.assert_allclose(pullback(seed), relevance, atol=1e-6 * np.abs(relevance).max())


def test_its_feed_forward_block_conserves_relevance():
    block = made(ffn_bias=False).blocks[0].blocks[0].mlp
    tokens = jax.random.normal(jax.random.key(2), (5, 8), float)
    value, pullback = lrp.vjp(
        lambda x: block(x, jax.random.key(0), inference=True), tokens, rules=lrp.AttnLRP()
    )
    np.testing.assert_allclose(pullback(value).sum(), (value * value).sum(), rtol=1e-12)


@pytest.mark.parametrize("rules", ["attention", "flex"])
def test_the_gradient_of_a_heatmap_loss(rules):
    """By all weights along one direction; the step is wide because of the float32 softmax."""
    x = images()
    parameters, rest = eqx.partition(made(), eqx.is_inexact_array)
    keys = iter(jax.random.split(jax.random.key(3), 100))
    direction = jax.tree.map(
        lambda p: jax.random.normal(next(keys), p.shape, p.dtype) / 10, parameters
    )

    def loss(step):
        moved = jax.tree.map(lambda p, d: p + step * d, parameters, direction)
        _, relevance = lrp.relevance(
            on_batches(eqx.combine(moved, rest)), x, target=1, rules=RULES[rules]
        )
        return jnp.sum(jnp.sin(5 * relevance))

    both = jax.jit(jax.value_and_grad(loss))
    gradient = both(0.0)[1]
    step = 1e-3
    numeric = (both(step)[0] - both(-step)[0]) / (2 * step)
    assert abs(gradient) > 0.1
    np.testing.assert_allclose(gradient, numeric, rtol=2e-4)
