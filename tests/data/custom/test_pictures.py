"""Image and mask files as arrays, and why some are refused."""

import io
import warnings

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
        (encoded(Image.fromarray(own.pixels(0)), "JPEG")[:-30], "cannot be decoded"),
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
