"""PyTorch's names and layouts of our networks' arrays: torchvision's, timm's, Hugging Face's."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping

import numpy as np
from flax import nnx

from isnet_jax.errors import UserError, printable
from isnet_jax.models.densenet import DenseNet
from isnet_jax.models.layers import BatchNorm, Conv, LayerNorm, Linear
from isnet_jax.models.network import Network
from isnet_jax.models.resnet import ResNet
from isnet_jax.models.vgg import VGG
from isnet_jax.models.vit import Attention, Encoder, VisionTransformer

_SUFFIXES: dict[type, dict[str, str]] = {
    Conv: {"kernel": "weight", "bias": "bias"},
    Linear: {"kernel": "weight", "bias": "bias"},
    LayerNorm: {"scale": "weight", "bias": "bias"},
    Attention: {"kernel": "in_proj_weight", "bias": "in_proj_bias"},
    Encoder: {"pos_embedding": "pos_embedding"},
    VisionTransformer: {"class_token": "class_token"},
    BatchNorm: {"scale": "weight", "bias": "bias", "mean": "running_mean", "var": "running_var"},
}
_IGNORED = "num_batches_tracked"
_POOLER = re.compile(r"(vit\.)?pooler\.")

# Patterns and what they become.
_RENAMED: dict[type[nnx.Module], dict[str, str | Callable[[re.Match[str]], str]]] = {
    ResNet: {  # Hugging Face; timm's names are torchvision's
        r"^(resnet\.)?embedder\.embedder\.convolution\.": "conv1.",
        r"^(resnet\.)?embedder\.embedder\.normalization\.": "bn1.",
        r"^(?:resnet\.)?encoder\.stages\.(\d+)\.layers\.": lambda m: f"layer{int(m[1]) + 1}.",
        r"\.shortcut\.convolution\.": ".downsample.0.",
        r"\.shortcut\.normalization\.": ".downsample.1.",
        r"\.layer\.(\d)\.convolution\.": lambda m: f".conv{int(m[1]) + 1}.",
        r"\.layer\.(\d)\.normalization\.": lambda m: f".bn{int(m[1]) + 1}.",
        r"^classifier\.1\.": "fc.",
    },
    # The files that torchvision links to are older than its names.
    DenseNet: {r"\.(norm|conv)\.(\d)\.": r".\1\2."},
    VGG: {  # timm
        r"^pre_logits\.fc1\.": "classifier.0.",
        r"^pre_logits\.fc2\.": "classifier.3.",
        r"^head\.fc\.": "classifier.6.",
    },
    VisionTransformer: {
        r"\.mlp\.linear_1\.": ".mlp.0.",  # torchvision before 0.13
        r"\.mlp\.linear_2\.": ".mlp.3.",
        r"^cls_token$": "class_token",  # timm
        r"^pos_embed$": "encoder.pos_embedding",
        r"^patch_embed\.proj\.": "conv_proj.",
        r"^blocks\.(\d+)\.": r"encoder.layers.encoder_layer_\1.",
        r"^norm\.": "encoder.ln.",
        r"^head\.": "heads.head.",
        r"\.norm(\d)\.": r".ln_\1.",
        r"\.attn\.qkv\.(weight|bias)$": r".self_attention.in_proj_\1",
        r"\.attn\.proj\.": ".self_attention.out_proj.",
        r"\.mlp\.fc1\.": ".mlp.0.",
        r"\.mlp\.fc2\.": ".mlp.3.",
        r"^(vit\.)?embeddings\.cls_token$": "class_token",  # Hugging Face
        r"^(vit\.)?embeddings\.position_embeddings$": "encoder.pos_embedding",
        r"^(vit\.)?embeddings\.patch_embeddings\.projection\.": "conv_proj.",
        r"^(?:vit\.)?encoder\.layer\.(\d+)\.": r"encoder.layers.encoder_layer_\1.",
        r"\.layernorm_before\.": ".ln_1.",
        r"\.layernorm_after\.": ".ln_2.",
        r"\.attention\.attention\.(query|key|value)\.": r".self_attention.\1.",
        r"\.attention\.output\.dense\.": ".self_attention.out_proj.",
        r"\.intermediate\.dense\.": ".mlp.0.",
        r"(encoder_layer_\d+)\.output\.dense\.": r"\1.mlp.3.",
        r"^(vit\.)?layernorm\.": "encoder.ln.",
        r"^classifier\.": "heads.head.",
    },
}
# Of DataParallel, of training programs that hold the network as an attribute, of torch.compile,
# and of timm's networks within Hugging Face's Transformers.
_PREFIXES = ("module.", "model.", "_orig_mod.", "timm_model.")
_IN_PARTS = ("query", "key", "value")


def torch_names(model: nnx.Module) -> dict[str, nnx.Variable]:
    """The model's variables under the names of torchvision's state dict."""
    return dict(_named(model))


def _named(model: nnx.Module) -> Iterator[tuple[str, nnx.Variable]]:
    for path, module in nnx.iter_modules(model):
        suffixes = next((s for kind, s in _SUFFIXES.items() if isinstance(module, kind)), {})
        for attribute, suffix in suffixes.items():
            variable = getattr(module, attribute)
            if variable is not None:
                yield ".".join([*map(str, path), suffix]), variable


def to_torch_layout(value: np.ndarray) -> np.ndarray:
    """Convolution kernels HWIO -> OIHW, dense (in, out) -> (out, in), all else unchanged."""
    return value.transpose({4: (3, 2, 0, 1), 2: (1, 0)}.get(value.ndim, range(value.ndim)))


def from_torch_layout(value: np.ndarray) -> np.ndarray:
    """The inverse of `to_torch_layout`."""
    return value.transpose({4: (2, 3, 1, 0), 2: (1, 0)}.get(value.ndim, range(value.ndim)))


def torch_shape(variable: nnx.Variable) -> tuple[int, ...]:
    """The shape of a variable in PyTorch's layout."""
    return to_torch_layout(np.empty(variable.shape, np.bool_)).shape


def torchvision_names(model: nnx.Module, arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """A state dict under torchvision's present names.

    Understands the names of timm, of Hugging Face and of older torchvision files, and the prefixes
    of `DataParallel`, `torch.compile` and training programs, in any order, if all names have them;
    counters of batches, and the pooler that no classifier reads, are left out. timm's convolutions
    in place of VGG's dense layers become dense; Hugging Face's projections of queries, keys and
    values become one.

    Raises:
      UserError: two arrays are of one name.
    """
    arrays = _without_prefixes(arrays)
    renamed: dict[str, np.ndarray] = {}
    former: dict[str, str] = {}
    for name, array in arrays.items():
        if name.endswith(_IGNORED) or _POOLER.match(name):
            continue
        new = _renamed(model, name)
        if new in renamed:
            raise UserError(
                f"the state dict has {printable(former[new])} and {printable(name)}, which are two "
                f"names of {new}. Expected the weights of one network."
            )
        renamed[new], former[new] = array, name
    if isinstance(model, VisionTransformer):
        _join_projections(renamed)
    if isinstance(model, VGG):
        for name, array in renamed.items():
            if name.startswith("classifier.") and array.ndim == 4:
                renamed[name] = array.reshape(array.shape[0], -1)
    return renamed


def _without_prefixes(arrays: Mapping[str, np.ndarray]) -> Mapping[str, np.ndarray]:
    for prefix in _PREFIXES:
        if arrays and all(name.startswith(prefix) for name in arrays):
            return _without_prefixes({n.removeprefix(prefix): a for n, a in arrays.items()})
    return arrays


def _join_projections(arrays: dict[str, np.ndarray]) -> None:
    for name in [name for name in arrays if f".{_IN_PARTS[0]}." in name]:
        parts = [name.replace(f".{_IN_PARTS[0]}.", f".{part}.") for part in _IN_PARTS]
        shapes = {arrays[part].shape for part in parts if part in arrays}
        # Of other shapes they stay apart, and are found to be none of the network's.
        if all(part in arrays for part in parts) and len(shapes) == 1 and shapes != {()}:
            joined = name.replace(f".{_IN_PARTS[0]}.", ".in_proj_")
            arrays[joined] = np.concatenate([arrays.pop(part) for part in parts])


def _renamed(model: nnx.Module, name: str) -> str:
    for pattern, replacement in _RENAMED.get(type(model), {}).items():
        name = re.sub(pattern, replacement, name)
    return name


def head_names(model: Network) -> tuple[str, ...]:
    """The names of the last dense layer's weight and bias."""
    ours = (model.head.kernel, model.head.bias)
    return tuple(
        name for name, variable in torch_names(model).items() if any(variable is v for v in ours)
    )
