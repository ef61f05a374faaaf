"""The type checker of the test run: beartype, on the annotations that state shapes.

Annotations without a shape are left alone, so that tests can pass wrong options and names and see
the library's own errors.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, get_args

from beartype import beartype
from jaxtyping import AbstractArray


def shapes(function: Callable[..., Any]) -> Callable[..., Any]:
    """For pytest's option `--jaxtyping-packages`."""
    annotations = function.__annotations__
    function.__annotations__ = {
        name: kind if _states_shapes(kind) else Any for name, kind in annotations.items()
    }
    return beartype(function)


def _states_shapes(kind: Any) -> bool:
    if isinstance(kind, type) and issubclass(kind, AbstractArray):
        return True
    return any(map(_states_shapes, get_args(kind)))
