"""Names of classes: one Unicode form, none that stands for no value, no two that look alike."""

import re
import unicodedata
from collections.abc import Iterable
from typing import Final

from isnet_jax.data.custom.readers.samples import Rejected
from isnet_jax.errors import UserError, printable

# What programs write into tables where a value is missing.
_MISSING: Final = frozenset({"nan", "<na>", "#n/a", "nat"})


def normal(name: str) -> str:
    """The name in Unicode's composed form (NFC): Macs give the same accents in two characters."""
    return unicodedata.normalize("NFC", name)


def require_value(label: str) -> None:
    """Raises `Rejected` for a label that stands for a missing value."""
    if label.lower() in _MISSING:
        raise Rejected(
            f"has the label {label!r}, which tables hold where a value is missing",
            "Write its class, or remove the row",
        )


def require_distinct(names: Iterable[str], place: object) -> None:
    """Raises a `UserError` for classes that differ in case, blanks, - and _ only.

    Single characters are exempt: a and A are classes of handwriting.
    """
    seen: dict[str, str] = {}
    for name in names:
        key = name if len(name) == 1 else re.sub(r"[\s_-]+", " ", name).strip().casefold()
        other = seen.setdefault(key, name)
        if other != name:
            raise UserError(
                f"{printable(place)}: the classes {printable(repr(other))} and "
                f"{printable(repr(name))} differ only in how they are written. Write them alike, "
                "or give them names that differ."
            )
