"""Weights in files: bit-exact round trips, timm's names, and files that must not be loaded."""

from __future__ import annotations

import json
import os
import pickle
import sys
import types
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
from flax import nnx

from isnet_jax import UserError, models
from isnet_jax.models.densenet import DenseNet
from isnet_jax.models.resnet import BasicBlock, ResNet
from isnet_jax.models.torch_names import torch_shape, torchvision_names
from isnet_jax.models.vgg import VGG
from isnet_jax.models.vit import VisionTransformer


def network(classes: int = 4, seed: int = 0) -> models.Network:
    return models.create("small", num_classes=classes, rngs=nnx.Rngs(seed))


def state_dict(model: nnx.Module, dtype=np.float32) -> dict[str, np.ndarray]:
    draw = np.random.default_rng(0)
    return {
        name: draw.random(torch_shape(variable)).astype(dtype)
        for name, variable in models.torch_names(model).items()
    }


def snapshot(model: nnx.Module) -> dict[str, bytes]:
    return {n: np.asarray(v[...]).tobytes() for n, v in models.torch_names(model).items()}


@pytest.mark.parametrize("dtype", [np.float32, np.float16, jnp.bfloat16])
def test_torch_to_ours_to_safetensors_to_ours_is_bit_exact(tmp_path: Path, dtype):
    first, second = network(), network(seed=1)
    weights = state_dict(first, dtype)
    models.load_torch(first, weights)
    models.save_weights(first, tmp_path / "w.safetensors")
    stored = models.read_weights(tmp_path / "w.safetensors")
    assert {n: a.tobytes() for n, a in stored.items()} == {
        n: a.tobytes() for n, a in weights.items()
    }
    models.load_weights(second, tmp_path / "w.safetensors")
    assert snapshot(second) == snapshot(first)
    assert second.fc.kernel[...].dtype == dtype


def test_another_number_of_classes(tmp_path: Path):
    trained, model = network(classes=7), network(classes=3, seed=1)
    models.save_weights(trained, tmp_path / "w.safetensors")
    weights = models.read_weights(tmp_path / "w.safetensors")
    assert models.number_of_classes(model, weights) == 7
    before = snapshot(model)
    with pytest.raises(UserError, match=r'wrong shape(.|\n)*fc.weight(.|\n)*head="replace"'):
        models.load_weights(model, tmp_path / "w.safetensors")
    assert snapshot(model) == before
    models.load_weights(model, tmp_path / "w.safetensors", head="replace")
    after, expected = snapshot(model), snapshot(trained)
    for name in after:
        assert after[name] == (before if name.startswith("fc.") else expected)[name]


def test_not_strict_passes_over_names_but_not_over_shapes():
    model = network()
    weights = state_dict(model)
    some = {"conv1.bias": weights["conv1.bias"], "extra": np.zeros(2, np.float32)}
    models.load_torch(model, some, strict=False)
    np.testing.assert_array_equal(model.conv1.bias[...], weights["conv1.bias"])
    with pytest.raises(UserError, match="wrong shape"):
        models.load_torch(model, {"conv1.bias": np.zeros(9, np.float32)}, strict=False)
    with pytest.raises(UserError, match="unexpected"):
        models.load_torch(model, {"extra": np.zeros(2, np.float32)}, strict=False)


# Files that do not fit, are damaged, or hold programs.


class Program:
    """Unpickled, it would make a folder."""

    def __init__(self, folder: Path):
        self.folder = folder

    def __reduce__(self):
        return os.mkdir, (str(self.folder),)


def refused(model: nnx.Module, path: Path, message: str) -> None:
    before = snapshot(model)
    with pytest.raises(UserError, match=message):
        models.load_weights(model, path)
    assert snapshot(model) == before


def test_damaged_and_unfitting_files_leave_the_model_unchanged(tmp_path: Path):
    model, path = network(), tmp_path / "w.safetensors"
    models.save_weights(network(seed=1), path)
    whole = path.read_bytes()
    for length in (0, 5, 100, len(whole) - 1):
        path.write_bytes(whole[:length])
        refused(model, path, "not a whole safetensors file")
    wrong = state_dict(model) | {"conv2.bias": np.zeros(9, np.float32)}
    path.write_bytes(safetensors.numpy.save(wrong))
    refused(model, path, r"wrong shape \(1\): conv2.bias: found \(9,\), expected \(8,\)")
    path.write_bytes(safetensors.numpy.save({"a": np.zeros(2, np.uint8)}))
    refused(model, path, "holds U8")
    refused(model, tmp_path / "absent.safetensors", "cannot be read")
    refused(model, tmp_path / "w.npz", r"unknown kind of weights '\.npz'")
    with pytest.raises(UserError, match=r"ends in \.safetensors"):
        models.save_weights(model, tmp_path / "w.pth")


def test_a_pipe_is_not_waited_for(tmp_path: Path):
    os.mkfifo(tmp_path / "weights.safetensors")
    with pytest.raises(UserError, match=r"weights\.safetensors cannot be read .not a regular file"):
        models.read_weights(tmp_path / "weights.safetensors")


def test_shapes_beyond_arrays(tmp_path: Path):
    entry = {"dtype": "F32", "shape": [0, 2**62], "data_offsets": [0, 0]}
    header = json.dumps({"fc.bi\nas": entry}).encode()
    (tmp_path / "w.safetensors").write_bytes(len(header).to_bytes(8, "little") + header)
    refused(network(), tmp_path / "w.safetensors", r"fc\.bi\\nas has the shape \[0, 46")


@pytest.mark.parametrize("name", ["w.pth", "w.pt", "w.bin", "w.ckpt", "w.safetensors"])
def test_a_pickle_is_not_opened_without_torch(tmp_path: Path, monkeypatch, name):
    monkeypatch.setitem(sys.modules, "torch", None)
    made = tmp_path / "made"
    (tmp_path / name).write_bytes(pickle.dumps({"fc.bias": Program(made)}))
    refused(network(), tmp_path / name, "torch is not installed|not a whole safetensors")
    assert not made.exists()


def test_torch_is_asked_for_weights_alone(tmp_path: Path, monkeypatch):
    """What torch's safe loader refuses is an error; what it returns must be tensors by name."""
    asked = []

    def load(path, **options):
        asked.append(options)
        raise pickle.UnpicklingError("Unsupported global: GLOBAL posix.mkdir")

    monkeypatch.setitem(sys.modules, "torch", types.SimpleNamespace(load=load))
    (tmp_path / "w.pth").write_bytes(pickle.dumps(Program(tmp_path / "made")))
    refused(network(), tmp_path / "w.pth", "it refers to posix.mkdir.*nothing in it was run")
    assert asked == [{"map_location": "cpu", "weights_only": True}]
    assert not (tmp_path / "made").exists()
    monkeypatch.setattr(sys.modules["torch"], "load", lambda path, **_: [1, 2])
    refused(network(), tmp_path / "w.pth", "holds no state dict")


def test_the_state_dict_inside_a_checkpoint(tmp_path: Path, monkeypatch):
    model = network()
    tensors = {f"module.{n}": Tensor(a) for n, a in state_dict(model).items()}
    torch = types.SimpleNamespace(load=lambda path, **_: {"epoch": 3, "state_dict": tensors})
    monkeypatch.setitem(sys.modules, "torch", torch)
    (tmp_path / "w.pth").touch()
    models.load_weights(model, tmp_path / "w.pth")
    np.testing.assert_array_equal(model.fc.bias[...], tensors["module.fc.bias"].array)


class Tensor:
    """What is needed of a torch.Tensor."""

    dtype = "torch.float32"

    def __init__(self, array: np.ndarray):
        self.array = array

    def detach(self):
        return self

    def cpu(self):
        return self

    def numpy(self):
        return self.array


class Unreadable(Tensor):
    """As sparse and quantised tensors, and those of the meta device."""

    def numpy(self):
        raise TypeError("can't convert Sparse layout tensor to numpy\nmore")


@pytest.mark.parametrize(
    ("name", "kind", "message"),
    [
        ("fc.bias", Unreadable, r"the tensor fc\.bias has no plain values \(can't convert Sparse"),
        (5, Tensor, "the state dict has the name 5"),
    ],
)
def test_tensors_that_are_no_arrays(tmp_path: Path, monkeypatch, name, kind, message: str):
    model = network()
    tensors = {n: Tensor(a) for n, a in state_dict(model).items()} | {name: kind(np.zeros(4))}
    torch = types.SimpleNamespace(load=lambda path, **_: tensors)
    monkeypatch.setitem(sys.modules, "torch", torch)
    (tmp_path / "w.pth").touch()
    refused(model, tmp_path / "w.pth", message)
    with pytest.raises(UserError, match=message):
        models.load_torch(model, tensors)


# Names that are not torchvision's.

VIT = {
    "cls_token": "class_token",
    "pos_embed": "encoder.pos_embedding",
    "patch_embed.proj.weight": "conv_proj.weight",
    "blocks.0.norm1.weight": "encoder.layers.encoder_layer_0.ln_1.weight",
    "blocks.0.attn.qkv.weight": "encoder.layers.encoder_layer_0.self_attention.in_proj_weight",
    "blocks.0.attn.qkv.bias": "encoder.layers.encoder_layer_0.self_attention.in_proj_bias",
    "blocks.0.attn.proj.weight": "encoder.layers.encoder_layer_0.self_attention.out_proj.weight",
    "blocks.0.norm2.bias": "encoder.layers.encoder_layer_0.ln_2.bias",
    "blocks.0.mlp.fc1.weight": "encoder.layers.encoder_layer_0.mlp.0.weight",
    "blocks.0.mlp.fc2.bias": "encoder.layers.encoder_layer_0.mlp.3.bias",
    "encoder.layers.encoder_layer_0.mlp.linear_1.bias": "encoder.layers.encoder_layer_0.mlp.0.bias",
    "norm.weight": "encoder.ln.weight",
    "head.weight": "heads.head.weight",
}
HUGGING_VIT = {
    "vit.embeddings.cls_token": "class_token",
    "vit.embeddings.position_embeddings": "encoder.pos_embedding",
    "vit.embeddings.patch_embeddings.projection.bias": "conv_proj.bias",
    "vit.encoder.layer.0.attention.output.dense.bias": (
        "encoder.layers.encoder_layer_0.self_attention.out_proj.bias"
    ),
    "vit.encoder.layer.0.layernorm_before.weight": "encoder.layers.encoder_layer_0.ln_1.weight",
    "vit.encoder.layer.0.layernorm_after.weight": "encoder.layers.encoder_layer_0.ln_2.weight",
    "vit.encoder.layer.0.intermediate.dense.weight": "encoder.layers.encoder_layer_0.mlp.0.weight",
    "vit.encoder.layer.0.output.dense.weight": "encoder.layers.encoder_layer_0.mlp.3.weight",
    "vit.layernorm.bias": "encoder.ln.bias",
    "classifier.weight": "heads.head.weight",
}
HUGGING_RESNET = {
    "resnet.embedder.embedder.convolution.weight": "conv1.weight",
    "resnet.embedder.embedder.normalization.running_var": "bn1.running_var",
    "resnet.encoder.stages.1.layers.0.shortcut.convolution.weight": "layer2.0.downsample.0.weight",
    "resnet.encoder.stages.1.layers.0.shortcut.normalization.bias": "layer2.0.downsample.1.bias",
    "resnet.encoder.stages.3.layers.0.layer.1.convolution.weight": "layer4.0.conv2.weight",
    "resnet.encoder.stages.0.layers.0.layer.0.normalization.weight": "layer1.0.bn1.weight",
    "classifier.1.bias": "fc.bias",
}
DENSE = {
    "features.denseblock1.denselayer2.norm.1.running_mean": (
        "features.denseblock1.denselayer2.norm1.running_mean"
    ),
    "features.denseblock1.denselayer1.conv.2.weight": (
        "features.denseblock1.denselayer1.conv2.weight"
    ),
    "features.norm0.weight": "features.norm0.weight",
}


def tiny_vit():
    return VisionTransformer(2, width=8, depth=1, heads=2, rngs=nnx.Rngs(0))


@pytest.mark.parametrize(
    ("make", "names"),
    [
        (tiny_vit, VIT),
        (lambda: DenseNet(2, depths=(2,), growth=4, stem=4, rngs=nnx.Rngs(0)), DENSE),
        (tiny_vit, HUGGING_VIT),
        (
            lambda: ResNet(2, block=BasicBlock, blocks=(1, 1, 1, 1), rngs=nnx.Rngs(0)),
            HUGGING_RESNET,
        ),
    ],
    ids=["vit", "densenet", "hugging-vit", "hugging-resnet"],
)
def test_names_of_timm_and_of_older_files(make, names):
    model = nnx.eval_shape(make)
    assert set(names.values()) <= set(models.torch_names(model))
    numbered = {name: np.full(1, number) for number, name in enumerate(names)}
    found = torchvision_names(model, numbered | {"norm.num_batches_tracked": np.zeros(())})
    assert found == {new: numbered[old] for old, new in names.items()}


def test_hugging_face_has_queries_keys_and_values_apart():
    draw = np.random.default_rng(0)
    parts = {n: draw.random((8, 8)).astype(np.float32) for n in ("query", "key", "value")}
    name = "vit.encoder.layer.0.attention.attention.{}.weight"
    given = {name.format(part): array for part, array in parts.items()}
    model = nnx.eval_shape(tiny_vit)
    found = torchvision_names(model, given | {"vit.pooler.dense.bias": np.zeros(8)})
    joined = np.concatenate(list(parts.values()))
    (key,) = found
    assert key == "encoder.layers.encoder_layer_0.self_attention.in_proj_weight"
    np.testing.assert_array_equal(found[key], joined)
    for shapes in ((), (), ()), ((8, 8), (8, 8), (8, 4)):
        other = dict(zip(given, map(np.zeros, shapes), strict=True))
        with pytest.raises(UserError, match=r"the weights have no heads.head.weight"):
            models.number_of_classes(model, other)


@pytest.mark.parametrize(
    ("value", "dtype", "wrong"),
    [
        (np.nan, np.float32, "NaN or infinite"),
        (np.inf, np.float32, "NaN or infinite"),
        (1e200, np.float64, "beyond float32"),
        (-1e-3, np.float32, "negative"),
        (-1.0, np.float16, "negative"),
    ],
)
def test_values_that_no_whole_training_writes_are_refused(value, dtype, wrong: str):
    model = network()
    before = snapshot(model)
    bad = state_dict(model) | {"bn1.running_var": np.full(8, value, dtype)}
    with pytest.raises(UserError, match=rf"{wrong} \(1\): bn1.running_var\n.*diverged"):
        models.load_torch(model, bad)
    assert snapshot(model) == before


def test_wide_weights_within_float32_are_taken():
    model = network()
    arrays = state_dict(model)
    models.load_torch(model, {name: array.astype(np.float64) for name, array in arrays.items()})
    np.testing.assert_array_equal(model.fc.bias[...], arrays["fc.bias"])


def test_the_head_where_it_fits():
    weights = state_dict(network(classes=5))
    model = network(classes=5)
    assert models.load_torch(model, weights, head="auto") == ()
    model = network(classes=3)
    assert models.load_torch(model, weights, head="auto") == ("fc.bias", "fc.weight")
    body = {name: array for name, array in weights.items() if not name.startswith("fc.")}
    assert models.load_torch(model, body, head="auto") == ("fc.bias", "fc.weight")
    with pytest.raises(UserError, match="unknown head 'keep'"):
        models.load_torch(model, weights, head="keep")  # pyright: ignore[reportArgumentType]


def test_timms_vgg_has_convolutions_for_dense_layers():
    model = nnx.eval_shape(lambda: VGG(5, depths=(1, 1, 1, 1, 1), rngs=nnx.Rngs(0)))
    arrays = {
        "pre_logits.fc1.weight": np.zeros((4096, 512, 7, 7), np.float16),
        "pre_logits.fc2.weight": np.zeros((4096, 4096, 1, 1), np.float16),
        "head.fc.weight": np.zeros((5, 4096), np.float16),
    }
    expected = models.torch_names(model)
    for name, array in torchvision_names(model, arrays).items():
        assert array.shape == torch_shape(expected[name])
    assert jax.tree.leaves(nnx.state(model))


def test_two_arrays_of_one_name():
    model = models.create("vit_compact", num_classes=3, rngs=nnx.Rngs(0))
    arrays = state_dict(model)
    twice = {**arrays, "head.bias": arrays["heads.head.bias"]}
    with pytest.raises(
        UserError, match=r"heads\.head\.bias and head\.bias, which are two names of"
    ):
        models.load_torch(model, twice)


@pytest.mark.parametrize("prefix", ["module.", "model.", "_orig_mod.", "_orig_mod.module.model."])
def test_prefixes_of_training_programs(prefix: str):
    model = network()
    arrays = state_dict(model)
    models.load_torch(model, {prefix + name: array for name, array in arrays.items()})
    np.testing.assert_array_equal(model.fc.bias[...], arrays["fc.bias"])
    with pytest.raises(UserError, match=r"unexpected.*criterion.weight"):
        models.load_torch(model, {**arrays, "criterion.weight": np.ones(2)})
