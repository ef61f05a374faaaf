"""Programs that were once explained wrongly without a word, and their relatives.

Each is compared with a plain twin: the same function, so the same relevance and gradients.
"""

from __future__ import annotations

import flax.linen as linen
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax import lax, nn
from jax.ad_checkpoint import checkpoint_name
from twins.evaluating import Traced

from isnet_jax import UserError, lrp

pytestmark = [pytest.mark.usefixtures("x64"), pytest.mark.filterwarnings("ignore:lrp")]

RULES = {
    "Epsilon": lrp.Epsilon(1e-2),
    "ZPlus": lrp.ZPlus(),
    "ISNetFlex, z^B": lrp.ISNetFlex(first=lrp.ZBox(0.0, 1.0)),
    "EpsilonPlusFlat": lrp.EpsilonPlusFlat(),
    "AttnLRP": lrp.AttnLRP(),
    "GuidedBackprop": lrp.GuidedBackprop(),
}
every_rule = pytest.mark.parametrize("rules", RULES.values(), ids=RULES)
SMOOTH = {name: RULES[name] for name in ("Epsilon", "AttnLRP")} | {
    "EpsilonPlus": lrp.EpsilonPlus(),
    "ISNetFlex": lrp.ISNetFlex(),
}
smooth_rules = pytest.mark.parametrize("rules", SMOOTH.values(), ids=SMOOTH)


def normal(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape)


def uniform(*shape, seed=0):
    return np.random.default_rng(seed).uniform(size=shape)


P = {
    "w": normal(6, 8, seed=1),
    "b": 0.3 * normal(8, seed=2),
    "u": normal(8, 4, seed=3),
    "q": 0.4 * normal(8, 8, seed=4),
    "table": normal(5, 6, seed=5),
}
X = uniform(3, 6)


def heatmap(f, x, rules, **options):
    """Relevance of a fixed mixture of f's outputs at x."""

    def explain(x):
        output, pullback = lrp.vjp(f, x, rules=rules, **options)[:2]
        return pullback(normal(*output.shape, seed=99))

    return Traced(explain, x)(x)


def assert_same(f, twin, x, rules, *, limit=1e-9, **options):
    found, expected = heatmap(f, x, rules, **options), heatmap(twin, x, rules)
    for a, b in zip(*map(jax.tree.leaves, (found, expected)), strict=True):
        assert np.abs(a - b).max() <= limit * np.abs(b).max()


def assert_gradient_of_logits(f, p, x, rules):
    """The gradient by parameters of the logits that `lrp.vjp` returns is the model's own."""

    def explained(p):
        return (lrp.vjp(lambda x: f(p, x), x, rules=rules)[0] ** 2).sum()

    found = Traced(jax.grad(explained), p)(p)
    expected = Traced(jax.grad(lambda p: (f(p, x) ** 2).sum()), p)(p)
    scale = max(np.abs(leaf).max() for leaf in jax.tree.leaves(expected))
    for a, b in zip(*map(jax.tree.leaves, (found, expected)), strict=True):
        assert np.abs(a - b).max() <= 1e-9 * scale


def mlp(p, x):
    return nn.relu(x @ p["w"] + p["b"]) @ p["u"]


def gate(p, x):
    return (jnp.tanh(x @ p["w"]) * jnp.tanh(p["b"])) @ p["u"]


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


# 7 and 16. Axis 0 is not the batch because it is the first one.


@smooth_rules
def test_a_channels_first_layer_norm_of_one_sample(rules):
    kernel, head, x = normal(6, 3, seed=1), normal(6, 4, seed=2), uniform(3, 5, 5)

    def net(axis):
        def f(x):
            h = jnp.moveaxis(jnp.tensordot(kernel, jnp.moveaxis(x, axis, 0), (1, 0)), 0, axis)
            h = h - h.mean(axis, keepdims=True)
            h = nn.relu(h * lax.rsqrt((h * h).mean(axis, keepdims=True) + 1e-5))
            return jnp.moveaxis(h, axis, -1).mean((0, 1)) @ head

        return f

    def last(x):
        return net(-1)(jnp.moveaxis(x, 0, -1))

    assert_same(net(0), last, x, rules)


def plus_its_mean(s):
    h = s @ P["w"]
    return nn.relu(h + h.mean(0)).mean(0) @ P["u"]


def instance_norm(s):
    h = s @ P["w"]
    mean = h.mean(0)
    return nn.relu((h - mean) * lax.rsqrt(((h - mean) ** 2).mean(0) + 1e-5)).mean(0) @ P["u"]


def attended(s):
    h = s @ P["w"]
    return (nn.softmax(h @ h.T) @ h).mean(0) @ P["u"]


@smooth_rules
@pytest.mark.parametrize("f", [plus_its_mean, instance_norm, attended], ids=lambda f: f.__name__)
def test_vmap_of_vjp_is_vjp_of_vmap(f, rules):
    x, seed = uniform(2, 5, 6), normal(2, 4, seed=9)

    def inside(x):
        return jax.vmap(lambda x, s: lrp.vjp(f, x, rules=rules)[1](s))(x, seed)

    def outside(x):
        return lrp.vjp(jax.vmap(f), x, rules=rules)[1](seed)

    found, expected = Traced(inside, x)(x), Traced(outside, x)(x)
    assert np.abs(found - expected).max() <= 1e-9 * np.abs(expected).max()


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


# 9. A user's derivative is the model's.


@jax.custom_jvp
def hard(s):
    return nn.one_hot(jnp.argmax(s, -1), s.shape[-1], dtype=s.dtype)


@hard.defjvp
def _(primals, tangents):
    return hard(*primals), jax.jvp(nn.softmax, primals, tangents)[1]


@jax.custom_jvp
def straight_through(s):
    return jnp.round(s)


@straight_through.defjvp
def _(primals, tangents):
    return jnp.round(*primals), tangents[0]


@jax.custom_jvp
def normalised(s):
    return s / jnp.sqrt((s * s).sum(-1, keepdims=True))


@normalised.defjvp
def _(primals, tangents):
    (s,), (t,) = primals, tangents
    return normalised(s), t / jnp.sqrt((s * s).sum(-1, keepdims=True))


CUSTOM = {"hard": hard, "round": straight_through, "normalised": normalised}


@pytest.mark.parametrize("custom", CUSTOM.values(), ids=CUSTOM)
def test_a_custom_derivative_is_kept(custom):
    def f(p, x):
        return custom(x @ p["w"]) @ p["u"]

    relevance = heatmap(lambda x: f(P, x), X, lrp.Epsilon(0.0))
    _, pull = jax.vjp(lambda x: f(P, x), jnp.asarray(X))
    expected = X * np.asarray(pull(jnp.asarray(normal(3, 4, seed=99)))[0])
    assert np.abs(relevance - expected).max() <= 1e-9 * np.abs(expected).max()
    for rules in RULES.values():
        assert_gradient_of_logits(f, P, X, rules)


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
    assert np.abs(found - expected).max() <= 1e-5 * np.abs(expected).max()


@pytest.mark.parametrize("rules", FIRSTS.values(), ids=FIRSTS)
def test_a_nearest_resize_only_moves(rules):
    def resized(x):
        return classify(jax.image.resize(x, (1, 8, 8, 3), "nearest"))

    def repeated(x):
        return classify(jnp.repeat(jnp.repeat(x, 2, 1), 2, 2))

    assert_same(resized, repeated, uniform(1, 4, 4, 3), rules)


# 11. Literals and integers.


@every_rule
def test_a_literal_factor_behind_a_layer(rules):
    def f(x):
        return nn.relu((x @ P["w"]) * 1.25 + P["b"]) @ P["u"]

    def before_the_bias(x):
        return nn.relu((x @ P["w"] + 1) * 1.25 - 1.25 + P["b"]) @ P["u"]

    for g in (f, before_the_bias):
        assert_same(g, lambda x: nn.relu(x @ (P["w"] * 1.25) + P["b"]) @ P["u"], X, rules)


@pytest.mark.parametrize("dtype", [np.uint8, np.int32, np.bool_])
def test_integer_inputs_have_no_relevance(dtype):
    x = (uniform(3, 6) > 0.5).astype(dtype)

    def f(x):
        return mlp(P, lrp.tap(x.astype(jnp.float64), "pixels"))

    logits, pullback = lrp.vjp(f, x, rules=lrp.Epsilon(1e-2))
    assert pullback(jnp.ones_like(logits)) is None
    _, pullback = lrp.vjp(f, x, rules=lrp.Epsilon(1e-2), taps=("pixels",))
    relevance, taps = pullback(jnp.ones_like(logits))
    expected = lrp.vjp(lambda x: mlp(P, x), x.astype(float), rules=lrp.Epsilon(1e-2))[1]
    assert relevance is None
    np.testing.assert_allclose(taps["pixels"], expected(jnp.ones_like(logits)), rtol=1e-9)


# 12. No cliffs.


def test_epsilon_is_continuous_at_zero():
    def gated(x):
        return (nn.relu(x @ P["w"]) * nn.sigmoid(x @ P["w"] + P["b"])) @ P["u"]

    for f in (lambda x: mlp(P, x), gated):
        found, limit = (heatmap(f, X, lrp.Epsilon(e)) for e in (1e-12, 0.0))
        assert np.abs(found - limit).max() <= 1e-6 * np.abs(limit).max()


def test_an_option_does_not_change_what_epsilon_is():
    def without_biases(x):
        return nn.relu(x @ P["w"]) @ P["u"]

    try:
        found = heatmap(without_biases, X, lrp.Epsilon(0.5, zero_bias=True))
    except UserError:
        return
    expected = heatmap(without_biases, X, lrp.Epsilon(0.5))
    assert np.abs(found - expected).max() <= 1e-9 * np.abs(expected).max()


@every_rule
def test_parameters_as_primals(rules):
    seed = normal(3, 4, seed=99)
    try:
        relevance = Traced(lambda p, x: lrp.vjp(mlp, p, x, rules=rules)[1](seed), P, X)(P, X)
    except UserError:
        return
    expected = heatmap(lambda x: mlp(P, x), X, rules)
    assert np.abs(relevance[1] - expected).max() <= 1e-9 * np.abs(expected).max()


# 13. Operations that only move values, and loops.


def log_to_base_two(x):
    return (jnp.log2(1 + jnp.exp(x @ P["w"])) * np.log(2)) @ P["u"]


def conjugated(x):
    h = nn.relu(x @ P["w"])
    return jnp.conj(lax.complex(h, jnp.zeros_like(h))).real @ P["u"]


def subtracted(x):
    h = nn.relu(x @ P["w"])
    return jnp.zeros_like(h).at[:, jnp.arange(8)].subtract(-h) @ P["u"]


def unpacked(x):
    a, b = (x @ P["w"]).reshape(3, 2, 4).swapaxes(0, 1)
    return (a * nn.sigmoid(b)) @ P["u"][:4]


def sliced(x):
    h = x @ P["w"]
    return (h[:, :4] * nn.sigmoid(h[:, 4:])) @ P["u"][:4]


def stacked(x):
    return mlp(P, jnp.stack([x[:, :3], x[:, 3:]], 1).reshape(3, 6))


def tiled(x):
    return mlp(P, jnp.tile(x[:, :3], (1, 2)))


def looped(x):
    return lax.fori_loop(0, 2, lambda _, h: nn.relu(h @ P["q"]), x @ P["w"]) @ P["u"]


def mapped(x):
    return lax.map(lambda s: nn.relu(s @ P["w"] + P["b"]), x) @ P["u"]


MOVED = {
    log_to_base_two: lambda x: nn.softplus(x @ P["w"]) @ P["u"],
    conjugated: lambda x: nn.relu(x @ P["w"]) @ P["u"],
    subtracted: lambda x: nn.relu(x @ P["w"]) @ P["u"],
    unpacked: sliced,
    stacked: lambda x: mlp(P, x),
    tiled: lambda x: mlp(P, jnp.concatenate([x[:, :3]] * 2, 1)),
    looped: lambda x: nn.relu(nn.relu(x @ P["w"] @ P["q"]) @ P["q"]) @ P["u"],
    mapped: lambda x: mlp(P, x),
}


@smooth_rules
@pytest.mark.parametrize(("f", "twin"), MOVED.items(), ids=[f.__name__ for f in MOVED])
def test_values_that_only_move(f, twin, rules):
    assert_same(f, twin, X, rules)


# 14. Flax's own group norm.


def linen_group_norm(h):
    norm = linen.GroupNorm(4, use_bias=False, use_scale=False, dtype=jnp.float64)
    return norm.apply({}, h)


def nnx_group_norm(h):
    norm = nnx.GroupNorm(
        8, num_groups=4, use_bias=False, use_scale=False, dtype=jnp.float64, rngs=nnx.Rngs(0)
    )
    return norm(h)


def group_norm(h):
    g = h.reshape(2, 4, 4, 4, 2)
    g = g - g.mean((1, 2, 4), keepdims=True)
    return (g * lax.rsqrt((g**2).mean((1, 2, 4), keepdims=True) + 1e-6)).reshape(h.shape)


@smooth_rules
@pytest.mark.parametrize("norm", [linen_group_norm, nnx_group_norm], ids=lambda f: f.__name__)
def test_flax_group_norm(norm, rules):
    def net(norm):
        return lambda x: nn.relu(norm(x @ P["q"])).mean((1, 2)) @ P["u"]

    assert_same(net(norm), net(group_norm), normal(2, 4, 4, 8), rules)


# 15. Rearrangements by convolution and one-hot products; softmax and activations by value.


@pytest.mark.parametrize(
    "rules", [lrp.EpsilonPlus(), lrp.EpsilonAlpha2Beta1(), lrp.ISNetBlock()], ids=str
)
def test_patches_are_a_rearrangement(rules):
    second = normal(3, 3, 4, 4, seed=7)

    def unfolded(x):
        patches = lax.conv_general_dilated_patches(
            conv(x), (3, 3), (1, 1), "SAME", dimension_numbers=NHWC
        )
        y = patches @ second.transpose(2, 0, 1, 3).reshape(-1, 4)
        return nn.relu(y).mean((1, 2)) @ HEAD

    def direct(x):
        return nn.relu(conv(conv(x), second)).mean((1, 2)) @ HEAD

    assert_same(unfolded, direct, uniform(2, 6, 6, 3), rules)


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

    try:
        assert_same(shares, constant, X, rules)
    except UserError as error:
        assert "test_handed_cases.py" in str(error)


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
