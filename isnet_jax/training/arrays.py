"""Trees of arrays as arrays by name, and back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from isnet_jax.errors import UserError, printable


def flattened(tree: Any) -> dict[str, Any]:
    """Arrays, or their shapes, by their path: whatever the classes around them."""
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): (
            _key_data(leaf) if _is_key(leaf) else leaf
        )
        for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]
    }


def unflattened(like: Any, arrays: Mapping[str, Any], where: str) -> Any:
    """Arrays of `flattened` in the structure of `like`: arrays, or their shapes alone.

    Raises:
      UserError: arrays are missing or of other shapes.
    """
    expected = flattened(like)
    problems = [
        f"  {name}: found {np.shape(arrays[name]) if name in arrays else 'nothing'}, expected "
        f"{np.shape(value)}"
        for name, value in expected.items()
        if name not in arrays or np.shape(arrays[name]) != np.shape(value)
    ]
    if problems:
        shown = "\n".join(problems[:8])
        raise UserError(
            f"the checkpoint in {printable(where)} belongs to another architecture or optimiser "
            f"({len(problems)} arrays differ):\n{shown}\nUse the options it was trained with."
        )
    leaves, structure = jax.tree.flatten(like)
    restored = [
        jax.random.wrap_key_data(arrays[name], impl=_key_impl(leaf))
        if _is_key(leaf)
        else jnp.asarray(arrays[name])
        for name, leaf in zip(expected, leaves, strict=True)
    ]
    return jax.tree.unflatten(structure, restored)


def _is_key(leaf: Any) -> bool:
    return hasattr(leaf, "dtype") and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _key_data(leaf: Any) -> Any:
    if isinstance(leaf, jax.ShapeDtypeStruct):
        return jax.eval_shape(jax.random.key_data, leaf)
    return jax.random.key_data(leaf)


def _key_impl(leaf: Any) -> Any:
    found = []
    jax.eval_shape(lambda key: found.append(jax.random.key_impl(key)), leaf)
    return found[0]
