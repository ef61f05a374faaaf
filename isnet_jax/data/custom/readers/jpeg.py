"""Whether a JPEG goes to its end, which its decoder does not ask for."""

from typing import Final

from isnet_jax.data.custom.readers.samples import Rejected

_SCAN, _END = 0xDA, 0xD9
_BARE: Final = frozenset((0x01, *range(0xD0, 0xD9)))  # markers without a length


def require_end(data: bytes) -> None:
    """Raises `Rejected` for a JPEG whose end is not marked behind its first scan.

    Such a file was cut off and filled up, with zeros mostly; what lacks is decoded as grey.
    """
    scan = _first_scan(data)
    if scan is not None and data.find(bytes((0xFF, _END)), scan) < 0:
        raise Rejected("is a truncated JPEG: its end is missing", "Copy it again")


def _first_scan(data: bytes) -> int | None:
    """Where the first scan's pixels begin; before it there may be pictures in pictures."""
    place = 2
    while place + 4 <= len(data):
        if data[place] != 0xFF:
            return None
        kind = data[place + 1]
        if kind == 0xFF or kind in _BARE:
            place += 1 if kind == 0xFF else 2
            continue
        place += 2 + int.from_bytes(data[place + 2 : place + 4], "big")
        if kind == _SCAN:
            return place
    return None
