"""The library without the data stack: a user's own training needs jax, flax, optax and NumPy."""

from __future__ import annotations

import subprocess
import sys

# Of flax's own imports (rich, yaml) nothing is blocked: they are there before we are imported.
BLOCKED = (
    "PIL", "array_record", "grain", "matplotlib", "mlxtend", "orbax", "rich", "safetensors",
    "scipy", "tensorboardX", "tensorflow_datasets", "tyro", "yaml",
)  # fmt: skip

PROGRAM = f"""
import sys
import time

import jax, jax.numpy as jnp, jaxtyping, optax
from flax import nnx
from jax.experimental import multihost_utils

for name in {BLOCKED}:
    sys.modules[name] = None  # `import name` raises ImportError from here on

start = time.process_time()
import isnet_jax
from isnet_jax import Classification, ISNetConfig, UserError, isnet_loss, lrp, models
from isnet_jax.memory import keep_freed_memory
from isnet_jax.training import (
    DistributedConfig, MeshConfig, OptimiserConfig, TrainState, build_step, build_validation,
    compile_step, compiler_options, init_state, loss_function,
)
from isnet_jax.training import Launch, make_step, objective  # former names
print("seconds", time.process_time() - start)

model = models.create("small", num_classes=3, rngs=nnx.Rngs(0))
optimiser = OptimiserConfig().make(steps=2)
step = build_step(model, loss_function(ISNetConfig()), optimiser)
batch = dict(image=jnp.ones((2, 8, 8, 3)), mask=jnp.ones((2, 8, 8, 1)), label=jnp.array([0, 2]))
_, metrics = jax.eval_shape(step, init_state(model, optimiser, jax.random.key(0)), batch)
assert "loss" in metrics
"""

MOST_SECONDS = 1.0  # Of the processor; it takes a fifth of that.


def test_the_library_needs_no_data_stack(record_property):
    command = [sys.executable, "-c", PROGRAM]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    seconds = float(done.stdout.split()[-1])
    record_property("seconds beyond jax, flax and optax", seconds)
    print(f"import isnet_jax: {seconds:.2f} s beyond jax, flax and optax")
    assert seconds < MOST_SECONDS


def test_a_command_starts_without_what_its_end_needs():
    program = (
        "import sys, isnet_jax.commands.train, isnet_jax.commands.hard, isnet_jax.commands.custom\n"
        "print([name for name in ('matplotlib.axes', 'scipy.stats') if name in sys.modules])"
    )
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
