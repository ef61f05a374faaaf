"""Fingerprints of source files: whether prepared data still are what the source holds."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from isnet_jax.data.custom.readers import Listing, Rejected
from isnet_jax.data.custom.readers.samples import read_regular, relative
from isnet_jax.errors import printable

# Size, time of change in ns, SHA-256; empty for what is missing or not a regular file.
Fingerprint = list[Any]


def fingerprints(listing: Listing, digests: Mapping[Any, str]) -> dict[str, Fingerprint]:
    """A fingerprint of every file of the source, by its path below the root.

    Args:
        listing: names the files.
        digests: SHA-256 of those that have been read.
    """
    return {
        relative(path, listing.root): [*status, digests.get(path) or _digest(path)]
        if (status := _status(path))
        else []
        for path in _files(listing)
    } | {problem.place: [] for problem in listing.problems}


def content(record: Mapping[str, Any]) -> str:
    """A digest of what prepared data were made from: files and options, not places or times."""
    files = {name: [found[0], found[2]] if found else [] for name, found in record["files"].items()}
    made_of = {name: record[name] for name in ("layout", "options", "left_out")}
    text = json.dumps(made_of | {"files": files}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def require_form(record: Mapping[str, Any]) -> None:
    """Raises KeyError or TypeError for a record that `differences` could not compare."""
    options, files, left_out = (record[name] for name in ("options", "files", "left_out"))
    whole = isinstance(options, dict) and isinstance(files, dict) and isinstance(left_out, list)
    said = [*left_out, *record.get("warnings", ())] if whole else [None]
    if not all(isinstance(line, str) for line in said):
        raise TypeError("options, files, left_out or warnings are of a wrong type")
    for found in files.values():
        if not isinstance(found, list) or len(found) not in (0, 3):
            raise TypeError("files have other fingerprints")


def differences(
    record: Mapping[str, Any], options: Mapping[str, Any], listing: Listing
) -> list[str]:
    """What differs between a record of prepared data and what would be prepared now, in words."""
    found = [
        f"option {name}: {record['options'].get(name)!r} there, {options.get(name)!r} now"
        for name in sorted({*record["options"], *options})
        if record["options"].get(name) != options.get(name)
    ]
    before = record["files"]
    paths = {relative(path, listing.root): path for path in _files(listing)}
    now = paths.keys() | {problem.place for problem in listing.problems}
    found += [f"new: {printable(name)}" for name in sorted(now - before.keys())]
    found += [f"gone: {printable(name)}" for name in sorted(before.keys() - now)]
    found += [
        f"changed: {printable(name)}"
        for name in sorted(before.keys() & paths.keys())
        if _changed(before[name], paths[name])
    ]
    return found


def _changed(before: Fingerprint, path: Path) -> bool:
    status = _status(path)
    if status is None or not before:
        return bool(before) or status is not None
    return status != before[:2] and (status[0] != before[0] or _digest(path) != before[2])


def _files(listing: Listing) -> list[Path]:
    samples = [
        path for sample in listing.samples for path in (sample.image, *sample.annotation.files)
    ]
    return [*listing.files, *(path for path in samples if isinstance(path, Path))]


def _status(path: Path) -> Fingerprint | None:
    try:
        status = path.stat()
    except (OSError, ValueError):
        return None
    return [status.st_size, status.st_mtime_ns] if path.is_file() else None


def _digest(path: Path) -> str | None:
    try:
        return hashlib.sha256(read_regular(path)).hexdigest()
    except Rejected:
        return None
