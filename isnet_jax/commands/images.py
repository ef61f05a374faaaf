"""Image files that a command is given: which there are, their names in an output, how far it is."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.progress import Progress

from isnet_jax.data.custom.readers.pictures import SUFFIXES
from isnet_jax.errors import UserError, printable

_PATIENCE = 2.0  # seconds without a sign of life


def image_files(places: tuple[Path, ...], command: str) -> list[Path]:
    """Files as they are given, and of folders all images in them and below.

    Raises:
      UserError: nothing was given, or a folder holds no image.
    """
    if not places:
        raise UserError(f"Missing from isnet-jax {command}: image files, or folders of them.")
    files: list[Path] = []
    for place in places:
        if not place.is_dir():
            files.append(place)
            continue
        inside = list(_below(place))
        if not inside:
            raise UserError(
                f"{printable(place)} holds no image files. Expected PNG, JPEG or the like."
            )
        files.extend(inside)
    return files


def _below(folder: Path) -> Iterator[Path]:
    """By name, without hidden files; links to folders are not followed."""
    for root, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            if not name.startswith(".") and Path(name).suffix.lower() in SUFFIXES:
                yield Path(root, name)


def pictures_of(files: list[Path], folder: Path) -> list[Path]:
    """The picture that each file gets in a folder; numbered where several files share a stem."""
    stems = [file.stem for file in files]
    shared = {stem for stem in stems if stems.count(stem) > 1} if len({*stems}) < len(stems) else ()
    return [
        folder / (f"{number:04d}-{stem}.png" if stem in shared else f"{stem}.png")
        for number, stem in enumerate(stems)
    ]


@contextmanager
def progress(console: Console, what: str, images: int) -> Iterator[Callable[[int], None]]:
    """A bar that appears after two seconds of work; it is told how many more images are done."""
    bar = Progress(console=console, transient=True, disable=not console.is_terminal)
    task = bar.add_task(what, total=images)
    timer = threading.Timer(_PATIENCE, bar.start)
    timer.start()
    try:
        yield lambda done: bar.advance(task, done)
    finally:
        timer.cancel()
        timer.join()
        bar.stop()
