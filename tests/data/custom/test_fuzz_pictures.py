"""Malformed pictures and masks: an error of ours, or exactly the right values."""

from __future__ import annotations

import io
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import own_pictures as own
import pytest
from dicom_film import film
from fuzzing import counts, fuzz, spoilt
from hypothesis import strategies as st
from own_damage import DAMAGE, MASK_DAMAGE
from PIL import Image

from isnet_jax.data.custom.readers import Contents, PixelRules, Rejected
from isnet_jax.data.custom.readers.pictures import (
    MAX_PIXELS,
    MaskFile,
    decode_image,
    decode_numbers,
    decode_values,
)


def encoded(kind: str, array: np.ndarray, **options: Any) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, kind, **options)
    return buffer.getvalue()


GREY = own.pixels(0)[..., 0]
PICTURES = (
    *(encoded(kind, own.pixels(0)) for kind in ("JPEG", "TIFF", "BMP", "GIF", "WEBP", "PPM")),
    *(encoded(kind, GREY) for kind in ("PNG", "TIFF", "PPM")),
    encoded("TIFF", own.pixels(0), compression="tiff_lzw"),
    encoded("PNG", GREY.astype(np.uint16) * 257),
    own.numbered(own.drawn(0), 2),
    film(),
    film(PhotometricInterpretation="MONOCHROME1", WindowCenter=1000, WindowWidth=500),
)


@counts(150, 2500)
def test_pictures(examples: int):
    """Of every format, DICOM included; without checksums they may become others, never odd ones."""

    def test(data: bytes) -> None:
        for decode in (
            lambda: decode_image(data, ".png", PixelRules()),
            lambda: decode_image(data, ".dcm", PixelRules()),
            lambda: decode_values(data),
            lambda: decode_numbers(data),
        ):
            try:
                pixels = decode()
            except Rejected:
                continue
            assert pixels.dtype in (np.uint8, np.uint16, np.int32)
            assert pixels.ndim == 2 or pixels.shape[2:] == (3,)
            assert 0 < pixels.size <= 3 * MAX_PIXELS

    fuzz(examples, st.sampled_from(PICTURES).flatmap(spoilt), test)


@counts(150, 1000)
def test_masks(examples: int, tmp_path: Path):
    def test(case: tuple[int, str, int, int | None]) -> None:
        number, damage, value, threshold = case
        path = own.write(tmp_path / "mask.png", own.drawn(number))
        action, fatal = {**DAMAGE, **MASK_DAMAGE}[damage]
        if damage in ("bytes as the name", "newline in the name", "its image"):
            return
        action(path, value)
        try:
            rules = PixelRules(mask_threshold=threshold)
            found = MaskFile(path, ("cat",), rules).read(own.SIDE, own.SIDE, Contents())
        except Rejected:
            return
        finally:
            shutil.rmtree(tmp_path)
            tmp_path.mkdir()
        assert found.mask is not None
        if damage == "grey":
            assert np.array_equal(found.mask, own.pixels(value)[..., 0] >= threshold)
        else:
            assert not fatal, damage
            assert np.array_equal(found.mask, own.drawn(number))

    strategy = st.tuples(
        st.integers(0, 8),
        st.sampled_from([*DAMAGE, *MASK_DAMAGE]),
        st.integers(0, 10_000),
        st.sampled_from([None, None, 1, 128, 255]),
    )
    fuzz(examples, strategy, test)


def test_random_bytes_are_no_picture():
    def test(data: bytes) -> None:
        for suffix in (".png", ".dcm"):
            with pytest.raises(Rejected):
                decode_image(data, suffix, PixelRules())

    starts = (
        *(b"", b"\x89PNG\r\n\x1a\n", b"GIF89a", b"BM", b"II*\0", b"RIFF    WEBP", b"P5 8 8 255 "),
        *(b"\xff\xd8\xff\xe0", b"P6\n", bytes(128) + b"DICM"),
    )
    strategy = st.builds(lambda a, b: a + b, st.sampled_from(starts), st.binary(max_size=50))
    fuzz(100, strategy, test)
