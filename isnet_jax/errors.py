"""Errors that the user can mend."""

import difflib
from collections.abc import Iterable
from typing import ClassVar


class UserError(ValueError):
    """An input that the user can mend.

    The message says what was found, what was expected and what to do. The command line prints it
    without a traceback and exits with status 2; every other exception is a bug of ours. What a
    terminal would act on is escaped in it, but for the ends of lines: names of files, classes and
    tensors, which may hold those too, are written with `printable`.
    """

    def __init__(self, message: str):
        super().__init__("\n".join(map(printable, message.split("\n"))))


class Terminated(Exception):  # noqa: N818
    """SIGTERM asked a training to end; what it had done is saved."""

    exit_code: ClassVar = 143
    """As shells and schedulers report it of any process that SIGTERM ended."""


def printable(text: object) -> str:
    """The text with everything escaped that a terminal would act on or cannot show."""
    return "".join(
        character
        if character.isprintable()
        else character.encode("unicode_escape", "surrogatepass").decode("ascii")
        for character in str(text)
    )


def suggest(name: str, known: Iterable[str], what: str = "name") -> str:
    """The sentence to raise about an unknown name.

    Args:
        name: what the user wrote.
        known: the names that would have been understood.
        what: what the name stands for, such as ``"model"``.

    Returns:
        The complaint, the nearest known name if there is one near, and all known names.

    >>> suggest("resnet81", ["resnet18", "vgg11"], what="model")
    "unknown model 'resnet81'; did you mean 'resnet18'? Known: resnet18, vgg11."
    """
    names = sorted(known)
    by_lower = {candidate.lower(): candidate for candidate in names}
    near = difflib.get_close_matches(name.lower(), by_lower, n=1)
    hint = f"; did you mean {by_lower[near[0]]!r}?" if near else "."
    return f"unknown {what} {name!r}{hint} Known: {', '.join(map(printable, names))}."
