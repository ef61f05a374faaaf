"""Which code wrote a file, and on which machine."""

from __future__ import annotations

import functools
import os
import platform
import subprocess
from importlib import metadata
from pathlib import Path

import jax


@functools.cache
def provenance() -> dict[str, str | None]:
    """Version of the package and of JAX; git revision where the package runs from a checkout."""
    package = Path(__file__).parents[1]
    command = ["git", "-C", str(package), "describe", "--always", "--dirty", "--abbrev=40"]
    revision = None
    if (package.parent / ".git").exists():
        try:
            done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=10)
            revision = done.stdout.strip()
        except (OSError, subprocess.SubprocessError):
            pass  # No git, or not a checkout it may read.
    return {
        "version": version(),
        "jax": jax.__version__,
        "revision": revision,
    }


def version() -> str | None:
    """The installed package's; None where its folder is on the path without that."""
    try:
        return metadata.version("isnet-jax")
    except metadata.PackageNotFoundError:
        return None


def machine() -> str:
    """What the numbers were measured on."""
    devices = jax.devices()
    kind = devices[0].device_kind if devices[0].platform != "cpu" else platform.machine()
    cores = f"{os.cpu_count()} cores, " if devices[0].platform == "cpu" else ""
    return f"{len(devices)} x {kind}, {cores}jax {jax.__version__}"
