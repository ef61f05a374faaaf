"""Packages whose names are imported on first use: what nobody asks for costs nothing."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Mapping
from typing import Any


def exports(
    package: str, names: Mapping[str, tuple[str, ...]]
) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """`__getattr__` and `__dir__` of a package that re-exports what its modules define.

    Type checkers read the same list as imports under `TYPE_CHECKING`; a test compares the two.

    Args:
      package: its `__name__`.
      names: module below the package -> the names it defines; () re-exports the module itself.
    """
    homes = {name: module for module, defined in names.items() for name in defined or (module,)}

    def get(name: str) -> Any:
        if name not in homes:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        module = importlib.import_module(f"{package}.{homes[name]}")
        value = getattr(module, name) if names[homes[name]] else module
        setattr(sys.modules[package], name, value)
        return value

    return get, lambda: sorted({*vars(sys.modules[package]), *homes})
