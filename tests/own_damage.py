"""For the fuzzing of own data: how a file goes bad, and what may be prepared of it."""

from __future__ import annotations

import contextlib
import io
import os
import shutil
import tempfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import own_pictures as own
from PIL import Image

from isnet_jax.commands.main import main
from isnet_jax.data import Split, load_split, open_prepared


@contextlib.contextmanager
def copied(template: Path) -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as place:
        shutil.copytree(template, Path(place) / "source", symlinks=True)
        yield Path(place) / "source"


def prepared(out: Path, *arguments: object) -> dict[str, Split] | None:
    """The splits that the command line prepares; None where it refuses as it should."""
    errors = io.StringIO()
    with contextlib.redirect_stderr(errors), contextlib.redirect_stdout(io.StringIO()):
        try:
            main(["prepare", *map(str, arguments), "--out", str(out)])
            code = 0
        except SystemExit as stopped:
            code = stopped.code
    if code != 0:
        shown = errors.getvalue()
        assert code == 2, shown
        assert shown.startswith("error: ") or "─" in shown
        assert "Traceback" not in shown
        assert len(shown.splitlines()) <= 24
        assert not out.exists()
        assert not list(out.parent.glob(".*incomplete*"))
        return None
    builder = open_prepared(out)
    return {name: load_split(builder, name) for name in builder.info.splits}


def samples(splits: dict[str, Split]) -> Iterator[tuple[str, np.ndarray, Any, str]]:
    """Name, image, mask or None, class."""
    for split in splits.values():
        for i, name in enumerate(split.ids):
            known = split.has_mask is None or split.has_mask[i]
            mask = split.masks[i, ..., 0] > 0 if known else None
            assert mask is None or mask.any()
            yield name, split.images[i], mask, split.class_names[int(split.labels[i])]


def intact(path: Path) -> bool:
    """Whether all checksums of a PNG are right, checked without Pillow."""
    data, place = path.read_bytes(), 8
    kind = b""
    while place + 12 <= len(data) and kind != b"IEND":
        length = int.from_bytes(data[place : place + 4], "big")
        kind = data[place + 4 : place + 8]
        end = place + 8 + length
        if zlib.crc32(data[place + 4 : end]).to_bytes(4, "big") != data[end : end + 4]:
            return False
        place = end + 4
    return kind == b"IEND"


def same_picture(path: Path, image: np.ndarray) -> bool:
    assert path.is_file()
    if path.read_bytes().startswith(b"\x89PNG"):
        assert intact(path), path
    with Image.open(path) as picture:
        return np.array_equal(np.asarray(picture.convert("RGB")), image)


# How one file goes bad. Each is (name, function of the path and a number, whether the sample can
# never be used).
def _flip(path: Path, number: int) -> None:
    data = bytearray(path.read_bytes())
    data[number % len(data)] ^= 1 << number % 8
    path.write_bytes(data)


def _noise(seed: int, length: int) -> bytes:
    return np.random.default_rng(seed).bytes(length)


def _other_size(path: Path, number: int) -> None:
    path.write_bytes(own.png(own.pixels(number, height=SIZES[number % 3])))


SIZES = (1, own.SIDE - 1, own.SIDE + 5)


def _replaced(path: Path, make: Callable[[Path], Any]) -> None:
    path.unlink()
    make(path)


DAMAGE: dict[str, tuple[Callable[[Path, int], Any], bool]] = {
    "flip": (_flip, False),
    "truncate": (lambda p, n: os.truncate(p, n % p.stat().st_size), True),
    "append": (lambda p, n: p.write_bytes(p.read_bytes() + bytes([n % 256]) * (n % 99)), False),
    "random": (lambda p, n: p.write_bytes(_noise(n, n % 300)), True),
    "random after the signature": (
        lambda p, n: p.write_bytes(p.read_bytes()[: 8 + n % 30] + _noise(n, 60)),
        True,
    ),
    "text": (lambda p, n: p.write_text("image,mask\n" * (n % 9 + 1)), True),
    "eps": (lambda p, n: p.write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n"), True),
    "bomb": (lambda p, n: p.write_bytes(own.bomb(60_000, 60_000 + n)), True),
    "delete": (lambda p, n: p.unlink(), True),
    "folder": (lambda p, n: _replaced(p, Path.mkdir), True),
    "loop": (lambda p, n: _replaced(p, lambda q: q.symlink_to(q.name)), True),
    "link to nothing": (lambda p, n: _replaced(p, lambda q: q.symlink_to("nothing")), True),
    "link to a folder": (lambda p, n: _replaced(p, lambda q: q.symlink_to("..")), True),
    "link to zeros": (lambda p, n: _replaced(p, lambda q: q.symlink_to("/dev/zero")), True),
    "pipe": (lambda p, n: _replaced(p, os.mkfifo), True),
    "other size": (_other_size, True),
    "frames": (
        lambda p, n: Image.fromarray(own.pixels(n)).save(
            p, "PNG", save_all=True, append_images=[Image.fromarray(own.pixels(n + 1))]
        ),
        True,
    ),
    "wrong suffix": (lambda p, n: p.rename(p.with_suffix(".txt")), True),
    "transparent": (
        lambda p, n: p.write_bytes(own.png(np.full((own.SIDE, own.SIDE, 4), n % 255, np.uint8))),
        True,
    ),
    "newline in the name": (lambda p, n: p.rename(p.with_name("a\n\x1b[31mb.png")), True),
    "bytes as the name": (
        lambda p, n: os.rename(p, os.fsencode(p.parent) + b"/\xff\xfe.png"),
        True,
    ),
}
MASK_DAMAGE: dict[str, tuple[Callable[[Path, int], Any], bool]] = {
    "grey": (lambda p, n: p.write_bytes(own.png(own.pixels(n)[..., 0])), True),
    "colours": (lambda p, n: p.write_bytes(own.png(own.pixels(n))), True),
    "empty": (lambda p, n: p.write_bytes(own.png(np.zeros((own.SIDE, own.SIDE), bool))), True),
    "its image": (lambda p, n: p.write_bytes(own.png(own.pixels(int(p.stem)))), True),
}
