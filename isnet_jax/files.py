"""Files that are the old one or the new one, never a part."""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Iterable
from pathlib import Path

from isnet_jax.errors import UserError, printable


def check_writable(path: str | os.PathLike[str]) -> None:
    """Make sure, before any work is done, that a file can be written there; makes its folder.

    Raises:
      UserError: it cannot.
    """
    target = Path(path)
    problem = "it is a folder" if target.is_dir() else None
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=target.parent):
            pass
    except OSError as error:
        problem = str(error)
    if problem:
        raise UserError(f"cannot write {printable(target)} ({problem}). Choose another --out.")


def temporaries(folder: Path, names: Iterable[str]) -> list[Path]:
    """What processes that were killed in `write_atomically` have left of these files."""
    pattern = re.compile(rf"\.({'|'.join(map(re.escape, names))})\.[a-z0-9_]{{8}}")
    return [path for path in folder.glob(".*") if pattern.fullmatch(path.name) and path.is_file()]


def write_atomically(path: str | os.PathLike[str], data: bytes | str) -> None:
    """Write a file by renaming a finished one; missing folders are made."""
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.parent)
    temporary = Path(name)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data.encode() if isinstance(data, str) else data)
            file.flush()
            os.fsync(file.fileno())
        temporary.chmod(0o644)
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)
