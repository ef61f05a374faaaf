"""Names: one Unicode form, none that stands for no value, no two that look alike."""

import re
import unicodedata
from collections.abc import Iterable
from typing import Final

from isnet_jax.data.custom.readers.samples import Rejected
from isnet_jax.errors import UserError, printable

# What programs write into tables where a value is missing.
_MISSING: Final = frozenset({"nan", "<na>", "#n/a", "nat"})
# As programs write one number: 1, 01, 1.0.
_WHOLE: Final = re.compile(r"([+-]?)0*(\d+)(?:\.0*)?", re.ASCII)
# What has no number of its own, and is at the top of other tools' lists.
_UNNUMBERED: Final = frozenset({"background", "ignore", "void", "unlabeled", "unlabelled"})
_COMMENT: Final = ("#", "//")


def normal(name: str) -> str:
    """The name in Unicode's composed form (NFC): Macs give the same accents in two characters."""
    return unicodedata.normalize("NFC", name)


def plain(name: str) -> str:
    """What is the same in names that differ only in how they are written.

    That is in case, in blanks, - and _, in characters of one meaning (full-width letters), or, as
    numbers, in zeros: 1, 01 and 1.0. Single characters keep their case: a and A are classes of
    handwriting.
    """
    text = unicodedata.normalize("NFKC", name).strip()
    if number := _WHOLE.fullmatch(text):
        return number[1].strip("+") + number[2]
    return text if len(text) == 1 else re.sub(r"[\s_-]+", " ", text).strip().casefold()


def in_lines(text: str, place: object) -> tuple[str, ...]:
    """Names that are numbered by their lines, from 1 on.

    Raises:
        UserError: a line holds no name, so that those behind it would have other numbers.
    """
    lines = [line.strip() for line in re.split(r"\r\n?|\n", text.rstrip())]
    for number, line in enumerate(lines, 1):
        wrong = None
        if not line:
            wrong = "is blank"
        elif line.startswith(_COMMENT):
            wrong = f"is a comment: {line[:40]!r}"
        elif number == 1 and re.sub(r"[\W\d_]+", "", line).casefold() in _UNNUMBERED:
            wrong = f"is {line[:40]!r}, which has no line"
        if wrong:
            raise UserError(
                f"{printable(place)}: line {number} {printable(wrong)}; expected the name of the "
                f"class number {number}. Remove the line, or write the name there."
            )
    return tuple(map(normal, lines))


def require_as_written(
    found: Iterable[str], expected: Iterable[str], what: str, remedy: str = "Rename it"
) -> None:
    """Raises a `UserError` for a name that would be one of those expected, written otherwise.

    Where the one that is expected is there too, the other is not what it looks like.

    Args:
        what: the name is of, such as "data.csv: the column".
        remedy: a sentence without its full stop.
    """
    there = set(found)
    meant = {_run_together(name): name for name in expected if name not in there}
    for name in sorted(there):
        if other := meant.get(_run_together(name)):
            raise UserError(
                f"{what} {printable(repr(name))} is not read; expected {other!r}. {remedy}."
            )


def _run_together(name: str) -> str:
    return plain(name).replace(" ", "")


def require_value(label: str) -> None:
    """Raises `Rejected` for a label that stands for a missing value."""
    if label.lower() in _MISSING:
        raise Rejected(
            f"has the label {label!r}, which tables hold where a value is missing",
            "Write its class, or remove the row",
        )


def require_distinct(names: Iterable[str], place: object, what: str = "classes") -> None:
    """Raises a `UserError` for names that differ only in how they are written: see `plain`."""
    seen: dict[str, str] = {}
    for name in names:
        other = seen.setdefault(plain(name), name)
        if other != name:
            raise UserError(
                f"{printable(place)}: the {what} {printable(repr(other))} and "
                f"{printable(repr(name))} differ only in how they are written. Write them alike, "
                "or give them names that differ."
            )
