"""Where the arrays come from that a function reads: pytrees that hold them, or its own text."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from types import CodeType, ModuleType
from typing import Any, NamedTuple

import jax
import numpy as np

from isnet_jax.lrp.trace.jaxpr import written_in_text

_DEPTH = 5
_LIBRARIES = frozenset({"jax", "jaxlib", "numpy", "flax", "haiku", "equinox", "optax", "builtins"})


class Sources(NamedTuple):
    """What is known of the arrays that a program holds, by variable.

    Attributes:
      names: the path in the pytree that holds the array.
      texts: arrays whose numbers are written into the functions, or into lists that they read.
    """

    names: dict[int, str]
    texts: set[int]


def sources_of(f: Callable[..., Any], constants: Mapping[int, Any]) -> Sources:
    """Where the arrays that `f` reads come from: what it closes over, module globals, its text."""
    paths: dict[int, str] = {}
    arrays: list[tuple[np.ndarray, str]] = []
    numbers: set[float] = set()
    for holder in _holders(f, set()):
        if isinstance(holder, CodeType):
            numbers.update(_numbers(holder.co_consts))
            continue
        for path, leaf in _leaves(holder):
            name = _name(path)
            paths.setdefault(id(leaf), name)
            numbers.update(_numbers([leaf]))
            if isinstance(leaf, np.ndarray) and np.issubdtype(leaf.dtype, np.number):
                arrays.append((leaf, name))
    names, texts = {}, set()
    for variable, value in constants.items():
        if id(value) in paths:
            names[variable] = paths[id(value)]
        elif written_in_text(value):  # JAX holds a copy of a NumPy array
            name = next((name for leaf, name in arrays if _taken_from(leaf, value)), None)
            if name is not None:
                names[variable] = name or "array"
            elif all(abs(number) in numbers for number in np.unique(np.asarray(value)).tolist()):
                texts.add(variable)
    return Sources(names, texts)


def _leaves(holder: Any) -> list[tuple[Any, Any]]:
    """The leaves with their paths; none of a tree that cannot be read twice (Equinox' states)."""
    try:
        return jax.tree_util.tree_flatten_with_path(holder)[0]
    except ValueError:
        return []


def _name(path: Any) -> str:
    text = jax.tree_util.keystr(path, simple=True, separator="/")
    parts = [part for part in text.split("/") if part != "params"]
    while len(parts) > 1 and parts[-1] in ("value", "raw_value"):
        parts.pop()
    return "/".join(parts[:-1] or parts)


def _taken_from(leaf: np.ndarray, value: Any) -> bool:
    """Whether all numbers of the value stand in the array: a copy, transposed or cut or cast."""
    array = np.asarray(value)
    return leaf.size >= array.size and bool(np.isin(array, leaf.astype(array.dtype)).all())


def _numbers(constants: Any) -> Iterator[float]:
    """The numbers in a function's text, in single precision as well."""
    for constant in constants:
        if isinstance(constant, int | float):
            yield abs(float(constant))
            yield float(np.float32(abs(constant)))
        elif isinstance(constant, tuple):
            yield from _numbers(constant)


def _holders(f: Any, seen: set[int], depth: int = 0) -> Iterator[Any]:
    """What `f` may read: trees of arrays, and the code of the functions that it may call."""
    if depth > _DEPTH or f is None or id(f) in seen:
        return
    seen.add(id(f))
    if isinstance(f, functools.partial):
        yield from (*f.args, f.keywords)
        yield from _holders(f.func, seen, depth + 1)
        return
    for contents in _read(f):
        if not isinstance(contents, type | ModuleType):
            yield contents
            if callable(contents):
                yield from _holders(contents, seen, depth + 1)
    if isinstance(getattr(f, "__code__", None), CodeType):
        yield from _codes(f.__code__)
    for attribute in ("__self__", "__wrapped__"):
        yield from _holders(getattr(f, attribute, None), seen, depth + 1)
    yield from _attributes(f)
    yield f


def _read(f: Any) -> Iterator[Any]:
    """The values of a function's closure, of its defaults and of the globals that it names."""
    if (getattr(f, "__module__", None) or "").partition(".")[0] in _LIBRARIES:
        return
    for cell in getattr(f, "__closure__", None) or ():
        try:
            yield cell.cell_contents
        except ValueError:  # a cell that is not filled yet
            continue
    yield from getattr(f, "__defaults__", None) or ()
    yield from (getattr(f, "__kwdefaults__", None) or {}).values()
    names = {name for code in _codes(getattr(f, "__code__", None)) for name in code.co_names}
    yield from (f.__globals__[name] for name in sorted(names) if name in f.__globals__)


def _codes(code: CodeType | None) -> Iterator[CodeType]:
    """The code of a function and of the functions inside it."""
    if isinstance(code, CodeType):
        yield code
        for constant in code.co_consts:
            yield from _codes(constant if isinstance(constant, CodeType) else None)


def _attributes(holder: Any) -> Iterator[Any]:
    """The arrays, and lists and dicts of them, of an object that is no pytree."""
    attributes = getattr(holder, "__dict__", None)
    if isinstance(attributes, dict) and not isinstance(holder, type | ModuleType):
        yield {k: v for k, v in attributes.items() if isinstance(v, np.ndarray | list | dict)}
