"""Lines on the terminal that may hold anybody's names."""

from __future__ import annotations

from rich.console import Console
from rich.markup import escape

from isnet_jax.errors import printable


def say(console: Console, line: str) -> None:
    """Print a line of which nothing is markup and nothing acts on the terminal; never broken."""
    console.print(printable(line), soft_wrap=True, highlight=False, markup=False)


def warn(console: Console, text: str) -> None:
    """Print a warning, of which nothing is markup; never broken."""
    console.print(
        f"[bold yellow]warning:[/] {escape(printable(text))}", soft_wrap=True, highlight=False
    )
