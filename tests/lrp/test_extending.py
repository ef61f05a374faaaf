"""A new primitive is one entry of the table, a new rule one class with one method."""

import dataclasses

import jax
import jax.extend as jex
import jax.numpy as jnp
import numpy as np
import pytest
from jax.interpreters import ad, batching, mlir

from isnet_jax import UserError, lrp
from isnet_jax.lrp.trace import primitives

W = np.random.default_rng(0).standard_normal((6, 8)).astype(np.float32)
U = np.random.default_rng(1).standard_normal((8, 3)).astype(np.float32)
X = np.random.default_rng(2).uniform(size=(4, 6)).astype(np.float32)

bump_p = jex.core.Primitive("bump")
bump_p.def_impl(jnp.tanh)
bump_p.def_abstract_eval(lambda x: x)
ad.defjvp(bump_p, lambda t, x: t * (1 - bump_p.bind(x) ** 2))
batching.defvectorized(bump_p)
mlir.register_lowering(bump_p, mlir.lower_fun(jnp.tanh, multiple_results=False))


def network(act):
    w, u = jnp.asarray(W), jnp.asarray(U)
    return lambda x: act(x @ w) @ u


def heatmap(f, rules):
    return lrp.relevance(f, jnp.asarray(X), target=0, rules=rules)[1]


@pytest.mark.parametrize("rules", [lrp.AttnLRP(), lrp.Epsilon(1e-2)], ids=["AttnLRP", "Epsilon"])
def test_a_primitive_in_the_table_is_explained_as_its_twin(monkeypatch, rules):
    f = network(bump_p.bind)
    with pytest.raises(UserError, match="'bump'"):
        heatmap(f, rules)
    entry = primitives.Primitive("bends", True, values=lambda params, x: np.tanh(x))
    monkeypatch.setitem(primitives.TABLE, "bump", entry)
    np.testing.assert_allclose(heatmap(f, rules), heatmap(network(jnp.tanh), rules), rtol=1e-5)


@dataclasses.dataclass(frozen=True)
class Halved(lrp.Rule):
    def scale(self, x, y):
        return jnp.full_like(y, 0.5)


def test_a_rule_is_one_class_with_one_method():
    f = network(jax.nn.relu)
    found = heatmap(f, lrp.Composite(layer=Halved()))
    np.testing.assert_allclose(found, heatmap(f, lrp.Composite()) / 4, rtol=1e-5)
