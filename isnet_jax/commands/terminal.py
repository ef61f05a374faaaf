"""Lines on the terminal that may hold anybody's names."""

from __future__ import annotations

from rich.console import Console

from isnet_jax.errors import printable


def say(console: Console, line: str) -> None:
    """Print a line of which nothing is markup and nothing acts on the terminal; never broken."""
    console.print(printable(line), soft_wrap=True, highlight=False, markup=False)
