"""Image and mask files as arrays, and why some are refused."""

import io
import struct
import warnings
import zlib
from pathlib import Path

import numpy as np
import own_pictures as own
import pytest
from PIL import Image

from isnet_jax.data import PixelRules
from isnet_jax.data.custom.readers import Rejected
from isnet_jax.data.custom.readers.pictures import (
    binary,
    decode_image,
    decode_numbers,
    decode_values,
    no_picture,
)
from isnet_jax.errors import UserError

RULES = PixelRules()
FRAMES = [Image.new("L", (2, 2)), Image.new("L", (2, 2), 9)]


def encoded(picture: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "BMP", "PPM", "WEBP"])
def test_lossless_formats_are_exact(kind: str):
    options = {"lossless": True} if kind == "WEBP" else {}
    data = encoded(Image.fromarray(own.pixels(0)), kind, **options)
    assert np.array_equal(decode_image(data, ".x", RULES), own.pixels(0))


def test_grey_stays_grey_and_palettes_become_colour():
    grey = own.pixels(0)[..., 0]
    assert np.array_equal(decode_image(own.png(grey), ".png", RULES), grey)
    palette = Image.fromarray(own.pixels(0)).convert("P")
    expected = np.asarray(palette.convert("RGB"))
    assert np.array_equal(decode_image(encoded(palette), ".png", RULES), expected)


def test_sixteen_bits_are_kept():
    wide = np.random.default_rng(0).integers(0, 65536, (8, 8), dtype=np.uint16)
    for kind in ("PNG", "TIFF"):
        assert np.array_equal(decode_image(encoded(Image.fromarray(wide), kind), ".x", RULES), wide)


def test_twelve_bits_in_sixteen_reach_white():
    wide = np.array([[0, 1, 2048, 4095]], dtype=np.uint16)
    found = decode_image(own.png(wide), ".png", PixelRules(white=4095))
    assert found.tolist() == [[0, 16, 32776, 65535]]
    with pytest.raises(Rejected, match="from 0 to 4,095, expected 0 to 4,000"):
        decode_image(own.png(wide), ".png", PixelRules(white=4000))


def test_photographs_are_turned_upright():
    exif = Image.Exif()
    exif[0x0112] = 6  # To be shown turned by 90 degrees clockwise.
    data = encoded(Image.fromarray(own.pixels(0, width=5)), exif=exif)
    assert np.array_equal(decode_image(data, ".png", RULES), np.rot90(own.pixels(0, width=5), -1))


def test_opaque_alpha_is_dropped_and_transparency_refused():
    opaque = np.dstack([own.pixels(0), np.full((8, 8), 255, np.uint8)])
    assert np.array_equal(decode_image(own.png(opaque), ".png", RULES), own.pixels(0))
    opaque[3, 3, 3] = 254
    with pytest.raises(Rejected, match="transparent"):
        decode_image(own.png(opaque), ".png", RULES)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "cannot be decoded"),
        (own.png(own.pixels(0))[:-1], "damaged or truncated"),
        (own.png(own.pixels(0))[:60], "damaged or truncated"),
        (own.bomb(), "at most 89,000,000"),
        (own.bomb(12_000, 12_000), "at most 89,000,000"),
        (own.text_bomb(), "cannot be decoded"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n", "cannot be decoded"),
        (encoded(Image.fromarray(own.pixels(0)), "JPEG")[:-30], "truncated JPEG"),
        (encoded(Image.fromarray(own.pixels(0)), "JPEG")[:-30] + bytes(30), "truncated JPEG"),
        (encoded(Image.fromarray(np.ones((2, 2), np.float32)), "TIFF"), "black and white are not"),
        (encoded(FRAMES[0], "GIF", save_all=True, append_images=FRAMES[1:]), "holds 2 pictures"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_is_no_usable_picture(data: bytes, message: str):
    with warnings.catch_warnings(), pytest.raises(Rejected, match=message):
        decode_image(data, ".png", RULES)


def test_masks_of_two_values_are_taken_whatever_the_second_is():
    mask = own.drawn(1)
    for high in (1, 7, 255):
        values = np.where(mask, high, 0).astype(np.uint8)
        for data in (own.png(values), own.png(np.repeat(values[..., None], 3, 2))):
            assert np.array_equal(binary(decode_values(data), None), mask)
    bits = encoded(Image.fromarray(mask.astype(np.uint8) * 255).convert("1"))
    assert np.array_equal(binary(decode_values(bits), None), mask)
    # A palette may hold white first.
    swapped = Image.fromarray((~mask).astype(np.uint8), "L")
    swapped.putpalette([255, 255, 255, 0, 0, 0])
    assert np.array_equal(binary(decode_values(encoded(swapped)), None), mask)


def test_grey_masks_need_a_threshold_that_is_reached():
    values = np.array([[0, 100, 128, 255]], np.uint8)
    with pytest.raises(Rejected, match=r"grey values: 100, 128 between 0 and 255") as found:
        binary(values, None)
    assert "--mask-threshold" in found.value.remedy
    assert binary(values, 128).tolist() == [[False, False, True, True]]
    with pytest.raises(Rejected, match="no value reaches the threshold 256, the highest is 255"):
        binary(values, 256)
    with pytest.raises(Rejected, match="all its pixels are 0"):
        binary(np.zeros((2, 2), np.uint8), None)


def test_thresholds_of_8_bits_are_none_of_16():
    values = np.array([[0, 2000, 60000]], np.uint16)
    with pytest.raises(Rejected, match="values up to 60,000, and the threshold is 128"):
        binary(values, 128)
    assert binary(values, 1).tolist() == [[False, True, True]]
    assert binary(values, 32768).tolist() == [[False, False, True]]
    assert binary(values // 256, 128).tolist() == [[False, False, True]]


def test_dicom_is_no_mask():
    for decode in (decode_values, decode_numbers):
        with pytest.raises(Rejected, match="is DICOM, which is read as an image"):
            decode(bytes(128) + b"DICM")


def test_masks_with_colours_are_refused():
    with pytest.raises(Rejected, match="with colours"):
        decode_values(own.png(own.pixels(0)))
    with pytest.raises(Rejected, match="with colours"):
        decode_values(own.numbered(own.drawn(0), 3))


def test_numbers_are_the_palettes_indices():
    assert np.array_equal(decode_numbers(own.numbered(own.drawn(0), 3)), 3 * own.drawn(0))
    with pytest.raises(Rejected, match="expected a palette"):
        decode_numbers(own.png(own.pixels(0)))


@pytest.mark.parametrize("options", [{"mask_threshold": 0}, {"white": 255}, {"white": 65536}])
def test_rules_out_of_range(options: dict):
    with pytest.raises(UserError, match="must be from"):
        PixelRules(**options)


def grey_png(values: np.ndarray, depth: int) -> bytes:
    """A grey PNG of 1, 2 or 4 bits; Pillow writes none."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        checksum = zlib.crc32(kind + data).to_bytes(4, "big")
        return len(data).to_bytes(4, "big") + kind + data + checksum

    bits = np.unpackbits(values.astype(np.uint8)[..., None], axis=-1)[..., 8 - depth :]
    rows = np.packbits(bits.reshape(len(values), -1), axis=1)
    height, width = values.shape
    header = struct.pack(">IIBBBBB", width, height, depth, 0, 0, 0, 0)
    pixels = zlib.compress(b"".join(b"\0" + row.tobytes() for row in rows))
    chunks = ((b"IHDR", header), (b"IDAT", pixels), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*each) for each in chunks)


def grey_tiff(values: np.ndarray, depth: int, white_is_zero: bool) -> bytes:
    """A grey TIFF of one strip, little-endian: the tags that readers need."""
    tags = (256, values.shape[1]), (257, values.shape[0]), (258, depth), (259, 1)
    tags += (262, int(not white_is_zero)), (273, 8), (277, 1), (278, values.shape[0])
    if depth < 8:
        bits = np.unpackbits(values.astype(np.uint8)[..., None], axis=-1)[..., 8 - depth :]
        data = np.packbits(bits.reshape(len(values), -1), axis=1).tobytes()
    else:
        data = values.astype("<u2" if depth == 16 else "u1").tobytes()
    tags += ((279, len(data)),)
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
    start = struct.pack("<2sHI", b"II", 42, 8 + len(data))
    return start + data + struct.pack("<H", len(tags)) + entries + bytes(4)


@pytest.mark.parametrize("depth", [1, 2, 4])
def test_numbers_of_few_bits_are_those_stored(depth: int):
    numbers = np.arange(64).reshape(8, 8) % 2**depth
    for data in (grey_png(numbers, depth), grey_tiff(numbers, depth, white_is_zero=False)):
        assert np.array_equal(decode_numbers(data), numbers)
    highest = 2**depth - 1
    for data in (grey_png(numbers, depth), grey_tiff(numbers, depth, white_is_zero=False)):
        assert np.array_equal(decode_values(data), numbers * (255 // highest))


@pytest.mark.parametrize("highest", [3, 20, 255, 1000, 65535])
def test_numbers_of_grey_maps_are_those_stored(highest: int):
    numbers = np.arange(64).reshape(8, 8) % (highest + 1)
    pixels = numbers.astype(">u2" if highest > 255 else "u1").tobytes()
    assert np.array_equal(decode_numbers(b"P5\n8 8\n%d\n" % highest + pixels), numbers)


@pytest.mark.parametrize("depth", [8, 16])
def test_tiffs_whose_white_is_zero(depth: int):
    shown = np.array([[0, 64, 128, 255]] * 4) * (257 if depth == 16 else 1)
    stored = grey_tiff(2**depth - 1 - shown, depth, white_is_zero=True)
    assert np.array_equal(decode_image(stored, ".tif", RULES), shown)
    assert np.array_equal(decode_values(stored), shown)
    with pytest.raises(Rejected, match="grey with 0 as white"):
        decode_numbers(stored)


def test_white_of_a_tiff_whose_white_is_zero():
    stored = grey_tiff(np.array([[4095, 0]] * 2), 16, white_is_zero=True)
    assert decode_image(stored, ".tif", PixelRules(white=4095)).tolist() == [[0, 65535]] * 2


def test_of_photographs_with_previews_the_photograph_is_read():
    photograph = Image.fromarray(own.pixels(0, height=32, width=32))
    preview = photograph.resize((8, 8))
    data = encoded(photograph, "MPO", save_all=True, append_images=[preview])
    expected = decode_image(encoded(photograph, "JPEG"), ".jpg", RULES)
    assert np.array_equal(decode_image(data, ".jpg", RULES), expected)


def test_pictures_of_phones_are_to_be_converted(tmp_path: Path):
    with pytest.raises(Rejected, match="HEIC") as found:
        decode_image(b"\0\0\0\x18ftypheic\0\0\0\0", ".jpg", RULES)
    assert found.value.remedy == "Convert it to PNG or JPEG"
    assert no_picture(tmp_path / "x.HEIC", "x").remedy == "Convert it to PNG or JPEG"
    assert no_picture(tmp_path / "x.txt", "x").remedy == "Remove or rename it"
