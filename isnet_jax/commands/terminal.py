"""What is said on the terminal, which may hold anybody's names."""

from __future__ import annotations

import io
import sys

from rich.console import Console
from rich.markup import escape

from isnet_jax.errors import printable


def console(*, stderr: bool = False) -> Console:
    """Where a command prints; names with colons, as in a:x:b.png, stay as they are."""
    return Console(stderr=stderr, emoji=False)


def say(console: Console, line: str) -> None:
    """Print a line of which nothing is markup and nothing acts on the terminal; never broken."""
    console.print(printable(line), soft_wrap=True, highlight=False, markup=False)


def warn(console: Console, text: str) -> None:
    """Print a warning, of which nothing is markup; never broken."""
    console.print(
        f"[bold yellow]warning:[/] {escape(printable(text))}", soft_wrap=True, highlight=False
    )


def escape_what_cannot_be_encoded() -> None:
    """Let a terminal or log that is not UTF-8 get escapes instead of an error."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
