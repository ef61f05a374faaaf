"""Whether a PNG is whole, of which Pillow checks a part."""

import zlib
from collections.abc import Iterator
from typing import Final

from isnet_jax.data.custom.readers.samples import Rejected

_SIGNATURE_BYTES: Final = 8
_CHANNELS: Final = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # by the kind of colour in the header
# Of each pass of an interlaced picture: the first column and row, and the steps to the next.
_PASSES: Final = (
    (0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2),
    (0, 1, 1, 2),
)  # fmt: skip
_WHOLE: Final = ((0, 0, 1, 1),)
_FED, _TAKEN = 1 << 16, 1 << 20  # bytes at a time


def require_whole(data: bytes) -> None:
    """Checks the checksums of all chunks, and that there are pixels for all rows.

    Raises:
        Rejected: it is damaged, or ends early.
        zlib.error: its pixels are no zlib stream.
    """
    header, pixels = b"", []
    for kind, content in _chunks(data):
        if kind == b"IHDR":
            header = bytes(content)
        elif kind == b"IDAT":
            pixels.append(content)
    if len(header) != 13 or not _inflates_to(pixels, _expected(header)):
        raise _damaged()


def _chunks(data: bytes) -> Iterator[tuple[bytes, memoryview]]:
    """Kinds and contents, up to the end's."""
    whole, place, kind = memoryview(data), _SIGNATURE_BYTES, b""
    while kind != b"IEND":
        end = place + 8 + int.from_bytes(data[place : place + 4], "big")
        kind, checksum = data[place + 4 : place + 8], data[end : end + 4]
        if zlib.crc32(whole[place + 4 : end]).to_bytes(4, "big") != checksum:
            raise _damaged()
        yield kind, whole[place + 8 : end]
        place = end + 4


def _expected(header: bytes) -> int:
    """Bytes of all rows, each with one for its filter, by the content of IHDR."""
    width, height = int.from_bytes(header[:4], "big"), int.from_bytes(header[4:8], "big")
    bits = header[8] * _CHANNELS.get(header[9], 0)
    total = 0
    for left, top, across, down in _PASSES if header[12] else _WHOLE:
        columns, rows = -((left - width) // across), -((top - height) // down)
        if columns > 0 and rows > 0:
            total += rows * (1 + (columns * bits + 7) // 8)
    return total


def _inflates_to(pixels: list[memoryview], size: int) -> bool:
    """Whether a zlib stream in pieces holds so many bytes; few are in memory at a time."""
    stream, found = zlib.decompressobj(), 0
    for piece in pixels:
        for start in range(0, len(piece), _FED):
            fed: bytes | memoryview = piece[start : start + _FED]
            while fed and found < size:
                found += len(stream.decompress(fed, _TAKEN))
                fed = stream.unconsumed_tail
    return found + len(stream.flush() if found < size else b"") >= size


def _damaged() -> Rejected:
    return Rejected("is a damaged or truncated PNG", "Copy it again")
