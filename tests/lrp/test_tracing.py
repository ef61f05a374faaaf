"""What is traced when: models that change between calls."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from isnet_jax import UserError, lrp


class Scaled(nnx.Module):
    def __init__(self):
        self.weight = nnx.Param(jnp.ones((4, 3)))
        self.factor = 1.0

    def __call__(self, x):
        return jax.nn.relu(x @ self.weight[...]) * self.factor


def test_a_model_that_was_changed_in_place_is_explained_as_it_is():
    model, x = Scaled(), jnp.ones((2, 4))
    for change, expected in (
        (lambda: None, 4.0),
        (lambda: setattr(model, "factor", 2.0), 8.0),
        (lambda: model.weight.set_value(jnp.zeros((4, 3))), 0.0),
    ):
        change()
        logits, relevance = lrp.relevance(model, x, target=0, rules=lrp.Epsilon(0.0))
        assert logits[0, 0] == expected
        assert relevance[0].sum() == expected


@pytest.mark.parametrize("explain", [lrp.vjp, lrp.inspect])
@pytest.mark.parametrize(
    ("layer", "state"),
    [
        (nnx.BatchNorm(3, rngs=nnx.Rngs(0)), "BatchStat"),
        (nnx.Dropout(0.5, rngs=nnx.Rngs(0)), "Rng"),
        (nnx.Dropout(0.5, rngs=nnx.Rngs(0)), "counters of random numbers, as nnx.RNN's, in every"),
    ],
)
def test_a_model_in_train_mode_is_an_error_that_tells_the_way(layer, state, explain):
    x = jax.random.normal(jax.random.key(0), (4, 3))
    layer.train()
    with pytest.raises(UserError, match=rf"{state}.*model.eval\(\).*nnx.split.*has_aux=True"):
        explain(layer, x, rules=lrp.Epsilon(0.1))


def test_the_way_out_of_train_mode():
    x = jax.random.normal(jax.random.key(0), (4, 3))
    model = nnx.BatchNorm(3, rngs=nnx.Rngs(0))
    graph, state = nnx.split(model)

    def f(x):
        copy = nnx.merge(graph, state, copy=True)
        return copy(x), nnx.state(copy)

    value, pullback, new = lrp.vjp(f, x, rules=lrp.Epsilon(0.1), has_aux=True)
    assert pullback(value).shape == x.shape
    np.testing.assert_allclose(value, model(x), rtol=1e-6)
    np.testing.assert_allclose(new["mean"][...], model.mean[...], rtol=1e-6)
