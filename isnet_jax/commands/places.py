"""The files and folders that options name, understood alike by all commands."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import Any

from isnet_jax.errors import UserError, printable

# Only read, by this package alone: any name that the file system has will do.
_SOURCES = ("images", "folder", "table", "annotations")


def expanded(value: Any, option: str = "") -> Any:
    """Options with the home folder instead of `~` in their paths.

    Raises:
      UserError: `~NAME` of no user, a name that no file can have, or one that is not UTF-8, where
        TensorStore and TFDS would write or read.
    """
    if isinstance(value, Path):
        return _place(value, option)
    if isinstance(value, tuple):
        items = tuple(expanded(item, option) for item in value)
        return value if items == value else items
    if not dataclasses.is_dataclass(value) or isinstance(value, type):
        return value
    fields = [field.name for field in dataclasses.fields(value) if field.init]
    found = {name: expanded(getattr(value, name), name) for name in fields}
    changed = {name: new for name, new in found.items() if new is not getattr(value, name)}
    return dataclasses.replace(value, **changed) if changed else value


def _place(path: Path, option: str) -> Path:
    if option not in _SOURCES and not _is_utf8(path):
        raise UserError(f"{option} is {printable(path)}, a name that is not UTF-8. Choose another.")
    if "\0" in os.fspath(path):
        raise UserError(f"{option} is {printable(path)}, which has a NUL. Choose another.")
    try:
        return path.expanduser()
    except RuntimeError as error:
        raise UserError(
            f"{option} is {printable(path)}, in the home folder of no user that is known here. "
            "Write the whole path."
        ) from error


def _is_utf8(path: Path) -> bool:
    try:
        os.fspath(path).encode()
    except UnicodeEncodeError:
        return False
    return True
