"""Names: one Unicode form, none that stands for no value, no two that look alike."""

import re
import unicodedata
from collections.abc import Iterable
from typing import Final

from isnet_jax.data.custom.readers.samples import Rejected
from isnet_jax.errors import UserError, printable

# What spreadsheets, pandas, R and databases write into tables where a value is missing, or none.
_MISSING: Final = frozenset(
    (
        "nan", "-nan", "<na>", "nat", "#n/a", "#n/a n/a", "#na", "n/a", "null", "1.#ind", "-1.#ind",
        "1.#qnan", "-1.#qnan", "#ref!", "#value!", "#name?", "#div/0!", "#null!", "#num!",
    )
)  # fmt: skip
_MISSING_AS_WRITTEN: Final = frozenset({"NA"})
# As programs write one number: 1, 01, 1.0.
_WHOLE: Final = re.compile(r"([+-]?)0*(\d+)(?:\.0*)?", re.ASCII)
# What has no number of its own, and is at the top of other tools' lists.
_UNNUMBERED: Final = frozenset({"background", "ignore", "void", "unlabeled", "unlabelled"})
_NUMBERED: Final = re.compile(r"([0-9]{1,9})\s*[:=,;.)\s]\s*([^\W\d].*)")
_COMMENT: Final = ("#", "//")
# Dashes and quotes of keyboards and of text programs; Cyrillic and Greek letters that look Latin.
_LIKE: Final = str.maketrans(
    "\u2010\u2011\u2012\u2013\u2014\u2015\u2212\u2018\u2019\u02bc\u00b4\u2032`\u201c\u201d\u201e\u2033"
    "\u0430\u0432\u0435\u043a\u043c\u043d\u043e\u0440\u0441\u0442\u0443\u0445\u0456\u0458\u0455\u03bf",
    "-------''''''\"\"\"\"abekmhopctyxijso",
)
# Between digits a blank counts, and so does a point before one.
_BLANKS: Final = re.compile(r"(?<=\d)(\s)\s*(?=\d)|\s+")
_POINTS: Final = re.compile(r"\.(?!\d)")
_ZEROS: Final = re.compile(r"(?<![\d.])0+(?=\d)", re.ASCII)
_BETWEEN: Final = "|;,"
_AROUND: Final = " \t[]()'\""


def normal(name: str) -> str:
    """The name in Unicode's composed form (NFC): Macs give the same accents in two characters."""
    return unicodedata.normalize("NFC", name)


def plain(name: str) -> str:
    """What is the same in names that differ only in how they are written.

    That is in case, in blanks, -, _ and points, in quotes around them, in characters of one meaning
    (full-width letters, dashes) or look (Cyrillic letters), or, as numbers, in zeros: 1, 01 and
    1.0. Single characters keep their case: a and A are classes of handwriting.
    """
    text = unicodedata.normalize("NFKC", name).strip()
    if number := _WHOLE.fullmatch(text):
        return number[1].strip("+") + number[2]
    if len(text) == 1:
        return text
    bare = re.sub(r"[\s_-]+", " ", text.casefold().translate(_LIKE)).strip(" \"';:,")
    return _ZEROS.sub("", _BLANKS.sub(r"\1", _POINTS.sub("", bare))) or text


def lines_of(text: str) -> list[str]:
    """Lines as editors show them, without blank ones at the end."""
    return re.split(r"\r\n?|\n", text.rstrip())


def in_lines(text: str, place: object, *, outputs: bool = False) -> tuple[str, ...]:
    """Names that are numbered by their lines, from 1 on.

    Args:
        outputs: they are of a network's outputs, of which one may be the background, and which
            others number from any number on.

    Raises:
        UserError: a line holds no name, so that those behind it would have other numbers; or it
            has another number.
    """
    lines = [line.strip() for line in lines_of(text)]
    numbered = _own_numbers(lines)
    first = min(numbered, default=1) if outputs else 1
    for number, line in enumerate(lines, 1):
        wrong = None
        if not line:
            wrong = "is blank"
        elif line.startswith(_COMMENT):
            wrong = f"is a comment: {line[:40]!r}"
        elif number == 1 and line[0] in "[{":
            wrong = f"is {line[:40]!r}, of a list or dictionary of a program"
        elif not line.replace("\t", " ").isprintable():
            wrong = f"has invisible characters: {line[:40]!r}"
        elif number == 1 and not outputs and _letters(line) in _UNNUMBERED:
            wrong = f"is {line[:40]!r}, which has no line"
        elif numbered and numbered[number - 1] != number - 1 + first:
            wrong = f"is {line[:40]!r}, of another number"
        if wrong:
            raise UserError(
                f"{printable(place)}: line {number} {printable(wrong)}; expected the name of the "
                f"class number {number}. Remove the line, or write the name there."
            )
    return tuple(map(normal, lines))


def _letters(line: str) -> str:
    return re.sub(r"[\W\d_]+", "", line).casefold()


def _own_numbers(lines: list[str]) -> list[int]:
    """The numbers that a list of names has in its lines; empty if it has none."""
    found = [parts for line in lines if (parts := _NUMBERED.fullmatch(line))]
    numbers = [int(parts[1]) for parts in found]
    listed = sorted(numbers) == list(range(min(numbers, default=0), max(numbers, default=0) + 1))
    names = {plain(parts[2]) for parts in found}
    return numbers if listed and len(names) == len(found) == len(lines) else []


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
    if label in _MISSING_AS_WRITTEN or label.lower() in _MISSING:
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


def require_values(names: Iterable[str], place: object, what: str = "class") -> None:
    """Raises a `UserError` for a name that stands for a missing value."""
    for name in names:
        try:
            require_value(name)
        except Rejected as error:
            raise UserError(
                f"{printable(place)}: a {what} is called {name!r}, which tables hold where a value "
                "is missing. Give it another name, or leave it out."
            ) from error


def require_apart(names: Iterable[str], place: object) -> None:
    """Raises a `UserError` for a name that is several of the others, joined."""
    all_names = tuple(names)
    known = {plain(name) for name in all_names}
    for name in all_names:
        for mark in _BETWEEN:
            parts = [part.strip(_AROUND) for part in name.split(mark)]
            if len(parts) > 1 and all(part and plain(part) in known for part in parts):
                raise UserError(
                    f"{printable(place)}: the class {printable(repr(name))} is made of the classes "
                    f"{printable(' and '.join(map(repr, parts)))}. Expected one class in each cell "
                    "of a column label; in a column labels separate them by |."
                )
