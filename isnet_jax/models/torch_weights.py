"""Weights from PyTorch into our networks: checked as a whole, then loaded as a whole."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from isnet_jax.errors import UserError, printable, suggest
from isnet_jax.models.network import Network
from isnet_jax.models.torch_names import (
    from_torch_layout,
    head_names,
    torch_names,
    torch_shape,
    torchvision_names,
)

Head = Literal["load", "replace", "auto"]
_LONGEST = 200  # characters of a name that are shown


def load_torch(
    model: nnx.Module,
    state_dict: Mapping[str, Any],
    *,
    strict: bool = True,
    head: Head = "load",
) -> tuple[str, ...]:
    """Load a PyTorch state dict into a model, in place.

    Args:
      model: one of `models.create`'s.
      state_dict: torch tensors or numpy arrays by the names of torchvision, timm or Hugging Face,
        in their layouts. Their floating-point dtype is kept (float64 only under
        `jax_enable_x64`).
      strict: False: names that are missing or unexpected are passed over.
      head: "replace" keeps the model's own last dense layer, for another number of classes;
        "auto" does so where the state dict has none of its shape.

    Returns:
      The names of the arrays that the model keeps as they were.

    Raises:
      UserError: missing or unexpected names, wrong shapes, values that are not floating point, not
        finite or beyond what JAX computes in, or negative variances; the model is unchanged then.
    """
    if head not in get_args(Head):
        raise UserError("load_torch: " + suggest(str(head), get_args(Head), what="head"))
    variables = torch_names(model)
    arrays = torchvision_names(model, arrays_of(state_dict))
    last = head_names(model) if isinstance(model, Network) else ()
    if head == "auto" and not all(
        name in arrays and arrays[name].shape == torch_shape(variables[name]) for name in last
    ):
        head = "replace"
    kept = set(variables)
    if head == "replace":
        variables = {name: v for name, v in variables.items() if name not in last}
        arrays = {name: a for name, a in arrays.items() if name not in last}
    found = [name for name in variables if name in arrays]
    misshapen = {
        name: f"{name}: found {arrays[name].shape}, expected {torch_shape(variables[name])}"
        for name in found
        if arrays[name].shape != torch_shape(variables[name])
    }
    floating = {name: arrays[name] for name in found if _is_floating(arrays[name])}
    broken = _broken(floating)
    problems = [
        *_listed("wrong shape", sorted(misshapen.values())),
        *_listed(
            "not floating point",
            [f"{n}: {arrays[n].dtype}" for n in found if n not in floating],
        ),
        *broken,
    ]
    if strict or not found:
        missing, unexpected = set(variables) - set(arrays), set(arrays) - set(variables)
        problems = [
            *_listed("missing", sorted(missing)),
            *_listed("unexpected", sorted(unexpected)),
            *problems,
        ]
    if problems:
        advice = (
            "Create the model with the architecture, in_channels and num_classes of the weights."
        )
        if misshapen and set(misshapen) <= set(last):
            advice = (
                'For another number of classes use head="replace", or create the model with their '
                "num_classes."
            )
        elif problems == broken:
            advice = "The training that wrote them has diverged: use an earlier checkpoint of it."
        raise UserError(
            "load_torch: the state dict does not fit the model; nothing was loaded.\n"
            + "\n".join(problems)
            + f"\n{advice}"
        )
    values = {name: jnp.asarray(from_torch_layout(arrays[name])) for name in found}
    for name, value in values.items():
        variables[name].set_value(value)
    return tuple(sorted(kept - set(values)))


def number_of_classes(model: Network, state_dict: Mapping[str, Any]) -> int:
    """How many classes the weights for a model of this architecture were trained for.

    Raises:
      UserError: the state dict has no last dense layer of this architecture.
    """
    arrays = torchvision_names(model, arrays_of(state_dict))
    for name in head_names(model):
        if name in arrays and arrays[name].ndim:
            return arrays[name].shape[0]
    held = ", ".join(map(_short, sorted(arrays)[:4]))
    raise UserError(
        f"the weights have no {' and '.join(head_names(model))}, the last dense layer of a "
        f"{type(model).__name__}; they hold {held or 'nothing'}. Are they "
        "of another architecture?"
    )


def arrays_of(state_dict: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """The values of tensors by name.

    Raises:
      UserError: a name that is no text, or a tensor without plain values.
    """
    arrays = {}
    for name, value in state_dict.items():
        if not isinstance(name, str):
            raise UserError(f"the state dict has the name {name!r}; expected tensors by name.")
        try:
            arrays[name] = _numpy(value)
        except Exception as error:  # torch has one of its own for each kind of tensor
            reason = (str(error) or type(error).__name__).splitlines()[0]
            raise UserError(
                f"the tensor {printable(name)} has no plain values ({reason}); expected dense "
                "numbers, not sparse, quantised or of the meta device. Convert it before saving."
            ) from error
    return arrays


def _numpy(value: Any) -> np.ndarray:
    detach: Callable[[], Any] | None = getattr(value, "detach", None)
    if detach is None:
        return np.asarray(value)
    tensor = detach().cpu()
    if str(getattr(tensor, "dtype", "")) == "torch.bfloat16":  # NumPy has no such type of its own
        return tensor.float().numpy().astype(jnp.bfloat16)
    return np.asarray(tensor.numpy())


def _is_floating(array: np.ndarray) -> bool:
    return jnp.issubdtype(array.dtype, jnp.floating)


def _broken(arrays: Mapping[str, np.ndarray]) -> list[str]:
    """What no whole training writes."""
    widest = jax.dtypes.canonicalize_dtype(np.float64)
    most = jnp.finfo(widest).max
    finite = {name: array for name, array in arrays.items() if np.isfinite(array).all()}
    wider = {n: a for n, a in finite.items() if a.dtype.itemsize > widest.itemsize}
    beyond = [name for name, array in wider.items() if np.any(abs(array) > most)]
    negative = [n for n, a in finite.items() if n.endswith("running_var") and np.any(a < 0)]
    return [
        *_listed("NaN or infinite", [name for name in arrays if name not in finite]),
        *_listed(f"beyond {widest}", beyond),
        *_listed("negative", negative),
    ]


def _listed(title: str, names: list[str], most: int = 8) -> Iterator[str]:
    if names:
        more = f" and {len(names) - most} more" if len(names) > most else ""
        yield f"  {title} ({len(names)}): {', '.join(map(_short, names[:most]))}{more}"


def _short(name: str) -> str:
    return printable(name if len(name) <= _LONGEST else f"{name[:_LONGEST]}...")
