"""Files of weights: safetensors in and out, PyTorch's own only through its safe loader."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import nnx

from isnet_jax.errors import UserError, printable
from isnet_jax.files import read_regular, write_atomically
from isnet_jax.models.torch_names import to_torch_layout, torch_names
from isnet_jax.models.torch_weights import Head, arrays_of, load_torch

_PICKLES = (".pth", ".pt", ".bin", ".ckpt")
_DTYPES = {
    "F64": np.float64,
    "F32": np.float32,
    "F16": np.float16,
    "BF16": jnp.bfloat16,
    "I64": np.int64,
    "I32": np.int32,
}
# Where checkpoints of training programs keep the state dict.
_WRAPPERS = ("state_dict", "model_state_dict", "model")


def load_weights(
    model: nnx.Module,
    path: str | os.PathLike[str],
    *,
    strict: bool = True,
    head: Head = "load",
) -> tuple[str, ...]:
    """Load a file of PyTorch weights into a model, in place; see `read_weights`, `load_torch`.

    Returns:
      The names of the arrays that the model keeps as they were.

    Raises:
      UserError: a file that cannot be read or does not fit; the model is unchanged then.
    """
    weights = read_weights(path)
    with weights_of(path):
        return load_torch(model, weights, strict=strict, head=head)


@contextlib.contextmanager
def weights_of(path: str | os.PathLike[str]) -> Iterator[None]:
    """What is wrong with weights, in the block, is said with the name of their file."""
    try:
        yield
    except UserError as error:
        raise UserError(f"{printable(path)}: {error}") from error


def save_weights(model: nnx.Module, path: str | os.PathLike[str]) -> None:
    """Save a model's weights and running statistics as safetensors, bit by bit.

    Names and layouts are torchvision's, so that PyTorch can load the file too. Options of the
    model, such as its normalisation, are not in it.

    Raises:
      UserError: the name does not end in .safetensors, or the file cannot be written.
    """
    import safetensors.numpy

    if Path(path).suffix != ".safetensors":
        raise UserError(
            f"save_weights: {printable(path)}; expected a name that ends in .safetensors."
        )
    arrays = {
        name: np.ascontiguousarray(to_torch_layout(np.asarray(variable[...])))
        for name, variable in torch_names(model).items()
    }
    try:
        write_atomically(path, safetensors.numpy.save(arrays))
    except OSError as error:
        raise UserError(f"save_weights: cannot write {printable(path)} ({error}).") from error


def read_weights(path: str | os.PathLike[str]) -> Mapping[str, Any]:
    """The arrays in a file by name.

    `.safetensors` files hold nothing but arrays. Files of PyTorch's own kind (`.pth`, `.pt`,
    `.bin`, `.ckpt`) are pickles, which can hold programs: they are read by
    `torch.load(weights_only=True)`, which runs none of them, or not at all.

    Raises:
      UserError: no such file, another kind, a damaged one, one with other things than tensors,
        or a pickle where torch is not installed.
    """
    path = Path(path)
    if path.suffix == ".safetensors":
        return _read_safetensors(path)
    if path.suffix in _PICKLES:
        return _read_pickle(path)
    raise UserError(
        f"{printable(path)}: unknown kind of weights {path.suffix!r}; expected .safetensors, or "
        f"{', '.join(_PICKLES)} with torch installed."
    )


def _bytes(path: Path) -> bytes:
    """Of a regular file; pipes and devices might never end."""
    try:
        return read_regular(path)
    except OSError as error:
        raise UserError(f"{printable(path)} cannot be read ({error.strerror or error}).") from error


def _read_safetensors(path: Path) -> Mapping[str, Any]:
    import safetensors

    data = _bytes(path)
    try:
        entries = safetensors.deserialize(data)
    except safetensors.SafetensorError as error:
        raise UserError(
            f"{printable(path)} is not a whole safetensors file ({error}). Download or save it "
            "again."
        ) from error
    unknown = sorted({e["dtype"] for _, e in entries if e["dtype"] not in _DTYPES})
    if unknown:
        raise UserError(
            f"{printable(path)} holds {', '.join(unknown)}; expected {', '.join(_DTYPES)}. "
            "Quantised weights "
            "are not supported."
        )
    arrays = {}
    for name, e in entries:
        try:
            arrays[name] = np.frombuffer(bytes(e["data"]), _DTYPES[e["dtype"]]).reshape(e["shape"])
        except (ValueError, OverflowError) as error:
            raise UserError(
                f"{printable(path)}: the tensor {printable(name)} has the shape {e['shape']} "
                f"({error}). "
                "Download or save the file again."
            ) from error
    return arrays


def _read_pickle(path: Path) -> Mapping[str, Any]:
    try:
        import torch  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise UserError(
            f"{printable(path)} is a pickle, which only torch's safe loader may open, and torch is "
            "not "
            "installed. Install it (pip install torch), or convert the file where it is: "
            "safetensors.torch.save_file(torch.load(FILE, weights_only=True), NEW_FILE)."
        ) from error
    if not path.is_file():
        raise UserError(f"{printable(path)} cannot be read (no such file).")
    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # of many kinds: damaged archives, refused pickles
        program = re.search(r"GLOBAL ([\w.]+)", str(error))
        reason = f"it refers to {program[1]}" if program else str(error).strip().split("\n")[0]
        raise UserError(
            f"{printable(path)} cannot be loaded as weights alone ({reason}). The file is damaged, "
            "or holds "
            "more than tensors; nothing in it was run. Use a file made by "
            "torch.save(model.state_dict(), ...)."
        ) from error
    for wrapper in _WRAPPERS:
        if isinstance(found, Mapping) and isinstance(found.get(wrapper), Mapping):
            found = found[wrapper]
    if not isinstance(found, Mapping) or not all(hasattr(v, "detach") for v in found.values()):
        raise UserError(f"{printable(path)} holds no state dict; expected tensors by name.")
    with weights_of(path):
        return arrays_of(found)
