"""Weights from PyTorch: torchvision's names and layouts into our modules."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import nnx

from isnet_jax.errors import UserError
from isnet_jax.models.layers import BatchNorm, Conv, LayerNorm, Linear
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


def load_torch(model: nnx.Module, state_dict: Mapping[str, Any]) -> None:
    """Load a PyTorch state dict into a model, in place.

    Args:
      model: one of `models.create`'s.
      state_dict: torch tensors or numpy arrays by torchvision's names, in its layouts. Their
        floating-point dtype is kept (float64 only under `jax_enable_x64`).

    Raises:
      UserError: missing or unexpected names, wrong shapes, or values that are not floating
        point; the model is unchanged then.
    """
    variables = torch_names(model)
    arrays = {
        name: _numpy(name, value)
        for name, value in state_dict.items()
        if not name.endswith(_IGNORED)
    }
    problems = [
        *_listed("missing", sorted(set(variables) - set(arrays))),
        *_listed("unexpected", sorted(set(arrays) - set(variables))),
        *_listed("wrong shape", list(_misshapen(variables, arrays))),
    ]
    if problems:
        raise UserError(
            "load_torch: the state dict does not fit the model; nothing was loaded.\n"
            + "\n".join(problems)
            + "\nCreate the model with the architecture and num_classes of the weights."
        )
    for name, variable in variables.items():
        variable.set_value(jnp.asarray(from_torch_layout(arrays[name])))


def _numpy(name: str, value: Any) -> np.ndarray:
    detach: Callable[[], Any] | None = getattr(value, "detach", None)
    array = np.asarray(detach().cpu().numpy() if detach is not None else value)
    if not np.issubdtype(array.dtype, np.floating):
        raise UserError(
            f"load_torch: {name!r} is {array.dtype}; expected floating-point weights. Nothing was "
            "loaded."
        )
    return array


def _misshapen(
    variables: Mapping[str, nnx.Variable], arrays: Mapping[str, np.ndarray]
) -> Iterator[str]:
    for name in sorted(set(variables) & set(arrays)):
        expected = to_torch_layout(np.empty(variables[name].shape, np.bool_)).shape
        if arrays[name].shape != expected:
            yield f"{name}: found {arrays[name].shape}, expected {expected}"


def _listed(title: str, names: list[str], most: int = 8) -> Iterator[str]:
    if names:
        more = f" and {len(names) - most} more" if len(names) > most else ""
        yield f"  {title} ({len(names)}): {', '.join(names[:most])}{more}"
