"""Small data sets of own pictures, written for tests."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, PngImagePlugin

SIDE = 8
CLASSES = ("cat", "dog")


def pixels(number: int, *, height: int = SIDE, width: int = SIDE) -> np.ndarray:
    """A colour image that no other number gives."""
    return np.random.default_rng(number).integers(0, 256, (height, width, 3), dtype=np.uint8)


def drawn(number: int, *, height: int = SIDE, width: int = SIDE) -> np.ndarray:
    """A mask with a rectangle that depends on the number: bool."""
    mask = np.zeros((height, width), bool)
    top, left = number % 3, number // 3 % 3
    mask[1 + top : 5 + top, 1 + left : 4 + left] = True
    return mask


def png(array: np.ndarray, **options: Any) -> bytes:
    buffer = io.BytesIO()
    if array.dtype == bool:
        array = array.astype(np.uint8) * np.uint8(255)
    Image.fromarray(array).save(buffer, "PNG", **options)
    return buffer.getvalue()


def write(path: Path, data: bytes | np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data if isinstance(data, bytes) else png(data))
    return path


def write_folder(root: Path, per_class: int = 6, first: int = 0) -> Path:
    """images/CLASS/NN.png and masks/CLASS/NN.png; numbers go on from class to class."""
    for code, name in enumerate(CLASSES):
        for i in range(per_class):
            number = first + code * per_class + i
            write(root / "images" / name / f"{number:02d}.png", pixels(number))
            write(root / "masks" / name / f"{number:02d}.png", drawn(number))
    return root


def write_table(root: Path, text: str, count: int = 12, name: str = "data.csv") -> Path:
    """i/NN.png, m/NN.png and a table beside them."""
    for number in range(count):
        write(root / "i" / f"{number:02d}.png", pixels(number))
        write(root / "m" / f"{number:02d}.png", drawn(number))
    (root / name).write_bytes(text.encode())
    return root / name


def rows(count: int = 12) -> str:
    """A table of all samples of `write_table` in two classes."""
    lines = [f"i/{n:02d}.png,m/{n:02d}.png,{CLASSES[n % 2]}" for n in range(count)]
    return "\n".join(["image,mask,label", *lines]) + "\n"


def rectangle(number: int) -> list[float]:
    """The polygon around the pixels of `drawn`."""
    top, left = 1 + number % 3, 1 + number // 3 % 3
    right, bottom = left + 3, top + 4
    return [left, top, right, top, right, bottom, left, bottom]


def coco(count: int = 12) -> dict[str, Any]:
    """Annotations of i/NN.png: one polygon in each, classes in turn."""
    return {
        "images": [
            {"id": n, "file_name": f"i/{n:02d}.png", "height": SIDE, "width": SIDE}
            for n in range(count)
        ],
        "annotations": [
            {"id": n, "image_id": n, "category_id": 7 + n % 2, "segmentation": [rectangle(n)]}
            for n in range(count)
        ],
        "categories": [{"id": 7, "name": "cat"}, {"id": 8, "name": "dog"}],
    }


def write_coco(root: Path, content: Any, count: int = 12) -> Path:
    for number in range(count):
        write(root / "i" / f"{number:02d}.png", pixels(number))
    (root / "coco.json").write_text(json.dumps(content))
    return root / "coco.json"


def numbered(mask: np.ndarray, number: int) -> bytes:
    """A palette PNG as VOC's: the number on the mask, 0 elsewhere."""
    picture = Image.fromarray(np.where(mask, np.uint8(number), np.uint8(0)), "L")
    picture.putpalette([value for code in range(256) for value in (code, 255 - code, code // 2)])
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return buffer.getvalue()


def write_voc(root: Path, per_class: int = 6) -> Path:
    """Images with masks of the classes cat (1) and dog (2)."""
    for number in range(2 * per_class):
        write(root / "JPEGImages" / f"{number:02d}.png", pixels(number))
        mask = numbered(drawn(number), 1 + number % 2)
        write(root / "SegmentationClass" / f"{number:02d}.png", mask)
    (root / "class_names.txt").write_text("cat\ndog\n")
    return root


def bomb(width: int = 60_000, height: int = 60_000) -> bytes:
    """A small PNG whose header promises billions of pixels, checksums being right."""
    data = bytearray(png(np.zeros((1, 1), np.uint8)))
    header = b"IHDR" + width.to_bytes(4, "big") + height.to_bytes(4, "big") + bytes(data[24:29])
    data[12:29] = header
    data[29:33] = _crc(header)
    return bytes(data)


def text_bomb() -> bytes:
    """A PNG with a compressed text of 100 MB."""
    info = PngImagePlugin.PngInfo()
    info.add_text("comment", "a" * 100_000_000, zip=True)
    return png(pixels(0), pnginfo=info)


def _crc(chunk: bytes) -> bytes:
    import zlib

    return zlib.crc32(chunk).to_bytes(4, "big")
