"""Files that are read ahead, pictures that are drawn behind."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from isnet_jax import UserError
from isnet_jax.commands import images
from isnet_jax.commands.images import Drawing, image_files, read_batches

FILES = [Path(str(number)) for number in range(10)]


def test_batches_come_in_order_and_are_read_ahead():
    read: list[str] = []
    lock = threading.Lock()

    def name(file: Path) -> str:
        with lock:
            read.append(file.name)
        return file.name

    batches = read_batches(FILES, name, 2)
    assert next(batches) == (0, ["0", "1"])
    assert len(read) <= 6
    assert [*batches] == [(n, [str(n), str(n + 1)]) for n in range(2, 10, 2)]
    assert sorted(read, key=int) == [file.name for file in FILES]
    assert [*read_batches([], name, 2)] == []


def test_what_reading_raises_is_raised():
    def read(file: Path) -> int:
        return 1 // int(file.name)

    with pytest.raises(ZeroDivisionError):
        next(read_batches(FILES, read, 4))


def test_pictures_are_all_written_at_the_end(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(images, "_WAITING", 2)
    with Drawing("--out") as drawing:
        for number in range(9):
            image = np.full((4, 4, 3), number / 9)
            drawing.save(image, np.ones((4, 4, 3)), tmp_path / "p" / f"{number}.png")
    assert len([*tmp_path.rglob("*.png")]) == 9
    with Image.open(tmp_path / "p" / "8.png") as picture:
        assert picture.size == (8, 4)


def test_a_picture_that_cannot_be_written(tmp_path: Path):
    (tmp_path / "file").write_text("")
    drawing = Drawing("--heatmaps")
    with pytest.raises(UserError, match=r"cannot write .*Choose another --heatmaps"), drawing:
        drawing.save(np.zeros((4, 4, 3)), np.ones((4, 4, 3)), tmp_path / "file" / "x.png")


def test_pictures_that_are_not_read_are_named(tmp_path: Path):
    told: list[str] = []
    for name in ("a.png", "notes.txt", "README", "b.HEIC", "sub/IM0001", ".c.heic"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(bytes(128) + b"DICM" if "IM" in name else b"x")
    os.mkfifo(tmp_path / "pipe")
    assert image_files((tmp_path,), "predict", told.append) == [tmp_path / "a.png"]
    (said,) = told
    assert f"{tmp_path / 'b.HEIC'}, {tmp_path / 'sub' / 'IM0001'}. Convert it" in said
    (tmp_path / "a.png").unlink()
    with pytest.raises(UserError, match=r"holds no image files; .*b\.HEIC"):
        image_files((tmp_path,), "predict", told.append)
