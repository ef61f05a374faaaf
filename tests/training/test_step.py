"""The compiled step: donation, cost, and the same result on one device and on several."""

import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from helpers import fake_devices
from tiny_training import ISNET, PLAIN, SMALL, split

from isnet_jax import Classification, ISNetConfig, models
from isnet_jax.evaluation import predict
from isnet_jax.training import (
    OptimiserConfig,
    build_step,
    build_validation,
    compile_step,
    init_state,
    loss_function,
)

HERE = Path(__file__)


def test_a_step_updates_parameters_statistics_and_counters():
    model = SMALL.create()
    before = nnx.state(model)
    optimiser = ISNET.optimiser.make(10)
    step = jax.jit(build_step(model, loss_function(ISNET.objective), optimiser))
    state = init_state(model, optimiser, jax.random.key(0))
    batch = split(8).batch(slice(None))
    first, metrics = step(state, batch)
    second, _ = step(first, batch)
    assert int(second.step) == 2
    assert set(metrics) == {
        "loss", "accuracy", "classification", "heatmap", "nonfinite", "gradient_norm",
    }  # fmt: skip
    weight = ISNET.objective.heatmap_weight
    expected = (1 - weight) * metrics["classification"] + weight * metrics["heatmap"]
    np.testing.assert_allclose(metrics["loss"], expected, rtol=1e-6)
    for old, new in ((state.parameters, second.parameters), (state.rest, second.rest)):
        changed = jax.tree.map(lambda a, b: bool((a != b).any()), old, new)
        assert all(jax.tree.leaves(changed))
    jax.tree.map(np.testing.assert_array_equal, before, nnx.state(model))


def test_each_step_draws_anew():
    def drawing(model, batch, key, step):
        logits = model(batch["image"].mean((1, 2)))
        return logits.sum(), {"logits": logits, "draw": jax.random.uniform(key)}

    model = nnx.Linear(3, 3, rngs=nnx.Rngs(0))
    optimiser = PLAIN.optimiser.make(10)
    step = jax.jit(build_step(model, drawing, optimiser))
    state = init_state(model, optimiser, jax.random.key(0))
    draws = []
    for _ in range(3):
        state, metrics = step(state, split(2).batch(slice(None)))
        draws.append(float(metrics["draw"]))
    assert len(set(draws)) == 3


def test_the_state_is_donated():
    model = SMALL.create()
    optimiser = PLAIN.optimiser.make(10)
    step = compile_step(build_step(model, loss_function(Classification()), optimiser))
    state = init_state(model, optimiser, jax.random.key(0))
    step(state, split(8).batch(slice(None)))
    donated = jax.tree.leaves((state.parameters, state.rest, state.optimiser))
    assert all(leaf.is_deleted() for leaf in donated)
    assert not any(leaf.is_deleted() for leaf in jax.tree.leaves(nnx.state(model)))


def flops(name: str, config: ISNetConfig | Classification, batch: int, side: int) -> float:
    model = models.create(name, num_classes=10, rngs=nnx.Rngs(0))
    optimiser = OptimiserConfig().make(10)
    state = init_state(model, optimiser, jax.random.key(0))
    samples = {
        "image": jax.ShapeDtypeStruct((batch, side, side, 3), jnp.float32),
        "mask": jax.ShapeDtypeStruct((batch, side, side, 1), jnp.float32),
        "label": jax.ShapeDtypeStruct((batch,), jnp.int32),
    }
    lowered = jax.jit(build_step(model, loss_function(config), optimiser)).lower(state, samples)
    cost = lowered.cost_analysis()
    assert cost is not None
    return cost["flops"]


@pytest.mark.parametrize(
    ("name", "batch", "side", "limit"), [("compact", 64, 32, 2.5), ("resnet18", 8, 64, 2.12)]
)
def test_an_isnet_step_costs_hardly_more_than_twice_the_plain_one(name, batch, side, limit):
    config = ISNetConfig(variant="stochastic", batch_stats="constant")
    ratio = flops(name, config, batch, side) / flops(name, Classification(), batch, side)
    assert 1.5 < ratio <= limit


@pytest.mark.parametrize("config", [Classification(), ISNetConfig()], ids=["plain", "isnet"])
def test_the_callers_model_stays_in_its_mode(config):
    model = SMALL.create()
    model.eval()
    before = nnx.graphdef(model)
    build_step(model, loss_function(config), optax.sgd(0.1))
    build_validation(model, config)
    assert nnx.graphdef(model) == before
    model.train()
    before = nnx.graphdef(model)
    build_validation(model, config)
    predict(model, split(2).batch(slice(None))["image"])
    assert nnx.graphdef(model) == before


def test_eight_devices_do_what_one_does():
    """Random choices included. In a process of its own: JAX settles its devices when it starts."""
    done = subprocess.run(
        [sys.executable, str(HERE.parents[1] / "several_devices.py")],
        env=fake_devices(8), capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
