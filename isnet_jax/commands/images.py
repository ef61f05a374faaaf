"""Image files that a command is given, read, and drawn with heatmaps, while it computes."""

from __future__ import annotations

import collections
import itertools
import os
import threading
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import TypeVar

import numpy as np
from rich.console import Console
from rich.progress import Progress

from isnet_jax.data.custom.readers import dicom
from isnet_jax.data.custom.readers.pictures import CONVERT, FOREIGN, SUFFIXES
from isnet_jax.errors import UserError, printable
from isnet_jax.report.heatmaps import beside, save_png

T = TypeVar("T")
_PATIENCE = 2.0  # seconds without a sign of life
_AHEAD = 2  # batches that are read while one is computed
_WAITING = 64  # pictures that may wait to be drawn


def image_files(
    places: tuple[Path, ...], command: str, passed_over: Callable[[str], object] = warnings.warn
) -> list[Path]:
    """Files as they are given, and of folders all images in them and below.

    Args:
      passed_over: told what folders hold that may be pictures, of kinds that are not read.

    Raises:
      UserError: nothing was given, or a folder holds no image.
    """
    if not places:
        raise UserError(f"Missing from isnet-jax {command}: image files, or folders of them.")
    files: list[Path] = []
    other: list[Path] = []
    for place in places:
        if not place.is_dir():
            files.append(place)
            continue
        found = list(_below(place))
        inside = [file for file in found if file.suffix.lower() in SUFFIXES]
        other += [file for file in found if file.suffix.lower() in FOREIGN or _is_dicom(file)]
        if not inside:
            also = f"; {_named(other)}" if other else ""
            raise UserError(
                f"{printable(place)} holds no image files{also}. Expected PNG, JPEG or the like."
            )
        files.extend(inside)
    if other:
        passed_over(
            f"passed over as pictures of kinds that are not read: {_named(other)}. {CONVERT}; "
            "DICOM without a suffix is read where each file is named."
        )
    return files


def _is_dicom(file: Path) -> bool:
    """Whether a file without a suffix is DICOM, as scanners write it."""
    try:
        if file.suffix or not file.is_file():
            return False
        with file.open("rb") as opened:
            return dicom.is_dicom(opened.read(132))
    except OSError:
        return False


def _named(files: list[Path], most: int = 3) -> str:
    more = f" and {len(files) - most} more" if len(files) > most else ""
    return ", ".join(str(file) for file in files[:most]) + more


def _below(folder: Path) -> Iterator[Path]:
    """By name, without hidden files; links to folders are not followed."""
    for root, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            if not name.startswith("."):
                yield Path(root, name)


def pictures_of(files: list[Path], folder: Path) -> list[Path]:
    """The picture that each file gets in a folder, no two the same.

    They have the stems of the files; numbered where several share one, and all of them where a
    numbered one is that of another file. Capitals do not tell names apart on every file system.
    """
    stems = [file.stem for file in files]
    numbered = [f"{number:04d}-{stem}" for number, stem in enumerate(stems)]
    counts = collections.Counter(map(str.casefold, stems))
    names = [
        stem if counts[stem.casefold()] == 1 else other
        for stem, other in zip(stems, numbered, strict=True)
    ]
    if len({*map(str.casefold, names)}) < len(names):
        names = numbered
    return [folder / f"{name}.png" for name in names]


def read_batches(
    files: list[Path], read: Callable[[Path], T], size: int
) -> Iterator[tuple[int, list[T]]]:
    """The number of each batch's first file, and what was read; threads read ahead.

    Args:
      read: reads one file; what it raises is raised here.
    """
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        waiting: collections.deque[tuple[int, list[Future[T]]]] = collections.deque()
        starts = iter(range(0, len(files), size))

        def ask(count: int) -> None:
            for start in itertools.islice(starts, count):
                asked = [pool.submit(read, file) for file in files[start : start + size]]
                waiting.append((start, asked))

        ask(1 + _AHEAD)
        while waiting:
            start, asked = waiting.popleft()
            yield start, [future.result() for future in asked]
            ask(1)


class Drawing:
    """Draws images beside their heatmaps, in threads, while the next ones are computed.

    Use as a context manager: leaving waits until all are written.

    Args:
      option: names the folder of the pictures, for the error.
    """

    def __init__(self, option: str):
        self._option = option
        self._pool = ThreadPoolExecutor(os.cpu_count())
        self._waiting: collections.deque[Future[None]] = collections.deque()

    def __enter__(self) -> Drawing:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            while error is None and self._waiting:
                self._waiting.popleft().result()
        finally:
            self._pool.shutdown(cancel_futures=True)

    def save(self, image: np.ndarray, relevance: np.ndarray, picture: Path) -> None:
        """Draw one of them, an image (H, W, C) in [0, 1].

        Raises:
          UserError: an earlier picture could not be written.
        """
        while len(self._waiting) >= _WAITING:
            self._waiting.popleft().result()
        self._waiting.append(self._pool.submit(self._save, image, relevance, picture))

    def _save(self, image: np.ndarray, relevance: np.ndarray, picture: Path) -> None:
        try:
            save_png(beside(image, relevance), picture)
        except OSError as error:
            raise UserError(
                f"cannot write {printable(picture)} ({error}). Choose another {self._option}."
            ) from error


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
