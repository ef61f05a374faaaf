"""The output folder of a run: claimed once, continued by the same options, refused to others."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from isnet_jax.errors import UserError
from isnet_jax.files import write_atomically
from isnet_jax.options import plain as plain

RECORD = "run.json"


def check(folder: Path, settings: dict[str, Any]) -> None:
    """Make sure that the folder is free, or holds the same run; writes nothing.

    Raises:
      UserError: it is a file, holds something else, or a run with other settings.
    """
    try:
        _check(folder, settings)
    except OSError as error:
        raise UserError(f"{folder} cannot be read ({error}). Choose another --out.") from error


def claim(folder: Path, settings: dict[str, Any]) -> None:
    """Check the folder, and record the settings in it.

    Raises:
      UserError: as `check`, or the folder cannot be written to.
    """
    check(folder, settings)
    try:
        if not (folder / RECORD).exists():
            write_atomically(folder / RECORD, json.dumps({"settings": settings}, indent=2) + "\n")
    except OSError as error:
        raise UserError(f"cannot write to {folder} ({error}). Choose another --out.") from error


def read(folder: Path) -> dict[str, Any]:
    """The settings of the run in a folder.

    Raises:
      UserError: there is no run.
    """
    record = folder / RECORD
    try:
        settings = json.loads(record.read_text())["settings"]
        if not isinstance(settings, dict):
            raise TypeError("no settings in it")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{folder} holds no run: {record} is missing or unreadable ({error}). Expected the "
            "output folder of `isnet-jax train`."
        ) from error
    return settings


def _check(folder: Path, settings: dict[str, Any]) -> None:
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder} is a file; expected an output folder. Choose another --out.")
    if (folder / RECORD).exists():
        differing = _differences(read(folder), settings)
        if differing:
            more = f"\n  and {len(differing) - 8} more" if len(differing) > 8 else ""
            raise UserError(
                f"{folder} holds another run; it differs in:\n  "
                + "\n  ".join(differing[:8])
                + f"{more}\nChoose another --out, or give that run's options to go on with it."
            )
    elif folder.is_dir() and any(folder.iterdir()):
        raise UserError(
            f"{folder} is not empty and holds no {RECORD}; nothing was overwritten. Choose "
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
