"""Errors that the user can mend."""

import difflib
from collections.abc import Iterable


class UserError(ValueError):
    """An input that the user can mend.

    The message says what was found, what was expected and what to do. The command line prints it
    without a traceback and exits with status 2; every other exception is a bug of ours.
    """


class Terminated(Exception):  # noqa: N818
    """SIGTERM asked a training to end; what it had done is saved."""


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
    return f"unknown {what} {name!r}{hint} Known: {', '.join(names)}."
