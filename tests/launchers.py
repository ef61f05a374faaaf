"""Twenty steps on eight devices against twenty on one, for tests/training/test_mesh.py."""

import dataclasses
import functools
import re

import jax
import numpy as np
from flax import nnx
from tiny_training import PLAIN, split

from isnet_jax import Classification, ISNetConfig, models
from isnet_jax.training import MeshConfig, build_step, init_state, loss_function
from isnet_jax.training.mesh import Parallel
from isnet_jax.training.validation import Validation

DEVICES, STEPS = 8, 20
ISNET = ISNetConfig(variant="stochastic", batch_stats="gradient")
CONSTANT = ISNetConfig(variant="stochastic", batch_stats="constant")
VALIDATED = ISNetConfig(
    batch_stats="gradient", classification=Classification(class_weights=(1.0, 2.0, 5.0))
)
# Their number does not divide by the devices.
PARTLY_ANNOTATED = dataclasses.replace(split(29), has_mask=np.arange(29) % 4 > 1)


@functools.cache
def train(launch: MeshConfig, config: ISNetConfig = ISNET):
    """Parameters, statistics, last metrics and validation after all steps; the compiled text."""
    launcher = launch.launcher(2 * DEVICES)
    model = models.create("small", num_classes=3, rngs=nnx.Rngs(0))
    optimiser = PLAIN.optimiser.make(STEPS)
    state = launcher.place(init_state(model, optimiser, jax.random.key(0)))
    traces, texts = [], []
    step = build_step(
        launcher.prepared(model),
        loss_function(config, launcher.axis_name),
        optimiser,
        axis_name=launcher.axis_name,
        accumulate=launch.accumulate,
    )

    def counted(state, batch):
        traces.append(1)
        return step(state, batch)

    run = launcher.launch(counted, lambda compiled: texts.append(compiled.as_text()))
    samples = split(2 * DEVICES * 4)
    for number in range(STEPS):
        batch = samples.batch(np.arange(2 * DEVICES) + number % 4 * 2 * DEVICES)
        batch["image"] = batch["image"].astype(np.float64)
        old = state
        state, metrics = run(state, batch)
        assert all(leaf.is_deleted() for leaf in jax.tree.leaves(old.parameters))
    local = launcher.local(state)
    assert len(traces) == 1
    (text,) = texts
    metrics_of = validation_on(launch.parallel).metrics(state)
    validated = {name: np.float64(value) for name, value in metrics_of.items()}
    return (local.parameters, local.rest, metrics, validated), text


@functools.cache
def validation_on(parallel: Parallel) -> Validation:
    """In evaluation it makes no difference how a step is accumulated or synchronised."""
    launcher = MeshConfig(parallel).launcher(2 * DEVICES)
    model = models.create("small", num_classes=3, rngs=nnx.Rngs(0))
    return Validation(model, VALIDATED, launcher, PARTLY_ANNOTATED, 2 * DEVICES)


def all_reduces(text: str) -> list[int]:
    """How many values each all-reduce of a compiled text sums."""
    found = re.findall(r"= (\(.*?\)|\S+) all-reduce(?:-start)?\(", text)
    shapes = [re.findall(r"f64\[([\d,]*)\]", shape) for shape in found]
    return [
        sum(int(np.prod([int(n) for n in dims.split(",") if n])) for dims in each)
        for each in shapes
    ]


def compare(found, expected) -> None:
    for (path, e), f in zip(
        jax.tree_util.tree_flatten_with_path(expected)[0], jax.tree.leaves(found), strict=True
    ):
        name = jax.tree_util.keystr(path)
        np.testing.assert_allclose(f, e, rtol=1e-5, atol=1e-6, err_msg=name)


def synchronised() -> None:
    """pmap and mesh do what one device does; the gradients are summed in one group."""
    (expected, _) = train(MeshConfig("single"))
    values = sum(leaf.size for leaf in jax.tree.leaves(expected[0]))
    for parallel in ("pmap", "mesh"):
        found, text = train(MeshConfig(parallel, synchronise_batch_norm=True))
        compare(found, expected)
        assert len([size for size in all_reduces(text) if size >= values]) == 1, parallel


def constant() -> None:
    """As well where the explanation takes the synchronised statistics as constants."""
    (expected, _) = train(MeshConfig("single"), CONSTANT)
    found, _ = train(MeshConfig("mesh", synchronise_batch_norm=True), CONSTANT)
    compare(found, expected)


def unsynchronised() -> None:
    """Without batch norm over all devices that group is the only one."""
    texts = {}
    for parallel in ("pmap", "mesh"):
        texts[parallel], text = train(MeshConfig(parallel))
        assert len(re.findall(r" all-reduce(?:-start)?\(", text)) == 1, parallel
    compare(texts["pmap"], texts["mesh"])


def accumulated() -> None:
    """Two devices' parts, one after the other, are as many devices' shares."""
    (expected, _) = train(MeshConfig("mesh"))
    found, text = train(MeshConfig("single", accumulate=DEVICES))
    compare(found, expected)
    assert not all_reduces(text)


if __name__ == "__main__":
    jax.config.update("jax_enable_x64", True)
    assert jax.device_count() == DEVICES
    for case in (synchronised, constant, unsynchronised, accumulated):
        case()
