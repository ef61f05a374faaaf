"""One engine for every framework: equal weights, equal heatmaps."""

from __future__ import annotations

import functools

import golden_values
import jax
import pytest
import small_copies
from flax import nnx
from helpers import relative_error

from isnet_jax import lrp

pytestmark = pytest.mark.usefixtures("x64")

COPIES = {
    "plain jnp": small_copies.plain,
    "NNX": small_copies.flax_nnx,
    "Linen": small_copies.linen,
    "Equinox": small_copies.equinox,
    "Haiku": small_copies.haiku,
}
RULES = {
    "Flex": lrp.Epsilon(1e-2),
    "Flex with z^B": lrp.ISNetFlex(first=lrp.ZBox(0.0, 1.0)),
    "Gradient*Input": lrp.Epsilon(0.0),
}


def images() -> jax.Array:
    return golden_values.drawn_batch(2, 3, 8, small_copies.CLASSES)["image"]


def explained(network, rules):
    return jax.jit(lambda x: lrp.relevance(network, x, target=2, rules=rules))(images())


def own(train: bool):
    graph, state = nnx.split(small_copies.own(train))
    return lambda x: nnx.merge(graph, state, copy=True)(x)


@functools.cache
def expected(rules: str):
    with jax.enable_x64(True):
        return explained(own(train=False), RULES[rules])


@pytest.mark.parametrize("rules", RULES)
@pytest.mark.parametrize("copy", COPIES)
def test_the_same_heatmap(copy, rules):
    network = COPIES[copy](small_copies.weights_of(small_copies.own()))
    logits, relevance = explained(network, RULES[rules])
    expected_logits, expected_relevance = expected(rules)
    assert relative_error(logits, expected_logits) < 1e-12
    assert relative_error(relevance, expected_relevance) < 1e-6


@pytest.mark.parametrize("statistics", ["constant", "gradient"])
@pytest.mark.parametrize("copy", ["NNX", "Linen"])
def test_the_same_heatmap_with_the_frameworks_own_batch_norm_in_train_mode(copy, statistics):
    rules = lrp.ISNetFlex(first=lrp.ZBox(0.0, 1.0), batch_statistics=statistics)
    network = COPIES[copy](small_copies.weights_of(small_copies.own()), train=True)
    logits, relevance = explained(network, rules)
    expected_logits, expected_relevance = explained(own(train=True), rules)
    assert relative_error(logits, expected_logits) < 1e-10
    assert relative_error(relevance, expected_relevance) < 1e-6


@pytest.mark.parametrize("copy", ["plain jnp", "NNX", "Linen", "Equinox"])
def test_layers_have_names(copy):
    network = COPIES[copy](small_copies.weights_of(small_copies.own()))
    table = lrp.inspect(network, images(), rules=RULES["Flex"])
    names = " ".join(row.name for row in table if row.kind == "layer")
    for layer in ("conv1", "conv2", "conv3"):
        assert layer in names
