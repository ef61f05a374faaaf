"""Modules under the names they had before: scripts outside of the project import them."""

from __future__ import annotations

import importlib
import sys
import warnings
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

MOVED = {
    "isnet_jax.data.readers": "isnet_jax.data.custom.readers",
    "isnet_jax.run_folder": "isnet_jax.commands.run_folder",
}


class Moved(MetaPathFinder, Loader):
    """Finds a module, or one below it, at its new place; with a DeprecationWarning."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        return ModuleSpec(fullname, self) if _new_name(fullname) else None

    def exec_module(self, module: ModuleType) -> None:
        old = module.__name__
        new = _new_name(old)
        assert new is not None
        warnings.warn(f"{old} is {new} now", DeprecationWarning, stacklevel=2)
        sys.modules[old] = importlib.import_module(new)


def _new_name(old: str) -> str | None:
    for before, after in MOVED.items():
        if old == before or old.startswith(f"{before}."):
            return after + old.removeprefix(before)
    return None
