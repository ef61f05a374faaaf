"""Who made a file."""

from __future__ import annotations

from importlib import metadata

from isnet_jax.training import provenance


def test_the_folder_alone_has_no_version(monkeypatch):
    """As on a machine where it is on the path without having been installed."""

    def missing(name):
        raise metadata.PackageNotFoundError(name)

    assert provenance.version() == metadata.version("isnet-jax")
    monkeypatch.setattr(metadata, "version", missing)
    assert provenance.version() is None
