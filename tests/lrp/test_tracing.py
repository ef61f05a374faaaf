"""What is traced when: models that change between calls."""

import jax
import jax.numpy as jnp
from flax import nnx

from isnet_jax import lrp


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
