"""A fault in each mechanism of the engine is found by the twins: one fault at a time."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from handed import P, X, assert_gradient_of_logits, assert_same, mlp
from jax import lax

from isnet_jax import lrp
from isnet_jax.lrp import program
from isnet_jax.lrp.plan import planner
from isnet_jax.lrp.plan.weights import Weights
from isnet_jax.lrp.run import cotangents
from isnet_jax.lrp.trace import builder, dependence, norms
from isnet_jax.lrp.trace.batch import Place, Samples
from isnet_jax.lrp.trace.dependence import Flow

pytestmark = [pytest.mark.usefixtures("x64"), pytest.mark.filterwarnings("ignore:lrp")]

ZPLUS, ATTENTION = lrp.ZPlus(), lrp.AttnLRP()
BOX = lrp.ISNetFlex(first=lrp.ZBox(0.0, 1.0))


def barrier(x):
    x, w = lax.optimization_barrier((x, P["w"]))
    return jax.nn.relu(x @ w + P["b"]) @ P["u"]


def marked(x):
    return jax.nn.relu(lrp.tap(x @ P["w"], "here") + P["b"]) @ P["u"]


def rms(x):
    h = x @ P["w"]
    return (h * lax.rsqrt((h * h).mean(-1, keepdims=True) + 1e-5)) @ P["u"]


def rms_by_power(x):
    h = x @ P["w"]
    return (h * ((h * h).mean(-1, keepdims=True) + 1e-5) ** -0.5) @ P["u"]


def by_hand(x):
    h = x @ P["w"]
    return jnp.where(h + P["b"] > 0, h + P["b"], 0) @ P["u"]


def mixed(x):
    return mlp(P, x @ (jnp.eye(6) * 0.5 + 0.1))


def remat_layer(x):
    return jax.nn.relu(jax.checkpoint(jnp.matmul)(x, P["w"]) + P["b"]) @ P["u"]


def sample_norm(x):
    """One sample, (3, 6): its norm is no batch norm."""
    h = x @ P["w"]
    mean, variance = h.mean(0), h.var(0)
    return jax.nn.relu((h - mean) * lax.rsqrt(variance + 1e-5)).mean(0) @ P["u"]


def softmax(x):
    h = x @ P["w"]
    return jax.nn.softmax(h) @ P["u"]


def caught(check, *arguments):
    """Whether a check fails, or the program is refused."""
    try:
        check(*arguments)
    except Exception:
        return True
    return False


def whole_operations(operation, flags, *_, **__):
    return [any(flags) for _ in operation.outputs]


FAULTS = {
    "dependence of a whole operation": (
        lambda m: m.setattr(dependence, "dependent_outputs", whole_operations),
        (barrier, lambda x: mlp(P, x), X, ZPLUS),
    ),
    "marks end folding": (
        lambda m: m.setattr(
            Flow, "is_identity", lambda self, op: op.name not in ("name",) and op.name == "copy"
        ),
        (marked, lambda x: mlp(P, x), X, ZPLUS),
    ),
    "norms by rsqrt only": (
        lambda m: m.setattr(norms._Finder, "scales", lambda self: iter(())),
        (rms, lambda x: lrp_free_rms(x), X, ATTENTION),
    ),
    "activations by name only": (
        lambda m: m.setattr(planner, "find_activation", lambda operation, flow: None),
        (by_hand, lambda x: mlp(P, x), X, BOX),
    ),
    "checkpoints stay closed": (
        lambda m: m.setattr(
            builder._Builder,
            "_checkpoint",
            lambda self, equation, inputs: self._append(equation, inputs, "remat2"),
        ),
        (remat_layer, lambda x: mlp(P, x), X, ZPLUS),
    ),
}


def lrp_free_rms(x):
    """`rms` with its scale as a constant: what the rule says."""
    h = x @ P["w"]
    scale = lax.rsqrt((h * h).mean(-1, keepdims=True) + 1e-5)
    return (h * lrp.mark(scale, "constant")) @ P["u"]


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_is_caught(name, monkeypatch):
    seed, arguments = FAULTS[name]
    assert not caught(assert_same, *arguments)
    seed(monkeypatch)
    assert caught(assert_same, *arguments)


def test_a_matrix_that_the_program_makes_taken_for_a_layer(monkeypatch):
    rules = lrp.EpsilonPlusFlat()

    def first_layers():
        return [row.where for row in lrp.inspect(mixed, X, rules=rules) if "Flat" in row.rule]

    right = first_layers()
    monkeypatch.setattr(Weights, "origin", lambda self, operand: "parameter")
    assert len(right) == 1
    assert first_layers() != right


def test_axis_0_taken_for_the_samples(monkeypatch):
    def check():
        x, seed = jnp.stack([X, X[::-1]]), jnp.array([1.0, 0, 0, 0])
        one = jax.vmap(lambda x: lrp.vjp(sample_norm, x, rules=ATTENTION)[1](seed))(x)
        seeds = jnp.broadcast_to(seed, (2, 4))
        both = lrp.vjp(jax.vmap(sample_norm), x, rules=ATTENTION)[1](seeds)
        np.testing.assert_allclose(one, both, rtol=1e-9, atol=1e-12)

    check()
    monkeypatch.setattr(
        program,
        "_find_samples",
        lambda graph, wanted, depends, axis, context: Samples(
            graph, context.bodies, dict.fromkeys(graph.inputs, Place(0))
        ),
    )
    assert caught(check)


def test_auxiliary_outputs_are_live(monkeypatch):
    def with_auxiliary(x):
        h = x @ P["w"]
        return jax.nn.relu(h + P["b"]) @ P["u"], h

    def check():
        logits, pullback, _ = lrp.vjp(with_auxiliary, X, rules=ZPLUS, has_aux=True)
        _, expected = lrp.vjp(lambda x: mlp(P, x), X, rules=ZPLUS)
        np.testing.assert_allclose(pullback(logits), expected(logits), rtol=1e-9, atol=1e-12)

    check()
    make = planner.make_plan
    monkeypatch.setattr(
        program,
        "make_plan",
        lambda graph, inputs, wanted, *rest: make(graph, inputs, graph.outputs, *rest),
    )
    assert caught(check)


def test_the_outer_pass_cannot_reach_a_rule_even_if_the_planner_errs(monkeypatch):
    """Sites on values that carry nothing: harmless with the token, a wrong gradient without."""

    def looked_up(p, x):
        still = jnp.asarray(p["table"])[jnp.argmax(x[:, :5], 1)]
        return mlp(p, x) + jax.nn.relu(still @ p["w"]) @ p["u"]

    def everything(graph, sources, bodies, cuts=(), *, differentiable=False):
        return reach(graph, sources, bodies, cuts)

    arguments = (looked_up, P, X, lrp.Epsilon(0.5))
    reach = dependence.reach
    monkeypatch.setattr(dependence, "reach", everything)
    assert_gradient_of_logits(*arguments)
    monkeypatch.setattr(cotangents.Attach, "__init__", without_token)
    assert caught(assert_gradient_of_logits, *arguments)


def without_token(self, token):
    self.token = jnp.zeros(())


def test_a_custom_derivative_that_only_the_inner_pass_takes(monkeypatch):
    @jax.custom_jvp
    def straight_through(s):
        return jnp.round(s)

    straight_through.defjvp(lambda p, t: (jnp.round(*p), t[0]))

    def f(p, x):
        return straight_through(x @ p["w"]) @ p["u"]

    assert_gradient_of_logits(f, P, X, ATTENTION)
    monkeypatch.setattr(planner._Planner, "_has_own_derivative", lambda self, operation: False)
    assert caught(assert_gradient_of_logits, f, P, X, ATTENTION)


def test_a_softmax_that_is_not_recognised(monkeypatch):
    def check():
        relevance = lrp.relevance(softmax, X, target=0, rules=ATTENTION)[1]
        gradient = jax.grad(lambda x: softmax(x)[:, 0].sum())(X)
        np.testing.assert_allclose(relevance, X * gradient, rtol=1e-9, atol=1e-12)

    check()
    monkeypatch.setattr(planner, "find_softmax", lambda operation, flow: None)
    assert caught(check)
