"""Launching the step: equal results on any number of devices, one trace, one all-reduce."""

import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from helpers import fake_devices
from tiny_training import SHAPE, split

from isnet_jax import Classification, ISNetConfig, UserError
from isnet_jax.training import MeshConfig, build_step, init_state, loss_function
from isnet_jax.training.optimiser import OptimiserConfig

TESTS = Path(__file__).parents[1]


def test_twenty_steps_on_eight_devices():
    """In a process of its own: JAX settles its devices when it starts."""
    done = subprocess.run(
        [sys.executable, str(TESTS / "launchers.py")],
        env=fake_devices(8), capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr


class NoNorm(nnx.Module):
    def __init__(self, rngs: nnx.Rngs):
        self.conv = nnx.Conv(3, 4, (3, 3), rngs=rngs)
        self.dropout = nnx.Dropout(0.5, rngs=rngs)
        self.fc = nnx.Linear(4, 3, rngs=rngs)

    def __call__(self, x):
        return self.fc(self.dropout(nnx.relu(self.conv(x)).mean((1, 2))))


@pytest.mark.parametrize(
    "config",
    [
        ISNetConfig(variant="stochastic", heatmap_fraction=0.5, batch_stats="gradient"),
        Classification(class_weights=(1.0, 2.0, 5.0)),
    ],
    ids=["isnet", "plain"],
)
def test_accumulated_parts_are_the_whole_batch(config):
    model = NoNorm(nnx.Rngs(0))
    model.dropout.rate = 0.0
    optimiser = OptimiserConfig().make(10)
    state = init_state(model, optimiser, jax.random.key(0))
    batch = split(8).batch(slice(None))
    batch["has_mask"] = np.arange(8) > 2  # Not equally many in each part.
    whole, parts = (
        jax.jit(build_step(model, loss_function(config), optimiser, accumulate=count))(state, batch)
        for count in (1, 2)
    )
    for a, b in zip(
        jax.tree.leaves((whole[0].parameters, whole[1])),
        jax.tree.leaves((parts[0].parameters, parts[1])),
        strict=True,
    ):
        np.testing.assert_allclose(a, b, rtol=2e-4, atol=1e-6)


def test_accumulated_parts_drop_out_anew():
    model = NoNorm(nnx.Rngs(0))
    optimiser = OptimiserConfig().make(10)
    state = init_state(model, optimiser, jax.random.key(0))
    batch = split(8).batch(slice(None))
    step = build_step(model, loss_function(Classification()), optimiser, accumulate=4)
    after, _ = jax.jit(step)(state, batch)
    counts = [
        int(leaf)
        for path, leaf in jax.tree_util.tree_flatten_with_path(after.rest)[0]
        if jnp.issubdtype(leaf.dtype, jnp.integer) and "count" in jax.tree_util.keystr(path)
    ]
    assert 4 in counts


def test_the_cost_of_a_step_is_told_before_the_first():
    launch = MeshConfig("single")
    launcher = launch.launcher(8)
    model = NoNorm(nnx.Rngs(0))
    optimiser = OptimiserConfig().make(10)
    state = init_state(model, optimiser, jax.random.key(0))
    told = []
    run = launcher.launch(
        build_step(model, loss_function(Classification()), optimiser),
        lambda compiled: told.append(launcher.cost(compiled, model)),
    )
    for _ in range(2):
        state, _ = run(state, split(8).batch(slice(None)))
    (cost,) = told
    assert cost.parameters == 3 * 3 * 3 * 4 + 4 + 4 * 3 + 3
    convolution = 2 * 8 * np.prod(SHAPE) * 9 * 4
    assert convolution < cost.flops < 10 * convolution
    assert cost.memory > 8 * np.prod(SHAPE) * 4
    assert str(cost).startswith("127 parameters, 1 device, ")


def test_a_batch_that_does_not_divide():
    with pytest.raises(UserError, match=r"batch of 10 does not divide .* 1 devices x 4 .* 8 or 12"):
        MeshConfig(accumulate=4).launcher(10)


def test_options_out_of_range():
    with pytest.raises(UserError, match="unknown parallel 'pmpa'; did you mean 'pmap'"):
        MeshConfig("pmpa")  # pyright: ignore[reportArgumentType]
    with pytest.raises(UserError, match="accumulate is 0; expected at least 1"):
        MeshConfig(accumulate=0)


def test_several_processes_need_a_mesh(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    with pytest.raises(UserError, match='parallel is "pmap" with 2 processes; expected "mesh"'):
        MeshConfig("pmap").launcher(8)
