"""How files store shades where decoding hides it: depth, sign, losses, palettes, rows."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import own_pictures as own
import pytest
from PIL import Image

from isnet_jax.data import FolderSource, OwnDataConfig, PixelRules, VocSource, prepare_own
from isnet_jax.data.custom.fingerprints import content
from isnet_jax.data.custom.preparation import record_of
from isnet_jax.data.custom.readers import Contents, Rejected
from isnet_jax.data.custom.readers.pictures import decode_image, decode_numbers, decode_values

RULES = PixelRules()
SHADES = np.arange(16).reshape(4, 4) * 273  # 0 to 4,095


def encoded(array: np.ndarray, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, kind, **options)
    return buffer.getvalue()


def tiff(rows: bytes, depth: int, **tags: int) -> bytes:
    """A grey TIFF of 4 x 4 pixels in one strip."""
    values = {256: 4, 257: 4, 258: depth, 259: 1, 262: 1, 273: 8, 277: 1, 278: 4, 279: len(rows)}
    values |= {int(tag.strip("_")): value for tag, value in tags.items()}
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, values[tag]) for tag in sorted(values))
    start = struct.pack("<2sHI", b"II", 42, 8 + len(rows)) + rows
    return start + struct.pack("<H", len(values)) + entries + bytes(4)


def twelve_bits() -> bytes:
    bits = "".join(f"{shade:012b}" for shade in SHADES.ravel())
    return tiff(int(bits, 2).to_bytes(24, "big"), 12)


def png(rows: list[bytes], size: tuple[int, int], colour: int, palette: bytes = b"", lace: int = 0):
    """A PNG of 8 bits with these rows, its pixels in two chunks; width before height."""
    stream = zlib.compress(b"".join(b"\0" + row for row in rows))
    header = struct.pack(">IIBBBBB", *size, 8, colour, 0, 0, lace)
    chunks = [(b"IHDR", header), (b"PLTE", palette)][: 2 if palette else 1]
    chunks += [(b"IDAT", stream[:9]), (b"IDAT", stream[9:]), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(held)) + kind + held + struct.pack(">I", zlib.crc32(kind + held))
        for kind, held in chunks
    )


def test_twelve_bits_of_a_tiff_reach_white():
    for rules in (RULES, PixelRules(white=65535)):
        found = decode_image(twelve_bits(), ".tif", rules)
        np.testing.assert_array_equal(found, np.rint(SHADES * (65535 / 4095)))
    np.testing.assert_array_equal(decode_numbers(twelve_bits()), SHADES)
    np.testing.assert_array_equal(decode_values(twelve_bits()), SHADES)


def test_signed_shades_of_eight_bits():
    shades = np.arange(16, dtype=np.int8).reshape(4, 4)
    data = tiff(shades.tobytes(), 8, _339=2)
    np.testing.assert_array_equal(decode_image(data, ".tif", RULES), shades)
    for decode in (lambda data: decode_image(data, ".tif", RULES), decode_values, decode_numbers):
        with pytest.raises(Rejected, match="holds values below 0"):
            decode(tiff((shades - 5).tobytes(), 8, _339=2))


@pytest.mark.parametrize("depth", [1, 8])
@pytest.mark.parametrize("plain", [True, False])
def test_numbers_of_plain_maps_are_those_of_others(depth: int, plain: bool):
    numbers = np.array([[0, 1, 1, 0, 0, 0, 0, 1]] * 2)
    text = "\n".join(" ".join(map(str, row)) for row in numbers).encode()
    if depth == 1:  # 1 is black.
        data = b"P1\n8 2\n" + text if plain else b"P4\n8 2\n" + np.packbits(numbers, 1).tobytes()
        np.testing.assert_array_equal(decode_numbers(data), 1 - numbers)
    else:
        data = b"P2\n8 2\n7\n" + text if plain else b"P5\n8 2\n7\n" + numbers.astype("u1").tobytes()
        np.testing.assert_array_equal(decode_numbers(data), numbers)


def test_numbers_are_not_kept_by_jpeg(tmp_path: Path):
    numbers = np.where(own.drawn(0), np.uint8(2), np.uint8(0))
    own.write(tmp_path / "JPEGImages" / "0.png", own.pixels(0))
    for kind, options in (("JPEG", {}), ("TIFF", {"compression": "jpeg"})):
        place = tmp_path / "SegmentationClass" / f"0.{kind.lower()}"
        own.write(place, encoded(numbers, kind, **options))
        for label in ("only", "largest", "all"):
            (sample,) = VocSource(tmp_path, label=label).listing().samples
            with pytest.raises(Rejected, match="is compressed with losses") as caught:
                sample.annotation.read(own.SIDE, own.SIDE, Contents())
            assert caught.value.file == place
        place.unlink()


@pytest.mark.parametrize(("colour", "channels"), [(0, 1), (2, 3), (3, 1)])
def test_rows_that_a_png_lacks(colour: int, channels: int):
    rows = [bytes([200]) * 8 * channels] * 8
    palette = bytes(768) if colour == 3 else b""
    assert decode_image(png(rows, (8, 8), colour, palette), ".png", RULES).shape[:2] == (8, 8)
    for lacking in (rows[:7], [*rows[:7], rows[7][:-1]], []):
        with pytest.raises(Rejected, match="is a damaged or truncated PNG"):
            decode_image(png(lacking, (8, 8), colour, palette), ".png", RULES)


def test_numbers_beyond_a_palette():
    numbers = np.array([[0, 1, 2, 3]] * 4, np.uint8)
    rows = [row.tobytes() for row in numbers]
    whole, short = bytes(range(12)), bytes(range(9))
    picture = Image.fromarray(numbers, "P")
    picture.putpalette(bytes(range(12)))
    bitmap = io.BytesIO()
    picture.save(bitmap, "BMP")
    header = bytearray(bitmap.getvalue())
    for data in (png(rows, (4, 4), 3, whole), bytes(header)):
        assert decode_image(data, ".x", RULES)[0, 3].tolist() == [9, 10, 11]
    header[46:50] = (3).to_bytes(4, "little")
    for data in (png(rows, (4, 4), 3, short), png(rows, (4, 4), 3), bytes(header)):
        for decode in (lambda data: decode_image(data, ".x", RULES), decode_values):
            with pytest.raises(
                Rejected, match=r"its palette has [03] colours, but pixels name mor"
            ):
                decode(data)
    # Numbers of classes need no colours.
    np.testing.assert_array_equal(decode_numbers(png(rows, (4, 4), 3, short)), numbers)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "RGB", "RGBA", "P", "I;16"])
@pytest.mark.parametrize("size", [(1, 1), (2, 5), (5, 3), (9, 8), (300, 400)])
def test_whole_pngs_of_all_kinds(mode: str, size: tuple[int, int]):
    picture = Image.new(mode, size, 0)
    if mode in ("LA", "RGBA"):
        picture.putalpha(255)
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    assert decode_image(buffer.getvalue(), ".png", RULES).shape[:2] == size[::-1]


# PNG's specification, 8.2: the pass of each pixel.
PASSES = np.array(
    [
        *([1, 6, 4, 6, 2, 6, 4, 6], [7] * 8, [5, 6] * 4, [7] * 8),
        *([3, 6, 4, 6, 3, 6, 4, 6], [7] * 8, [5, 6] * 4, [7] * 8),
    ]
)


@pytest.mark.parametrize("size", [(1, 1), (2, 5), (5, 3), (9, 8), (33, 17)])
def test_interlaced_pngs(size: tuple[int, int]):
    width, height = size
    passes = np.tile(PASSES, (5, 5))[:height, :width]
    counts = [np.count_nonzero(row == number) for number in range(1, 8) for row in passes]
    rows = [bytes([100]) * count for count in counts if count]
    found = decode_image(png(rows, size, 0, lace=1), ".png", RULES)
    np.testing.assert_array_equal(found, np.full((height, width), 100))
    with pytest.raises(Rejected, match="damaged or truncated"):
        decode_image(png([*rows[:-1], rows[-1][1:]], size, 0, lace=1), ".png", RULES)


def test_what_is_left_out_is_said_in_the_same_words_each_time(tmp_path: Path):
    source = own.write_folder(tmp_path / "source")
    own.write(source / "images" / "cat" / "00.png", b"<html>404 not found</html>")
    found = []
    for name in ("one", "two"):
        prepare_own(FolderSource(source), tmp_path / name, OwnDataConfig(skip_bad=True))
        found.append(record_of(tmp_path / name))
    assert found[0]["left_out"] == found[1]["left_out"]
    assert "cannot be decoded (cannot identify image file)" in found[0]["left_out"][0]
    assert content(found[0]) == content(found[1])


def deep_png(values: np.ndarray, colour: int, depth: int = 16, key: int | None = None) -> bytes:
    """A PNG of 16 bits a channel, or of fewer in grey; the key is the shade that is clear."""
    height, width = values.shape[:2]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    if depth < 16:
        bits = ("".join(f"{shade:0{depth}b}" for shade in row) for row in values)
        rows = b"".join(b"\0" + int(b, 2).to_bytes(len(b) // 8, "big") for b in bits)
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    clear = [] if key is None else [(b"tRNS", struct.pack(">H", key))]
    chunks = [(b"IHDR", header), *clear, (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(held)) + kind + held + struct.pack(">I", zlib.crc32(kind + held))
        for kind, held in chunks
    )


@pytest.mark.parametrize(("colour", "channels"), [(2, 3), (4, 2), (6, 4)])
def test_sixteen_bits_in_colour_or_with_alpha(colour: int, channels: int):
    grey = (SHADES // 16 * 256 // 255).astype(np.uint16)[..., None]  # Below 256: the lower bytes.
    values = np.repeat(grey, channels, 2)
    if channels in (2, 4):
        values[..., -1] = 65535
    data = deep_png(values, colour)
    np.testing.assert_array_equal(decode_values(data), grey[..., 0])
    np.testing.assert_array_equal(decode_image(data, ".png", RULES), grey[..., 0])
    white = decode_image(data, ".png", PixelRules(white=256))
    np.testing.assert_array_equal(white, np.rint(grey[..., 0] * (65535 / 256)))
    if channels in (2, 4):
        values[0, 0, -1] = 65534
        with pytest.raises(Rejected, match="transparent"):
            decode_image(deep_png(values, colour), ".png", RULES)
    else:
        values[..., 0] = 0
        found = decode_image(deep_png(values, colour), ".png", PixelRules(white=256))
        np.testing.assert_array_equal(found, np.rint(values * (255 / 256)))


@pytest.mark.parametrize("compression", ["raw", "tiff_deflate"])
def test_sixteen_bits_in_colour_of_a_tiff(compression: str):
    tifffile = pytest.importorskip("tifffile")
    values = np.random.default_rng(0).integers(0, 65536, (4, 4, 3), dtype=np.uint16)
    kind = {} if compression == "raw" else {"compression": "zlib"}
    for order in "<>":
        file = io.BytesIO()
        tifffile.imwrite(file, values, photometric="rgb", byteorder=order, **kind)
        found = decode_image(file.getvalue(), ".tif", RULES)
        np.testing.assert_array_equal(found, np.rint(values / 257))
    file = io.BytesIO()
    tifffile.imwrite(file, values.T, photometric="rgb", planarconfig="separate", **kind)
    with pytest.raises(Rejected, match="16 bits for each colour, in separate planes"):
        decode_image(file.getvalue(), ".tif", RULES)


@pytest.mark.parametrize("decode", [decode_values, lambda data: decode_image(data, "", RULES)])
def test_a_tiff_whose_alpha_is_multiplied_in(decode):
    tifffile = pytest.importorskip("tifffile")
    for alpha in (255, 128):
        values = np.full((4, 4, 2), (7, alpha), np.uint8)
        file = io.BytesIO()
        tifffile.imwrite(file, values, photometric="minisblack", extrasamples=["assocalpha"])
        if alpha == 255:
            assert (decode(file.getvalue()) == 7).all()
        else:
            with pytest.raises(Rejected, match="transparent"):
                decode(file.getvalue())


@pytest.mark.parametrize("depth", [1, 2, 4, 16])
def test_a_shade_that_is_clear(depth: int):
    white = 2**depth - 1
    values = np.array([[0, white] * 4], np.uint16)
    for key in (0, white):
        for decode in (decode_values, lambda data: decode_image(data, ".png", RULES)):
            with pytest.raises(Rejected, match="transparent"):
                decode(deep_png(values, 0, depth, key))
    if depth > 1:
        decode_values(deep_png(values, 0, depth, 1))


def test_numbers_of_palettes_that_may_be_others():
    greys = Image.fromarray(np.array([[0, 1, 2]], np.uint8), "L")
    greys.putpalette([0, 0, 0, 7, 7, 7, 15, 15, 15])
    with pytest.raises(Rejected, match="0, 7, 15 for 0, 1, 2"):
        decode_numbers(_saved(greys, "PNG"))
    greys.putpalette([value for code in range(256) for value in (code, 255 - code, 0)])
    assert decode_numbers(_saved(greys, "PNG")).tolist() == [[0, 1, 2]]
    with pytest.raises(Rejected, match="is a GIF"):
        decode_numbers(_saved(greys, "GIF"))


def _saved(picture: Image.Image, kind: str) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, kind)
    return buffer.getvalue()


def test_a_tiff_with_smaller_copies_of_it():
    def pages(*kinds: int) -> bytes:
        """A TIFF whose pages differ in what they are: 0, a picture, or 1, a smaller copy."""
        data = bytearray(tiff(bytes(range(16)), 8, _254=kinds[0]))
        place = 8 + 16
        for kind in kinds[1:]:
            next_place = place + 2 + 12 * 10
            data[next_place : next_place + 4] = struct.pack("<I", len(data))
            place = len(data)
            data += tiff(b"", 8, _254=kind, _279=16)[8:]
        return bytes(data)

    for kinds, read in (((0, 1, 1), True), ((0, 0), False), ((1, 0), False), ((0, 1, 0), False)):
        if read:
            found = decode_image(pages(*kinds), ".tif", RULES)
            np.testing.assert_array_equal(found.ravel(), range(16))
        else:
            with pytest.raises(Rejected, match=f"holds {len(kinds)} pictures"):
                decode_image(pages(*kinds), ".tif", RULES)


def test_a_gif_whose_frame_leaves_parts_out():
    data = bytearray(_saved(Image.new("P", (4, 4), 1), "GIF"))
    decode_image(bytes(data), ".gif", RULES)
    data[6:8] = struct.pack("<H", 5)  # The width of the whole.
    with pytest.raises(Rejected, match="parts without a colour"):
        decode_image(bytes(data), ".gif", RULES)
