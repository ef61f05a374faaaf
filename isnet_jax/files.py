"""Files that are the old one or the new one, never a part."""

from __future__ import annotations

import contextlib
import errno
import io
import os
import re
import secrets
import stat
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from isnet_jax.errors import UserError, printable

# No room, or no more of it for this user or in one file.
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def check_outputs(
    outputs: Iterable[Path],
    option: str = "--out",
    *,
    inputs: Iterable[Path] = (),
    ours: Callable[[Path], bool] = lambda path: True,
) -> None:
    """Make sure, before any work is done, that files can be written; makes their folders.

    Args:
      option: what to choose another place with.
      inputs: files that are read, and stay.
      ours: whether a file that is there may be replaced; give it where the user did not name it.

    Raises:
      UserError: they cannot, or shall not.
    """
    outputs, kept = list(outputs), {_identity(path) for path in inputs}
    longest: dict[Path, Path] = {}
    for path in outputs:
        if path.is_dir():
            raise _unwritable(path, "it is a folder", option)
        if _identity(path) in kept:
            raise _unwritable(path, "this command reads it, and would overwrite it", option)
        if os.path.lexists(path) and not ours(path):
            raise _unwritable(path, "a file is there that this command did not write", option)
        longest[path.parent] = max(longest.get(path.parent, path), path, key=_length)
    for path in longest.values():
        try:
            with _temporary(path) as (handle, _):
                os.close(handle)
        except OSError as error:
            raise _unwritable(path, str(error), option) from error


def _identity(path: Path) -> object:
    """Equal for names of one file, whether it is there or not."""
    try:
        found = path.stat()
    except OSError:
        return os.path.realpath(path)
    return found.st_dev, found.st_ino


def _length(path: Path) -> int:
    return len(os.fsencode(path.name))


def _unwritable(path: Path, problem: str, option: str) -> UserError:
    return UserError(f"cannot write {printable(path)} ({problem}). Choose another {option}.")


def temporaries(folder: Path, names: Iterable[str]) -> list[Path]:
    """What processes that were killed in `write_atomically` have left of these files."""
    pattern = re.compile(rf"\.({'|'.join(map(re.escape, names))})\.[a-z0-9_]{{8}}")
    return [path for path in folder.glob(".*") if pattern.fullmatch(path.name) and path.is_file()]


def regular(path: str | os.PathLike[str], flags: int) -> int:
    """The handle of a regular file, opened with such flags; made with mode 0666 if they say so.

    Raises:
      OSError: it cannot be opened, or is a pipe or a device, which might never end.
    """
    handle = os.open(path, flags | os.O_NONBLOCK | os.O_CLOEXEC, 0o666)
    if stat.S_ISREG(os.fstat(handle).st_mode):
        return handle
    os.close(handle)
    raise OSError(errno.EINVAL, "not a regular file", os.fspath(path))


def open_regular(path: str | os.PathLike[str]) -> io.BufferedReader:
    """A file that `regular` opens, to be read."""
    return os.fdopen(regular(path, os.O_RDONLY), "rb")


def read_regular(path: str | os.PathLike[str]) -> bytes:
    """The bytes of a file that `open_regular` opens."""
    with open_regular(path) as file:
        return file.read()


def write_atomically(path: str | os.PathLike[str], data: bytes | str) -> None:
    """Write a file by renaming a finished one; missing folders are made."""
    target = Path(path)
    with _temporary(target) as (handle, temporary):
        with os.fdopen(handle, "wb") as file:
            file.write(data.encode() if isinstance(data, str) else data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(target)


@contextlib.contextmanager
def _temporary(target: Path) -> Iterator[tuple[int, Path]]:
    """A file beside another one, which goes away; the caller closes it."""
    target.parent.mkdir(parents=True, exist_ok=True)
    path = target.with_name(f".{target.name}.{secrets.token_hex(4)}")
    # By the user's umask, which tempfile's functions pass over.
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
    try:
        yield handle, path
    finally:
        path.unlink(missing_ok=True)
