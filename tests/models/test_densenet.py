"""DenseNet's shared batch statistics: computed once for all readers, the same as by each reader."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from helpers import of_parameters

from isnet_jax import ISNetConfig, isnet_loss, lrp
from isnet_jax.models import densenet

pytestmark = pytest.mark.usefixtures("x64")


@pytest.fixture(params=["shared", "remat"])
def both(request, monkeypatch):
    """Calls a function with the network whose norms measure for themselves, and with another."""

    def run(f):
        with monkeypatch.context() as alone:
            alone.setattr(densenet, "features_for", lambda _, x: densenet.Features(x, None))
            expected = f(network())
        return f(network(remat=request.param == "remat")), expected

    return run


def network(*, remat: bool = False) -> densenet.DenseNet:
    model = densenet.DenseNet(3, depths=(2, 1), growth=4, stem=6, remat=remat, rngs=nnx.Rngs(0))
    draw = np.random.default_rng(0)
    for _, variable in nnx.to_flat_state(nnx.state(model, nnx.BatchStat)):
        variable.set_value(jnp.asarray(draw.uniform(0.5, 1.5, variable.shape)))
    return model


def images() -> jax.Array:
    return jnp.asarray(np.random.default_rng(1).random((3, 16, 16, 3)))


def assert_same(found, expected):
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("train", [True, False])
def test_logits_and_running_statistics_are_those_of_norms_on_their_own(train, both):
    def found(model):
        (model.train if train else model.eval)()
        graph, state = nnx.split(model)

        @jax.jit
        def run(state, x):
            copy = nnx.merge(graph, state, copy=True)
            return copy(x), nnx.to_pure_dict(nnx.state(copy, nnx.BatchStat))

        return run(state, images())

    assert_same(*both(found))


@pytest.mark.parametrize("statistics", ["gradient", "constant"])
def test_relevance_and_the_step_are_those_of_norms_on_their_own(statistics, both):
    config = ISNetConfig(batch_stats=statistics, variant="selective")
    batch = {
        "image": images(),
        "mask": jnp.zeros((3, 16, 16, 1)).at[:, 4:10, 4:10].set(1),
        "label": jnp.arange(3),
    }

    def found(model):
        model.train()
        loss, parameters = of_parameters(model, lambda model: isnet_loss(model, batch, config))
        (value, aux), gradient = jax.jit(jax.value_and_grad(loss, has_aux=True))(parameters)
        return value, aux["heatmaps"], nnx.to_pure_dict(gradient)

    assert_same(*both(found))


def test_lrp_recognises_the_statistics_of_concatenated_maps():
    model = network()
    model.train()
    graph, state = nnx.split(model)
    table = lrp.inspect(
        lambda x: nnx.merge(graph, state, copy=True)(x),
        images(),
        rules=lrp.ISNetFlex(batch_statistics="constant"),
    )
    kinds = [row.name for row in table if row.kind == "statistics"]
    norms = sum(type(module).__name__ == "BatchNorm" for _, module in nnx.iter_modules(model))
    assert kinds == ["batch"] * 2 * norms
