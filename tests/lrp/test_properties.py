"""What holds for every network: Hypothesis draws networks, weights, images and seeds."""

from __future__ import annotations

import functools

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.sharding import Mesh, PartitionSpec

from isnet_jax import lrp

pytestmark = pytest.mark.usefixtures("x64")

FAST, ALL = 4, 10  # networks that every run draws from, and with the slow tests
BATCH, SIZE, CLASSES = 3, 6, 3
RULES = {
    "zero": lrp.Composite(),
    "flex": lrp.Epsilon(1e-2),
    "box": lrp.ISNetFlex(first=lrp.ZBox(0.0, 1.0)),
    "plus": lrp.EpsilonPlusFlat(),
}


def layers(architecture: int) -> list[tuple[str, int]]:
    """A random stack of layers, the same for the same number."""
    draw = np.random.default_rng(architecture)
    kinds = ["conv", "strided", "norm", "relu", "gelu", "pool", "residual", "concat"]
    stack = [("conv", 4), ("relu", 0)]
    for kind in draw.choice(kinds, draw.integers(2, 6)):
        stack.append((str(kind), int(draw.integers(2, 5))))
        if kind in ("conv", "strided"):
            stack.append(("relu", 0))
    return stack


def network(architecture: int, parameters, x, *, biased: bool):
    """The network; all its weights come from one long vector."""
    used = 0

    def take(*shape):
        nonlocal used
        count = int(np.prod(shape))
        value = parameters[used : used + count].reshape(shape)
        used += count
        return value / np.sqrt(max(1, np.prod(shape[:-1])))

    def conv(x, width, stride=1):
        kernel = take(3, 3, x.shape[-1], width)
        y = lax.conv_general_dilated(
            x, kernel, (stride, stride), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
        bias = take(width)
        return y + bias if biased else y

    for kind, width in layers(architecture):
        if kind == "conv":
            x = conv(x, width)
        elif kind == "strided":
            x = conv(x, width, 2 if x.shape[1] > 2 else 1)
        elif kind == "norm":
            scale, shift = take(x.shape[-1]), take(x.shape[-1])
            x = x * jnp.exp(scale) + (shift if biased else 0)
        elif kind == "relu":
            x = jax.nn.relu(x)
        elif kind == "gelu":
            x = jax.nn.gelu(x)
        elif kind == "pool" and x.shape[1] % 2 == 0:
            b, h, w, c = x.shape
            x = x.reshape(b, h // 2, 2, w // 2, 2, c).max((2, 4))
        elif kind == "residual":
            x = jax.nn.relu(conv(x, x.shape[-1])) + x
        elif kind == "concat":
            x = jnp.concatenate([x, jax.nn.relu(conv(x, width))], -1)
    logits = x.mean((1, 2)) @ take(x.shape[-1], CLASSES)
    return logits + take(CLASSES) if biased else logits


@functools.cache
def checker(architecture: int, rules: str):
    """Compiled once for each network: how far each property is from holding."""
    composite = RULES[rules]

    @jax.jit
    def check(parameters, x, first, second, stranger):
        f = functools.partial(network, architecture, parameters, biased=True)
        logits, pullback = lrp.vjp(f, x, rules=composite)
        one, two = pullback(first), pullback(second)
        both = jax.vmap(pullback)(jnp.stack([first, second]))
        mixed = x.at[0].set(stranger)
        _, other = lrp.vjp(f, mixed, rules=composite)
        mesh = Mesh(np.array(jax.devices("cpu")[:1]), "data")
        spec = PartitionSpec("data")
        sharded = jax.shard_map(
            lambda x, seed: lrp.vjp(f, x, rules=composite)[1](seed),
            mesh=mesh,
            in_specs=(spec, spec),
            out_specs=spec,
        )(x, first)
        scale = jnp.abs(one).max() + jnp.abs(two).max() + 1e-12

        # The loss's gradient by the vmapped pullback and by the plain one.
        def loss(parameters, vectorised):
            f = functools.partial(network, architecture, parameters, biased=True)
            _, pullback = lrp.vjp(f, x, rules=composite)
            r = jax.vmap(pullback)(first[None])[0] if vectorised else pullback(first)
            return (r**2).sum()

        gradients = [jax.grad(loss)(parameters, flag) for flag in (False, True)]
        plain = functools.partial(network, architecture, parameters, biased=False)
        free_logits, free = lrp.vjp(plain, x, rules=composite)
        total = free(first).sum((1, 2, 3))
        return {
            "primal": jnp.abs(logits - f(x)).max(),
            "linear": jnp.abs(pullback(2 * first - 3 * second) - (2 * one - 3 * two)).max() / scale,
            "vmap": jnp.abs(both - jnp.stack([one, two])).max() / scale,
            "batch mates": jnp.abs(other(first)[1:] - one[1:]).max() / scale,
            "shard_map": jnp.abs(sharded - one).max() / scale,
            "gradient": jnp.abs(gradients[0] - gradients[1]).max()
            / (jnp.abs(gradients[0]).max() + 1e-12),
            "conservation": jnp.abs(total - (free_logits * first).sum(1)).max()
            / (jnp.abs(free_logits * first).sum() + 1e-12),
        }

    return check


SETTINGS = hypothesis.settings(
    max_examples=500, deadline=None, derandomize=True, phases=[hypothesis.Phase.generate]
)
SEEDS = st.integers(0, 2**31)


@pytest.mark.parametrize("architecture", range(FAST))
def test_the_logits_are_bit_equal_op_by_op(architecture):
    draw = np.random.default_rng(architecture)
    parameters = jnp.asarray(draw.standard_normal(4000))
    x = jnp.asarray(draw.random((BATCH, SIZE, SIZE, 3)))
    f = functools.partial(network, architecture, parameters, biased=True)
    with jax.disable_jit():
        expected = f(x)
    for composite in RULES.values():
        np.testing.assert_array_equal(lrp.vjp(f, x, rules=composite)[0], expected)


@SETTINGS
@hypothesis.given(architecture=st.integers(0, FAST - 1), seed=SEEDS, dark=st.booleans())
def test_properties(architecture, seed, dark):
    check_properties(architecture, sorted(RULES)[architecture % len(RULES)], seed, dark)


@pytest.mark.slow
@SETTINGS
@hypothesis.given(
    architecture=st.integers(0, ALL - 1),
    rules=st.sampled_from(sorted(RULES)),
    seed=SEEDS,
    dark=st.booleans(),
)
def test_properties_of_all(architecture, rules, seed, dark):
    check_properties(architecture, rules, seed, dark)


def check_properties(architecture, rules, seed, dark):
    draw = np.random.default_rng(seed)
    parameters = jnp.asarray(draw.standard_normal(4000))
    x = draw.random((BATCH, SIZE, SIZE, 3))
    if dark:
        x = x * (x > 0.7)
    seeds = draw.standard_normal((2, BATCH, CLASSES))
    errors = checker(architecture, rules)(
        parameters, jnp.asarray(x), *map(jnp.asarray, seeds), jnp.asarray(draw.random(x[0].shape))
    )
    errors = {name: float(error) for name, error in errors.items()}
    if rules != "zero" or "gelu" in dict(layers(architecture)):
        # Stabilisers absorb relevance; z^B and z+ conserve only up to them.
        errors.pop("conservation")
    assert errors.pop("primal") < 1e-14  # XLA may fuse the two copies in one program differently
    assert max(errors.values()) < 1e-7, errors


def test_bf16_conserves_and_stays_finite():
    """1,000 images through a bias-free bf16 network with many dead ReLUs."""
    draw = np.random.default_rng(0)
    kernels = [
        jnp.asarray(draw.standard_normal(shape) * np.sqrt(2 / np.prod(shape[:-1])), jnp.bfloat16)
        for shape in ((3, 3, 3, 8), (3, 3, 8, 8), (8, 4))
    ]

    def f(x):
        for kernel in kernels[:2]:
            x = lax.conv_general_dilated(
                x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
            )
            x = jax.nn.relu(x - 0 * x)
        return x.mean((1, 2)) @ kernels[2]

    x = jnp.asarray(draw.random((1000, 8, 8, 3)) * (draw.random((1000, 8, 8, 1)) > 0.5))

    @jax.jit
    def run(x):
        logits, pullback = lrp.vjp(f, x, rules=lrp.Composite())
        seed = jax.nn.one_hot(jnp.argmax(logits, 1), 4, dtype=logits.dtype)
        flex = lrp.vjp(f, x, rules=lrp.ISNetFlex(first=lrp.ZBox()))[1](seed)
        return logits.max(1), pullback(seed), flex

    logits, relevance, flex = run(x.astype(jnp.bfloat16))
    assert relevance.dtype == jnp.float32
    assert np.isfinite(relevance).all()
    assert np.isfinite(flex).all()
    logits = np.asarray(logits, np.float64)
    error = np.abs(np.asarray(relevance, np.float64).sum((1, 2, 3)) - logits)
    assert np.median(error / np.abs(logits)) < 0.02
    assert error.max() < 0.02 * np.abs(logits).max()
