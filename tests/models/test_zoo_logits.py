"""The zoo's logits against torchvision's own networks (tests/golden, see its README)."""

import json

import golden_values
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from helpers import relative_error

from isnet_jax import models

pytestmark = pytest.mark.usefixtures("x64")

SLOW = ("vgg11", "vgg16_bn", "densenet121", "densenet161", "vit_b_16")


@pytest.mark.parametrize(
    "name", ["resnet50", *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW)]
)
def test_logits(name):
    with np.load(golden_values.FOLDER / f"logits_{name}.npz") as file:
        config, expected = json.loads(str(file["config"])), file["logits"]
        names = {str(entry) for entry in file["names"]}
    model = models.create(name, num_classes=config["classes"], rngs=nnx.Rngs(0))
    model.eval()
    assert {n for n in names if not n.endswith("num_batches_tracked")} == set(
        models.torch_names(model)
    )
    models.load_torch(model, golden_values.drawn_weights(model, config["seed"]))
    draw = np.random.default_rng([config["seed"], 7])
    x = draw.random((2, 3, config["size"], config["size"])).astype(np.float32)
    graph, state = nnx.split(model)
    logits = jax.jit(lambda state, x: nnx.merge(graph, state)(x))(
        state, jnp.asarray(x.transpose(0, 2, 3, 1), jnp.float64)
    )
    assert relative_error(logits, expected) < 1e-5
