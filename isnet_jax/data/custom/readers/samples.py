"""What the readers of own data find: samples, the files they need, and what is wrong with some."""

import hashlib
import os
import re
import stat
import unicodedata
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path, PureWindowsPath
from typing import Any, Final, Protocol

import numpy as np
from jaxtyping import Bool

from isnet_jax.errors import UserError, printable

MAX_FILE_BYTES: Final = 1 << 30
_NOISE: Final = frozenset({"thumbs.db", "desktop.ini"})
_ADDRESS: Final = re.compile(r"\s*<[^<>]* at 0x[0-9a-fA-F]+>")


class Rejected(Exception):  # noqa: N818
    """A file that cannot be used; whoever knows its name turns this into a `Problem`.

    Attributes:
        wrong: what was found, a clause whose subject is the file.
        remedy: what to do, a sentence without its full stop.
        file: another file than the one being read, if that is the bad one.
    """

    def __init__(self, wrong: str, remedy: str, file: Path | None = None) -> None:
        super().__init__(wrong)
        self.wrong, self.remedy, self.file = wrong, remedy, file


@contextmanager
def blamed(file: Path) -> Iterator[None]:
    """What is rejected inside is rejected because of this file."""
    try:
        yield
    except Rejected as error:
        raise Rejected(error.wrong, error.remedy, file) from error


@dataclass(frozen=True)
class Problem:
    """One bad file or entry.

    Attributes:
        place: where it is, such as a path below the source or a line of a table.
        wrong: what was found.
        remedy: what to do.
    """

    place: str
    wrong: str
    remedy: str

    def __str__(self) -> str:
        return f"{printable(self.place)}: {printable(self.wrong)}. {printable(self.remedy)}."


@dataclass(frozen=True)
class Annotated:
    """What is known about an image: its foreground, None where nobody drew it, and its classes."""

    mask: Bool[np.ndarray, "h w"] | None
    labels: tuple[str, ...]


class Annotation(Protocol):
    """Where the mask and the classes of a sample come from."""

    @property
    def files(self) -> tuple[Path, ...]:
        """The files that `read` needs."""
        ...

    def read(self, height: int, width: int, contents: "Contents") -> Annotated | None:
        """Mask and classes for an image of this size; None if it shows nothing that was asked for.

        Raises:
            Rejected: they cannot be had.
        """
        ...


@dataclass(frozen=True)
class Record:
    """A picture that lies among others in a file.

    Attributes:
        name: unique in the data set.
        get: gives its bytes.
    """

    name: str
    get: Callable[[], bytes] = field(compare=False)

    @property
    def suffix(self) -> str:
        """None: its kind is told by its content."""
        return ""

    def __str__(self) -> str:
        return self.name


class Contents:
    """Bytes of the files, with a hash of each: the second reading must find the first one's.

    Args:
        expected: path -> SHA-256 from the first reading; None for the first reading itself.
    """

    def __init__(self, expected: dict[Path | Record, str] | None = None) -> None:
        self.expected = expected
        self.digests: dict[Path | Record, str] = {}

    def read(self, path: Path | Record) -> bytes:
        """The bytes of a regular file, or of a record.

        Raises:
            Rejected: it is missing, not a file, too large, or cannot be read.
            UserError: it is not what the first reading found.
        """
        data = path.get() if isinstance(path, Record) else read_regular(path)
        digest = hashlib.sha256(data).hexdigest()
        self.digests[path] = digest
        if self.expected is not None and self.expected.get(path) != digest:
            raise UserError(
                f"{printable(path)} changed while the data were being prepared. Nothing was "
                "written; give the command again when the files are at rest."
            )
        return data


@dataclass(frozen=True)
class Sample:
    """One image, not decoded yet.

    Attributes:
        id: its name, unique in the data set: the image's path below the source.
        image: the image file, or a record.
        annotation: mask and classes.
        split: where the source puts it; None if it is for the fractions to decide.
    """

    id: str
    image: Path | Record
    annotation: Annotation
    split: str | None = None


@dataclass(frozen=True)
class Listing:
    """All that a source holds.

    Attributes:
        root: paths are shown and recorded relative to this folder.
        samples: in the order of their ids.
        problems: what is wrong so far; nothing is decoded yet.
        class_names: the classes in their order; those that no sample has are dropped for sources
            whose list names more than they use.
        multi_label: a sample has any number of classes instead of exactly one.
        files: tables and lists that name the samples.
    """

    root: Path
    samples: tuple[Sample, ...]
    problems: tuple[Problem, ...]
    class_names: tuple[str, ...]
    multi_label: bool = False
    files: tuple[Path, ...] = field(default=())


class Source(Protocol):
    """A place that holds images with masks, and how values in its files are understood."""

    @property
    def rules(self) -> Any: ...

    def listing(self) -> Listing:
        """Finds the samples without decoding images.

        Raises:
            UserError: it is no such place at all.
        """
        ...


def read_regular(path: Path) -> bytes:
    """The bytes of a regular file; pipes and devices, which might never end, are refused.

    Raises:
        Rejected: it is missing, not a file, too large, or cannot be read.
    """
    try:
        status = path.stat()
        if stat.S_ISDIR(status.st_mode):
            raise Rejected("is a folder, expected a file", "Rename or remove it")
        if not stat.S_ISREG(status.st_mode):
            raise Rejected("is not a regular file", "Put a file in its place")
        if status.st_size > MAX_FILE_BYTES:
            raise Rejected(
                f"has {status.st_size:,} bytes, more than the {MAX_FILE_BYTES:,} that are read",
                "Make it smaller",
            )
        if not status.st_size:
            raise Rejected("is empty (0 bytes)", "Copy it again")
        return path.read_bytes()
    except FileNotFoundError as error:
        raise Rejected("is missing", "Put it there or correct its name") from error
    except (OSError, ValueError) as error:
        raise Rejected(f"cannot be read ({_reason(error)})", "Mend or remove it") from error


def read_text(path: Path, what: str) -> str:
    """A whole UTF-8 text, with or without a byte order mark.

    Args:
        path: the file.
        what: what it should be, such as "a CSV table".

    Raises:
        UserError: it cannot be read, or is not such a text.
    """
    try:
        data = read_regular(path)
    except Rejected as error:
        raise UserError(
            f"{printable(path)} {error.wrong}; expected {what}. {error.remedy}."
        ) from error
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise UserError(
            f"{printable(path)} is not UTF-8 text: line {line} holds the byte "
            f"0x{data[error.start]:02x}. Save it as UTF-8."
        ) from error
    if "\0" in text:
        line = text.count("\n", 0, text.index("\0")) + 1
        raise UserError(
            f"{printable(path)} holds a NUL byte in line {line}; expected {what}. Save it as UTF-8 "
            "text (UTF-16 has such bytes)."
        )
    return text


def inside(root: Path, text: str) -> Path:
    """The path that a table or list means, below ``root``; symbolic links are followed as usual.

    Blanks around it count only where a file is called so.

    Raises:
        Rejected: it is empty, leads out of ``root``, or holds characters that no path has.
    """
    remedy = f"Give a path below {printable(root)}"
    if not text or not text.strip():
        raise Rejected("is an empty path", remedy)
    if any(ord(character) < 32 or character == "\x7f" for character in text):
        raise Rejected(f"{text!r} holds control characters", remedy)
    try:
        os.fsencode(text)
    except UnicodeEncodeError as error:
        raise Rejected(f"{text!r} is not valid Unicode", remedy) from error
    base = Path(os.path.abspath(root))
    if not os.path.lexists(base / text):
        text = text.strip()
    path = Path(os.path.normpath(base / text))
    if path == base or not path.is_relative_to(base):
        raise Rejected(f"{text!r} leads out of {printable(root)}", remedy)
    path = _as_written(path, base)
    if (PureWindowsPath(text).drive or text.startswith("\\\\")) and not path.exists():
        raise Rejected(f"{text!r} is a path on a Windows disk", f"{remedy}, with / between folders")
    if "\\" in text and not path.exists():
        raise Rejected(f"{text!r} is missing", "Write paths with / instead of backslashes")
    return path


def _as_written(path: Path, base: Path) -> Path:
    """The path in the Unicode form that its file's name has; Macs decompose accents."""
    text = path.relative_to(base).as_posix()
    for form in ("NFC", "NFD"):
        other = base / unicodedata.normalize(form, text)
        if not os.path.lexists(path) and os.path.lexists(other):
            return other
    return path


def relative(path: Path, root: Path) -> str:
    """The path below ``root`` with forward slashes, or the whole of it when it is elsewhere."""
    base = Path(os.path.abspath(root))
    whole = Path(os.path.abspath(path))
    return whole.relative_to(base).as_posix() if whole.is_relative_to(base) else whole.as_posix()


def entries(folder: Path) -> list[Path]:
    """What a folder holds, by name, without hidden files and what file managers leave.

    Raises:
        UserError: it cannot be read.
    """
    try:
        found = sorted(folder.iterdir(), key=lambda path: os.fsencode(path.name))
    except (OSError, ValueError) as error:
        raise UserError(
            f"{printable(folder)} cannot be read as a folder ({_reason(error)})."
        ) from error
    return [
        path for path in found if not path.name.startswith(".") and path.name.lower() not in _NOISE
    ]


def is_folder(path: Path) -> bool:
    """Whether it is a folder; a loop of symbolic links is none."""
    try:
        return stat.S_ISDIR(path.stat().st_mode)
    except (OSError, ValueError):
        return False


def require_folder(path: Path, what: str) -> None:
    """Raises a `UserError` unless it is a folder; ``what`` says what it should hold."""
    if not is_folder(path):
        found = "is not a folder" if os.path.lexists(printable(path)) else "does not exist"
        raise UserError(f"{printable(path)} {found}; expected {what}. Correct the path.")


def encodable(name: str) -> bool:
    """Whether a file's name can be written as UTF-8."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def unique(values: Iterable[str]) -> tuple[str, ...]:
    """The values in order of first appearance."""
    return tuple(dict.fromkeys(values))


def first_line(error: Exception, length: int = 120) -> str:
    """What a library says of a file, in the same words each time."""
    lines = without_addresses(str(error)).splitlines()
    return lines[0][:length] if lines else type(error).__name__


def without_addresses(text: str) -> str:
    """The text without objects in memory, such as <_io.BytesIO object at 0x7f3a5c0d>."""
    return _ADDRESS.sub("", text)


def _reason(error: Exception) -> str:
    return printable(getattr(error, "strerror", None) or error)
