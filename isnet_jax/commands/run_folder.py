"""The output folder of a run: claimed once, continued by the same options, refused to others."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import errno
import fcntl
import os
import platform
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TextIO, TypeVar

from isnet_jax.commands.config_file import to_yaml
from isnet_jax.errors import UserError, printable
from isnet_jax.files import regular, temporaries, write_atomically
from isnet_jax.training.serial import read_record, record_of, write_record

RUN_FILE = "run.json"
SEGMENTER = "segmenter"  # The kind of run that is none of classifiers.
CONFIG = "config.yaml"
_LOCK = ".lock"
_WRITTEN = (RUN_FILE, CONFIG, "metrics.json", "report.html", "model.json", "metrics.jsonl")

_ANOTHER_FOLDER = "The file is damaged or of another version: train again, into another folder."

T = TypeVar("T")
Complete = Callable[[dict[str, Any]], dict[str, Any]]


def check(folder: Path, settings: dict[str, Any], complete: Complete = dict) -> None:
    """Make sure that the folder is free, or holds the same run; writes nothing.

    Args:
      complete: gives the settings of an earlier version what they lack.

    Raises:
      UserError: it is a file, holds something else, or a run with other settings.
    """
    try:
        _check(folder, settings, complete)
    except OSError as error:
        raise UserError(
            f"{printable(folder)} cannot be read ({error}). Choose another --out."
        ) from error


def claim(
    folder: Path, settings: dict[str, Any], options: dict[str, Any], complete: Complete = dict
) -> None:
    """Check the folder, and record the settings in it, and the options for `--config`.

    Args:
      settings, complete: as for `check`.
      options: what the command was given, without the folder itself.

    Raises:
      UserError: as `check`, or the folder cannot be written to.
    """
    check(folder, settings, complete)
    try:
        if not (folder / RUN_FILE).exists():
            write_record(folder / RUN_FILE, {"settings": settings})
        if not (folder / CONFIG).exists():
            write_atomically(folder / CONFIG, to_yaml(options))
    except OSError as error:
        raise _unwritable(folder, error) from error


@contextlib.contextmanager
def lock(folder: Path) -> Iterator[None]:
    """Keep the folder to this process while the block runs.

    The operating system gives the lock back when a process ends, however it ends, so that no
    lock is ever stale; the file stays, and says who has it or had it. Files that killed processes
    were writing are removed.

    Raises:
      UserError: another process has it, or it cannot be written to.
    """
    try:
        opened = _opened(folder / _LOCK, os.O_RDWR | os.O_CREAT)
    except OSError as error:
        raise _unwritable(folder, error) from error
    with opened as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise _in_use(folder) from None
        except OSError as error:  # A file system without locks.
            if error.errno not in (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS):
                raise
        file.truncate(0)
        now = datetime.datetime.now().isoformat(" ", "seconds")
        file.write(f"process {os.getpid()} on {platform.node()} since {now}\n")
        file.flush()
        for place in _places(folder):
            for left in temporaries(place, _WRITTEN):
                left.unlink(missing_ok=True)
        yield


def _opened(path: Path, flags: int) -> TextIO:
    """A lock: never what a link points to, which would be emptied, nor a pipe, which would wait."""
    handle = regular(path, flags | os.O_NOFOLLOW)
    return os.fdopen(handle, "r" if flags == os.O_RDONLY else "r+")


def check_unlocked(folder: Path) -> None:
    """Make sure that no other process trains in this folder; writes nothing.

    Raises:
      UserError: one does.
    """
    try:
        with _opened(folder / _LOCK, os.O_RDONLY) as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        raise _in_use(folder) from None
    except OSError:
        pass  # No lock, or none to be had.


def records(folder: Path) -> list[Path]:
    """The files of a run that are, or would be, its records, and those of its networks."""
    return [place / name for place in _places(folder) for name in _WRITTEN]


def _places(folder: Path) -> list[Path]:
    inside = folder.iterdir() if folder.is_dir() else ()
    return [folder, *(path for path in inside if path.is_dir())]


def _unwritable(folder: Path, error: OSError) -> UserError:
    return UserError(f"cannot write to {printable(folder)} ({error}). Choose another --out.")


def _in_use(folder: Path) -> UserError:
    owner = (folder / _LOCK).read_text(errors="replace").strip()
    return UserError(
        f"{printable(folder)} is in use by another run: {owner}. Wait for it to end, stop it, or "
        "choose another --out."
    )


@dataclasses.dataclass(frozen=True)
class _Run:
    """What run.json holds."""

    settings: dict[str, Any]


def read(folder: Path) -> dict[str, Any]:
    """The settings of the run in a folder.

    Raises:
      UserError: there is no run, or its record is incomplete.
    """
    record = folder / RUN_FILE
    if not record.is_file():
        raise UserError(
            f"{printable(folder)} holds no run: {RUN_FILE} is missing. Expected the output folder "
            "of "
            "`isnet-jax train`."
        )
    return read_record(_Run, record, _ANOTHER_FOLDER).settings


def read_as(kind: type[T], folder: Path) -> T:
    """Those of the settings that a dataclass names.

    Raises:
      UserError: as `read`, or a setting is missing or of a wrong type.
    """
    names = {field.name for field in dataclasses.fields(kind)}  # pyright: ignore
    found = {name: value for name, value in read(folder).items() if name in names}
    return record_of(kind, found, folder / RUN_FILE, _ANOTHER_FOLDER)


def _check(folder: Path, settings: dict[str, Any], complete: Complete) -> None:
    if folder.exists() and not folder.is_dir():
        raise UserError(
            f"{printable(folder)} is a file; expected an output folder. Choose another --out."
        )
    for file in records(folder):
        if file.is_dir():
            raise UserError(f"{printable(file)} is a folder; expected a file. Move it away.")
    if (folder / RUN_FILE).exists():
        differing = _differences(complete(read(folder)), settings)
        if differing:
            more = f"\n  and {len(differing) - 8} more" if len(differing) > 8 else ""
            raise UserError(
                f"{printable(folder)} holds another run; it differs in:\n  "
                + "\n  ".join(differing[:8])
                + f"{more}\nChoose another --out, or give that run's options to go on with it "
                f"(--config {printable(folder / 'config.yaml')})."
            )
    elif folder.is_dir() and {*folder.iterdir()} - {*temporaries(folder, _WRITTEN)}:
        raise UserError(
            f"{printable(folder)} is not empty and holds no {RUN_FILE}; nothing was overwritten. "
            "Choose "
            "another --out."
        )


def _differences(found: Any, wanted: Any, path: str = "") -> list[str]:
    if isinstance(found, dict) and isinstance(wanted, dict):
        keys = sorted({*found, *wanted})
        return [
            line
            for key in keys
            for line in _differences(
                found.get(key), wanted.get(key), f"{path}.{key}" if path else key
            )
        ]
    return [] if found == wanted else [f"{path}: {found!r} there, {wanted!r} now"]
