"""Claim a run folder in a child that dies at its n-th change of the file system; claim it again."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from isnet_jax.commands import run_folder

SETTINGS = {"seed": 1}


def exit_at(operation: int) -> None:
    """End this process without any clean-up at the n-th change of the file system."""
    made = 0

    def counted(function):
        def call(*arguments, **options):
            nonlocal made
            made += 1
            if made > operation:
                os._exit(9)
            return function(*arguments, **options)

        return call

    for name in ("mkdir", "open", "fsync", "chmod", "replace", "rename", "unlink"):
        setattr(os, name, counted(getattr(os, name)))


def main(where: Path) -> None:
    for operation in range(12):
        folder = where / f"run{operation}"
        child = os.fork()
        if not child:
            exit_at(operation)
            run_folder.claim(folder, SETTINGS, SETTINGS)
            os._exit(0)
        os.waitpid(child, 0)
        run_folder.claim(folder, SETTINGS, SETTINGS)
        with run_folder.lock(folder):
            pass
        assert run_folder.read(folder) == SETTINGS
        assert sorted(os.listdir(folder)) == [".lock", "config.yaml", "run.json"]
        print(operation, flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
