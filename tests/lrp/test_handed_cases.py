"""Programs that were once explained wrongly without a word: dependence, gradients, boundaries.

Each is compared with a plain twin: the same function, so the same relevance and gradients.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import pytest
from handed import P, X, assert_gradient_of_logits, assert_same, every_rule, gate, mlp
from jax import lax, nn
from jax.ad_checkpoint import checkpoint_name

from isnet_jax import lrp

pytestmark = [pytest.mark.usefixtures("x64"), pytest.mark.filterwarnings("ignore:lrp")]


# 1. Dependence belongs to each value, not to a whole operation.


def pair_by_scan(x, w):
    return lax.scan(lambda c, _: (c, None), (x, w), None, length=1)[0]


def pair_by_outputs(x, w):
    outputs = lax.scan(lambda c, a: (c, a), None, (x[None], w[None]))[1]
    return jax.tree.map(lambda a: a[0], outputs)


def same_pair(x, w):
    return x, w


PAIRS = {
    "optimization_barrier": lambda x, w: lax.optimization_barrier((x, w)),
    "device_put": lambda x, w: jax.device_put((x, w)),
    "jit": jax.jit(same_pair),
    "remat": jax.checkpoint(same_pair),
    "cond": lambda x, w: lax.cond(w.ravel()[0] < 99, same_pair, lambda x, w: (2 * x, w), x, w),
    "cond by x": lambda x, w: lax.cond(x.ravel()[0] < 99, same_pair, lambda x, w: (2 * x, w), x, w),
    "scan, carried": pair_by_scan,
    "scan, stacked": pair_by_outputs,
    "fori_loop": lambda x, w: lax.fori_loop(0, 1, lambda _, c: c, (x, w)),
}


@every_rule
@pytest.mark.parametrize("pair", PAIRS.values(), ids=PAIRS)
def test_a_parameter_beside_the_input_stays_a_parameter(pair, rules):
    def layer(p, x):
        x, w = pair(x, p["w"])
        return nn.relu(x @ w + p["b"]) @ p["u"]

    def gated(p, x):
        h, g = pair(jnp.tanh(x @ p["w"]), jnp.tanh(p["b"]))
        return (h * g) @ p["u"]

    for f, twin in ((layer, mlp), (gated, gate)):
        assert_same(lambda x, f=f: f(P, x), lambda x, twin=twin: twin(P, x), X, rules)
        assert_gradient_of_logits(f, P, X, rules)


# 2. The gradient of the logits is the model's own.


def rms(h):
    return h * lax.rsqrt((h * h).mean(-1, keepdims=True) + 1e-5)


def frozen_norm(p, x):
    return mlp(p, x) + rms(lax.stop_gradient(x) @ p["w"]) @ p["u"]


def looked_up(p, x):
    h = p["table"][jnp.argmax(x[:, :5], 1)]
    return mlp(p, x) + rms(h - h.mean(-1, keepdims=True)) @ p["w"] @ p["u"]


def rounded(p, x):
    return mlp(p, x) + nn.relu(jnp.round(x) @ p["w"]) @ p["u"]


def compared(p, x):
    return mlp(p, x) + nn.gelu((x > 0.5).astype(x.dtype) @ p["w"]) @ p["u"]


def two_carries(p, x):
    def step(c, _):
        return (nn.relu(c[0] @ p["q"]), jnp.tanh(c[1] @ p["q"])), None

    (h, g), _ = lax.scan(step, (x @ p["w"], p["b"]), None, length=2)
    return h @ p["u"] + nn.relu(g @ p["q"]) @ p["u"]


def frozen_gate(p, x):
    h = nn.relu(x @ p["w"])
    return (h * nn.sigmoid(lax.stop_gradient(h) @ p["q"])) @ p["u"]


SILENT_PARTS = [frozen_norm, looked_up, rounded, compared, two_carries, frozen_gate]


@every_rule
@pytest.mark.parametrize("f", SILENT_PARTS, ids=lambda f: f.__name__)
def test_the_gradient_of_the_logits_is_the_models_own(f, rules):
    assert_gradient_of_logits(f, P, X, rules)


# 3. What else the function returns changes nothing.


def batch_norm(p, x):
    h = x @ p["w"]
    mean = h.mean(0)
    variance = ((h - mean) ** 2).mean(0)
    y = nn.relu((h - mean) * lax.rsqrt(variance + 1e-5) + p["b"]) @ p["u"]
    return y, (0.1 * mean, 0.1 * variance, h)


def before_and_after(p, x):
    h = x @ p["w"]
    y = h + p["b"]
    return nn.relu(y) @ p["u"], {"before": h, "sum": y.sum(), "norm": jnp.sqrt((y * y).sum())}


@every_rule
@pytest.mark.parametrize("f", [batch_norm, before_and_after], ids=lambda f: f.__name__)
def test_auxiliary_outputs_change_nothing(f, rules):
    assert_same(lambda x: f(P, x), lambda x: f(P, x)[0], X, rules, has_aux=True)


# 4. Marks that nobody asked for are not there.

MARKS = {"tap": lrp.tap, "checkpoint_name": checkpoint_name}


@every_rule
@pytest.mark.parametrize("mark", MARKS.values(), ids=MARKS)
def test_marks_that_nobody_asked_for(mark, rules):
    def before_the_bias(p, x):
        return nn.relu(mark(x @ p["w"], "here") + p["b"]) @ p["u"]

    def on_parameters(p, x):
        return mlp({name: mark(value, name) for name, value in p.items()}, mark(x, "x"))

    def on_the_gate(p, x):
        return (jnp.tanh(x @ p["w"]) * jnp.tanh(mark(p["b"], "gate"))) @ p["u"]

    def on_moments(p, x):
        h = x @ p["w"]
        mean = mark(h.mean(0), "mean")
        variance = mark(h.var(0), "variance")
        return nn.relu((h - mean) * lax.rsqrt(variance + 1e-5) + p["b"]) @ p["u"]

    for f, twin in (
        (before_the_bias, mlp),
        (on_parameters, mlp),
        (on_the_gate, gate),
        (on_moments, lambda p, x: batch_norm(p, x)[0]),
    ):
        assert_same(lambda x, f=f: f(P, x), lambda x, twin=twin: twin(P, x), X, rules)


# 5. Boundaries are transparent, and no name has a meaning of its own.

BOUNDARIES = {
    "jit": jax.jit,
    "remat": jax.checkpoint,
    "remat of jit": lambda f: jax.checkpoint(jax.jit(f)),
}


@every_rule
@pytest.mark.parametrize("boundary", BOUNDARIES.values(), ids=BOUNDARIES)
def test_a_boundary_through_a_layer_or_a_norm(boundary, rules):
    def layer(p, x):
        return nn.relu(boundary(jnp.matmul)(x, p["w"]) + p["b"]) @ p["u"]

    def moments(p, x):
        h = x @ p["w"]
        mean, variance = boundary(lambda h: (h.mean(0), h.var(0)))(h)
        return nn.relu((h - mean) * lax.rsqrt(variance + 1e-5) + p["b"]) @ p["u"]

    def scale(p, x):
        h = x @ p["w"]
        mean = h.mean(0)
        factor = boundary(lambda h: lax.rsqrt(h.var(0) + 1e-5))(h)
        return nn.relu((h - mean) * factor + p["b"]) @ p["u"]

    norm = lambda p, x: batch_norm(p, x)[0]  # noqa: E731
    for f, twin in ((layer, mlp), (moments, norm), (scale, norm)):
        assert_same(lambda x, f=f: f(P, x), lambda x, twin=twin: twin(P, x), X, rules)


@every_rule
def test_a_value_called_batch_statistics_is_a_value(rules):
    def f(x):
        h = checkpoint_name(x @ P["w"], "batch_statistics")
        return nn.relu(h + P["b"]) @ P["u"]

    assert_same(f, lambda x: mlp(P, x), X, rules)
