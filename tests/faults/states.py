"""What a process that is killed would leave of a folder, at each of its operations; and full disks.

Python tells an audit hook of each operation on files before it is made. A copy of the folder at
that moment is what a kill there would leave. Other threads, and libraries that write without
Python, go on between two such moments: what they have written by the second is also cut in half.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import resource
import shutil
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax

_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
_CHANGES = {"os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.truncate", "os.link"}

_watching: list[Callable[[], None]] = []
_folder: list[str] = []
_inside = threading.local()


def _hook(event: str, arguments: tuple[Any, ...]) -> None:
    if not _watching or getattr(_inside, "it", False):
        return
    if event == "open":
        path, _, flags = arguments
        if not isinstance(flags, int) or not flags & _WRITES:
            return
    elif event in _CHANGES:
        path = arguments[0]
    else:
        return
    if not isinstance(path, str | bytes | os.PathLike):
        return
    name = os.fsdecode(path)
    # `shutil.rmtree` names what it removes relative to an open folder.
    if not os.path.isabs(name) or name.startswith(_folder[0]):
        _inside.it = True
        try:
            _watching[0]()
        finally:
            _inside.it = False


sys.addaudithook(_hook)


@contextlib.contextmanager
def _watched(folder: Path, by: Callable[[], None]) -> Iterator[None]:
    _watching.append(by)
    _folder[:] = [str(folder)]
    try:
        yield
    finally:
        _watching.clear()


Contents = dict[str, bytes | None]
"""Files by their path, and folders (None)."""


def contents(folder: Path) -> Contents:
    """What a folder holds at one moment: read until nothing changes meanwhile."""
    found = _read(folder)
    while (again := _read(folder)) != found:
        found = again
    return found


def _read(folder: Path) -> Contents:
    found: Contents = {}
    for place, folders, files in os.walk(folder):
        for name in folders:
            found[os.path.relpath(os.path.join(place, name), folder)] = None
        for name in files:
            path = os.path.join(place, name)
            with contextlib.suppress(FileNotFoundError):  # Renamed meanwhile.
                found[os.path.relpath(path, folder)] = Path(path).read_bytes()
    return found


def write(state: Contents, folder: Path) -> Path:
    """Puts a folder into a state, whatever it held."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for name in sorted(state):
        data, path = state[name], folder / name
        if data is None:
            path.mkdir(parents=True, exist_ok=True)
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
    return folder


def kills(folder: Path, run: Callable[[], None]) -> list[Contents]:
    """All states that killing `run` would leave, each once, in their order."""
    seen: list[Contents] = []
    lock = threading.Lock()

    def keep() -> None:
        with lock:
            seen.append(contents(folder))

    with _watched(folder, keep):
        run()
    seen.append(contents(folder))
    states: dict[str, Contents] = {}
    for before, after in zip([{}, *seen], seen, strict=False):
        for state in (*_torn(before, after), after):
            states.setdefault(_digest(state), state)
    return [*states.values()]


def _torn(before: Contents, after: Contents) -> Iterator[Contents]:
    """States between two: each new file cut in half, behind those before it."""
    known = {data for data in before.values() if data}
    state = dict(before)
    for name, data in after.items():
        if data and data not in known:
            yield {**state, name: data[: len(data) // 2]}
            state[name] = data


def _digest(state: Contents) -> str:
    digest = hashlib.sha256()
    for name in sorted(state):
        digest.update(f"{name}\0{state[name] is None}\0".encode())
        digest.update(hashlib.sha256(state[name] or b"").digest())
    return digest.hexdigest()


@contextlib.contextmanager
def full_disk(folder: Path, after: int) -> Iterator[list[int]]:
    """Every operation below the folder fails for want of room, but for the first so many.

    Gives a list whose only item is how many operations there were.
    """
    made = [0]

    def fail() -> None:
        made[0] += 1
        if made[0] > after:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(folder))

    with _watched(folder, fail):
        yield made


@contextlib.contextmanager
def smaller_files(size: int) -> Iterator[None]:
    """No file of this process gets longer than that, whoever writes it."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    cached = jax.config.jax_enable_compilation_cache  # pyright: ignore
    jax.config.update("jax_enable_compilation_cache", False)  # It would keep parts of programs.
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        jax.config.update("jax_enable_compilation_cache", cached)
