"""Records of JSON that are whole by their form and wrong by what they hold."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any

from isnet_jax import UserError

VALUES = (None, True, -1, 0, 10**12, 2.5, float("inf"), "", "x", [], [None], {}, {"x": 1})


def places(tree: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The keys that lead to each value, the outermost first."""
    items = tree.items() if isinstance(tree, dict) else enumerate(tree)
    for key, value in items:
        yield (*path, key)
        if isinstance(value, dict | list):
            yield from places(value, (*path, key))


def without(tree: Any, path: tuple[Any, ...]) -> Any:
    changed, inner = _inner(tree, path)
    del inner[path[-1]]
    return changed


def replaced(tree: Any, path: tuple[Any, ...], value: Any) -> Any:
    changed, inner = _inner(tree, path)
    inner[path[-1]] = value
    return changed


def variants(tree: Any) -> Iterator[tuple[str, Any]]:
    """Each value taken away, and replaced by each of `VALUES`; with words for it."""
    for value in VALUES:
        yield f"all is {value!r}", value
    for path in places(tree):
        yield f"{path} is missing", without(tree, path)
        for value in VALUES:
            yield f"{path} is {value!r}", replaced(tree, path, value)


def refusal(call: Callable[[], object]) -> str | None:
    """What a call is refused with; None if it is not."""
    try:
        call()
    except UserError as error:
        return str(error)
    return None


def _inner(tree: Any, path: tuple[Any, ...]) -> tuple[Any, Any]:
    changed = copy.deepcopy(tree)
    inner = changed
    for key in path[:-1]:
        inner = inner[key]
    return changed, inner
