"""Names for the arrays that a function reads: their paths in the pytrees that hold them."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from types import CodeType, ModuleType
from typing import Any

import jax
import numpy as np

from isnet_jax.lrp.trace.jaxpr import written_in_text


def parameter_names(f: Callable[..., Any], constants: Mapping[int, Any]) -> dict[int, str]:
    """Names for the arrays that `f` reads: the path in the closed-over or global pytree."""
    paths: dict[int, str] = {}
    arrays: list[tuple[np.ndarray, str]] = []
    for holder in _holders(f):
        for path, leaf in jax.tree_util.tree_flatten_with_path(holder)[0]:
            text = jax.tree_util.keystr(path, simple=True, separator="/")
            parts = [part for part in text.split("/") if part != "params"]
            while len(parts) > 1 and parts[-1] in ("value", "raw_value"):
                parts.pop()
            name = "/".join(parts[:-1] or parts)
            paths.setdefault(id(leaf), name)
            if isinstance(leaf, np.ndarray):
                arrays.append((leaf, name))
    found = {}
    for variable, value in constants.items():
        if id(value) in paths:
            found[variable] = paths[id(value)]
        elif arrays and written_in_text(value):  # JAX holds a copy of a NumPy array
            same = (name for leaf, name in arrays if _taken_from(leaf, value))
            name = next(same, None)
            if name is not None:
                found[variable] = name or "array"
    return found


def _taken_from(leaf: np.ndarray, value: Any) -> bool:
    """Whether all numbers of the value stand in the array: a copy, transposed or cut or cast."""
    array = np.asarray(value)
    if leaf.size < array.size or not np.issubdtype(leaf.dtype, np.number):
        return False
    return bool(np.isin(array, leaf.astype(array.dtype)).all())


def _holders(f: Any, depth: int = 0) -> Iterator[Any]:
    if depth > 3 or f is None:
        return
    if isinstance(f, functools.partial):
        yield from (*f.args, f.keywords)
        yield from _holders(f.func, depth + 1)
        return
    for cell in getattr(f, "__closure__", None) or ():
        try:
            contents = cell.cell_contents
        except ValueError:  # a cell that is not filled yet
            continue
        yield contents
        if callable(contents):
            yield from _holders(contents, depth + 1)
    names = _global_names(getattr(f, "__code__", None))
    for contents in (f.__globals__[name] for name in names if name in f.__globals__):
        if not isinstance(contents, type | ModuleType):
            yield contents
    yield from _holders(getattr(f, "__self__", None), depth + 1)
    yield from _holders(getattr(f, "__wrapped__", None), depth + 1)
    yield from _attributes(f)
    yield f


def _attributes(holder: Any) -> Iterator[Any]:
    """The arrays, and lists and dicts of them, of an object that is no pytree."""
    attributes = getattr(holder, "__dict__", None)
    if isinstance(attributes, dict) and not isinstance(holder, type | ModuleType):
        yield {k: v for k, v in attributes.items() if isinstance(v, np.ndarray | list | dict)}


def _global_names(code: CodeType | None) -> Iterator[str]:
    """What a function and the functions inside it may read from the module's names."""
    if code is not None:
        yield from code.co_names
        for constant in code.co_consts:
            if isinstance(constant, CodeType):
                yield from _global_names(constant)
