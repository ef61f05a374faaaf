"""Every network: nothing that LRP cannot pass, and one ISNet step in float32 and bf16."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from isnet_jax import ISNetConfig, lrp, models
from isnet_jax.models.densenet import DenseNet
from isnet_jax.models.resnet import BasicBlock, Bottleneck, ResNet
from isnet_jax.models.vgg import VGG
from isnet_jax.models.vit import VisionTransformer
from isnet_jax.training import build_step, init_state
from isnet_jax.training.step import loss_function

PRECISIONS = {"float32": None, "bf16": jnp.bfloat16}
ISNET = ISNetConfig(variant="selective", batch_stats="gradient")
# They repeat the blocks of others of their family.
DEEPER = (
    *("resnet34", "resnet101", "resnet152", "densenet161", "densenet169", "densenet201"),
    *("densenet264", "vgg13", "vgg13_bn", "vgg16", "vgg16_bn", "vgg19", "vgg19_bn"),
    *("vit_b_16", "vit_l_16"),
)
# One small network for each kind of block.
FAMILIES = {
    "basic": lambda **o: ResNet(3, block=BasicBlock, blocks=(1, 1, 1, 1), **o),
    "bottleneck": lambda **o: ResNet(3, block=Bottleneck, blocks=(1, 1, 1, 1), **o),
    "densenet": lambda **o: DenseNet(3, depths=(2, 1), growth=4, stem=4, **o),
    "vgg": lambda **o: VGG(3, depths=(1, 1, 1, 1, 1), batch_norm=True, hidden=16, **o),
    "vit": lambda **o: VisionTransformer(3, width=8, depth=2, heads=2, image_size=32, **o),
    "compact": lambda **o: models.create("compact", num_classes=3, **o),
}


def side(name: str) -> int:
    """Of the images; deep networks leave 2x2 maps of 64x64. With 1x1 maps batch norm would divide
    by the deviation of a handful of values, and relevance has no bound (docs/decisions.md)."""
    return 224 if name.startswith("vit") else 64


@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=pytest.mark.slow if n in DEEPER else ()) for n in models.list()],
)
def test_lrp_passes_every_operation(name):
    """Traced only: no weight is drawn."""
    tables: list[lrp.Table] = []

    def inspected():
        model = models.create(name, num_classes=3, rngs=nnx.Rngs(0))
        graph, state = nnx.split(model)
        x = jnp.zeros((2, side(name), side(name), 3))
        tables.append(
            lrp.inspect(
                lambda x: nnx.merge(graph, state, copy=True)(x), x, rules=ISNET.composites()[0]
            )
        )

    jax.eval_shape(inspected)
    (table,) = tables
    assert not table.unsupported
    assert sum(row.kind == "layer" for row in table) > 3


def step(make, size: int, samples: int = 2) -> dict[str, jax.Array]:
    """The metrics of one compiled step."""
    model = make()
    optimiser = optax.sgd(1e-3)
    state = init_state(model, optimiser, jax.random.key(0))
    draw = np.random.default_rng(0)
    batch = {
        "image": jnp.asarray(draw.random((samples, size, size, 3)), jnp.float32),
        "mask": jnp.zeros((samples, size, size, 1)).at[:, 4:20, 4:20].set(1),
        "label": jnp.arange(samples) % 3,
    }
    new, metrics = jax.jit(build_step(model, loss_function(ISNET), optimiser))(state, batch)
    for leaf in jax.tree.leaves(new.parameters):
        assert leaf.dtype == jnp.float32
        assert jnp.isfinite(leaf).all()
    return metrics


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("family", FAMILIES)
def test_a_step_of_each_kind_of_block(family, precision):
    dtype = PRECISIONS[precision]
    metrics = step(lambda: FAMILIES[family](dtype=dtype, dropout=0.2, rngs=nnx.Rngs(0)), 32)
    assert all(jnp.isfinite(value) for value in metrics.values()), metrics
    assert metrics["nonfinite"] == 0


def test_a_transformer_is_trained_on_heatmaps_of_attnlrp():
    """Traced only, to the second order."""
    config = ISNetConfig(engine="attention")
    model, optimiser = FAMILIES["vit"](rngs=nnx.Rngs(0)), optax.sgd(1e-3)
    state = init_state(model, optimiser, jax.random.key(0))
    shapes = {"image": (2, 32, 32, 3), "mask": (2, 32, 32, 1)}
    batch = {name: jnp.ones(shape) for name, shape in shapes.items()} | {"label": jnp.arange(2)}
    _, metrics = jax.eval_shape(build_step(model, loss_function(config), optimiser), state, batch)
    assert {"heatmap", "classification", "nonfinite"} <= set(metrics)


@pytest.mark.slow
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("name", models.list())
def test_a_step_of_every_network(name, precision):
    dtype = PRECISIONS[precision]
    metrics = step(
        lambda: models.create(name, num_classes=3, dtype=dtype, rngs=nnx.Rngs(0)),
        side(name),
        samples=4,
    )
    assert all(jnp.isfinite(value) for value in metrics.values()), metrics
    assert metrics["nonfinite"] == 0
