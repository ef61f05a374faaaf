"""Every network by name: shapes, dtypes, modes; and weights from PyTorch."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from isnet_jax import UserError, models
from isnet_jax.models.torch_names import from_torch_layout, to_torch_layout

SIZES = {"small": 16, "compact": 32, "resnet18": 32, "vgg11_bn": 32, "densenet121": 32}


def image_size(name: str) -> int:
    return SIZES.get(name, 224)


LARGE = ("resnet101", "resnet152", "densenet169", "densenet201", "densenet264", "vit_l_16")
ALL = [
    pytest.param(name, marks=pytest.mark.slow if name in LARGE else ()) for name in models.list()
]


@pytest.mark.parametrize("name", ALL)
def test_logits_of_every_network(name):
    """Traced only: nothing is computed."""

    def run():
        model = models.create(name, num_classes=7, rngs=nnx.Rngs(0))
        model.eval()
        size = image_size(name)
        return model(jnp.zeros((2, size, size, 3)))

    logits = jax.eval_shape(run)
    assert (logits.shape, logits.dtype) == ((2, 7), jnp.float32)


@pytest.mark.parametrize("name", ["small", "compact", "resnet18"])
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float32, jnp.float64])
@pytest.mark.parametrize("train", [True, False])
def test_logits_follow_the_dtype_of_parameters_and_images(name, dtype, train):
    with jax.enable_x64(dtype == jnp.float64):

        def run():
            model = models.create(name, num_classes=3, rngs=nnx.Rngs(0))
            nnx.update(model, jax.tree.map(lambda x: x.astype(dtype), nnx.state(model)))
            (model.train if train else model.eval)()
            logits = model(jnp.zeros((2, 32, 32, 3), dtype))
            return logits, nnx.state(model)

        logits, state = jax.eval_shape(run)
        assert logits.dtype == dtype
        assert {leaf.dtype for leaf in jax.tree.leaves(state)} == {jnp.dtype(dtype)}


@pytest.mark.parametrize("name", ["small", "compact"])
def test_train_and_eval(name):
    model = models.create(name, num_classes=3, rngs=nnx.Rngs(0))
    size = image_size(name)
    x = jax.random.uniform(jax.random.key(0), (4, size, size, 3))

    @jax.jit
    def run(state, x):
        copy = nnx.merge(graph, state, copy=True)
        return copy(x), nnx.state(copy, nnx.BatchStat)

    graph, state = nnx.split(model)
    before = nnx.state(model, nnx.BatchStat)
    trained, updated = run(state, x)
    assert not all(
        jax.tree.leaves(jax.tree.map(lambda a, b: bool((a == b).all()), before, updated))
    )
    model.eval()
    graph, state = nnx.split(model)
    run = jax.jit(lambda state, x: nnx.merge(graph, state, copy=True)(x))
    alone, together = run(state, x[:1]), run(state, x)
    np.testing.assert_allclose(alone, together[:1], rtol=1e-5, atol=1e-6)
    assert (trained != together).any()


def test_weights_come_from_the_seed_and_channels_are_an_option():
    first, again, other = (
        models.create("small", num_classes=3, in_channels=1, rngs=nnx.Rngs(seed))
        for seed in (0, 0, 1)
    )
    kernel = first.conv1.kernel[...]
    assert kernel.shape == (3, 3, 1, 8)
    np.testing.assert_array_equal(kernel, again.conv1.kernel[...])
    assert (kernel != other.conv1.kernel[...]).any()


def test_unknown_names_and_class_counts():
    with pytest.raises(UserError, match=r"unknown model 'resnet81'; did you mean 'resnet18'\?"):
        models.create("resnet81", num_classes=3, rngs=nnx.Rngs(0))
    with pytest.raises(UserError, match="num_classes is 0; expected at least 1"):
        models.create("small", num_classes=0, rngs=nnx.Rngs(0))
    assert "small" in models.list()


# Weights from PyTorch


@pytest.fixture
def small() -> nnx.Module:
    return models.create("small", num_classes=4, rngs=nnx.Rngs(0))


def state_dict(model: nnx.Module) -> dict[str, np.ndarray]:
    draw = np.random.default_rng(0)
    return {
        name: draw.random(to_torch_layout(np.asarray(variable[...])).shape).astype(np.float32)
        for name, variable in models.torch_names(model).items()
    }


def test_layouts():
    conv, dense, bias = np.zeros((3, 3, 2, 5)), np.zeros((4, 6)), np.zeros(7)
    assert to_torch_layout(conv).shape == (5, 2, 3, 3)
    assert to_torch_layout(dense).shape == (6, 4)
    for value in (conv, dense, bias):
        assert from_torch_layout(to_torch_layout(value)).shape == value.shape


def test_names_are_torchvisions():
    model = nnx.eval_shape(lambda: models.create("resnet18", num_classes=3, rngs=nnx.Rngs(0)))
    names = models.torch_names(model)
    assert len(names) == 62 + 2 * 20  # parameters and running statistics
    assert {"conv1.weight", "layer2.0.downsample.1.running_var", "fc.bias"} <= set(names)


def test_a_round_trip(small):
    weights = state_dict(small)
    models.load_torch(small, weights | {"bn1.num_batches_tracked": np.array(3)})
    for name, variable in models.torch_names(small).items():
        np.testing.assert_array_equal(to_torch_layout(np.asarray(variable[...])), weights[name])


class Tensor:
    """What load_torch needs of a torch.Tensor."""

    def __init__(self, array: np.ndarray):
        self.array = array

    def detach(self) -> Tensor:
        return self

    def cpu(self) -> Tensor:
        return self

    def numpy(self) -> np.ndarray:
        return self.array


def test_tensors_are_taken_and_float64_is_kept():
    with jax.enable_x64(True):
        model = models.create("small", num_classes=4, rngs=nnx.Rngs(0))
        weights = {name: value.astype(float) for name, value in state_dict(model).items()}
        models.load_torch(model, {name: Tensor(value) for name, value in weights.items()})
        assert model.fc.kernel[...].dtype == jnp.float64
        np.testing.assert_array_equal(model.fc.kernel[...], weights["fc.weight"].T)


@pytest.mark.parametrize(
    ("change", "messages"),
    [
        (lambda w: w.pop("fc.bias"), ["missing (1): fc.bias"]),
        (lambda w: w.update(extra=np.zeros(3)), ["unexpected (1): extra"]),
        (
            lambda w: w.update({"fc.weight": np.zeros((5, 16))}),
            ["wrong shape (1): fc.weight: found (5, 16), expected (4, 16)", "num_classes"],
        ),
        (
            lambda w: w.update({"fc.bias": np.zeros(4, int)}),
            ["not floating point (1): fc.bias: int64"],
        ),
        (lambda w: w.clear(), ["missing (16)", "and 8 more"]),
        (
            lambda w: [w.pop("conv1.weight"), w.update({"conv_1.weight": np.zeros(1)})],
            ["missing (1): conv1.weight", "unexpected (1): conv_1.weight", "nothing was loaded"],
        ),
    ],
)
def test_weights_that_do_not_fit_leave_the_model_unchanged(small, change, messages):
    weights = state_dict(small)
    change(weights)
    before = nnx.to_pure_dict(nnx.state(small))
    with pytest.raises(UserError) as error:
        models.load_torch(small, weights)
    for message in messages:
        assert message in str(error.value)
    after = nnx.to_pure_dict(nnx.state(small))
    assert jax.tree.all(jax.tree.map(lambda a, b: bool((a == b).all()), before, after))
