"""Every network that torchvision has takes a state dict of torchvision's names and shapes."""

import functools
import gzip
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from isnet_jax import models
from isnet_jax.models.torch_names import torch_shape

FILE = Path(__file__).with_name("torchvision_shapes.json.gz")  # benchmarks/torchvision_shapes.py
SHAPES = json.loads(gzip.decompress(FILE.read_bytes()))["shapes"]
LARGE = ("vgg", "vit", "resnet152", "densenet161", "densenet201", "resnet101")


@functools.cache
def abstract(name: str) -> nnx.Module:
    """Without weights, made once: whoever loads some takes a copy."""
    return nnx.eval_shape(lambda: models.create(name, num_classes=1000, rngs=nnx.Rngs(0)))


def test_all_families_are_there():
    own = {"small", "compact", "densenet264", "vit_s_16", "vit_compact"}
    assert set(SHAPES) == set(models.list()) - own


@pytest.mark.parametrize("name", SHAPES)
def test_names_and_shapes(name):
    expected = {k: tuple(s) for k, s in SHAPES[name].items() if not k.endswith("batches_tracked")}
    found = {k: torch_shape(v) for k, v in models.torch_names(abstract(name)).items()}
    assert found == expected


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.slow if name.startswith(LARGE) else ())
        for name in SHAPES
    ],
)
def test_the_state_dict_is_loaded(name):
    """As float16 numbers of one value in one place, so that the largest fit into memory."""
    model = nnx.clone(abstract(name))
    one = np.float16(0.5)
    models.load_torch(model, {k: np.broadcast_to(one, shape) for k, shape in SHAPES[name].items()})
    state = nnx.state(model, (nnx.Param, nnx.BatchStat))
    assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(state))
    assert {leaf.dtype for leaf in jax.tree.leaves(state)} == {jnp.dtype(jnp.float16)}
    assert float(model.head.bias[...][0]) == 0.5
