"""What Orbax abandons when one of a checkpoint's reads or writes has failed: it says nothing.

Each of the others would print a traceback of its own beside our message, now or when a thread of
the storage comes to it.
"""

from __future__ import annotations

import contextlib
import logging
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

_scopes: list[None] = []
_failed: set[str] = set()


@contextlib.contextmanager
def abandoned_work_is_silent() -> Iterator[None]:
    """While the block runs; that of `stay_silent_about` afterwards too."""
    _install()
    _scopes.append(None)
    try:
        yield
    finally:
        _scopes.pop()


def stay_silent_about(checkpoint: Path) -> None:
    """For the rest of the process: reads or writes of it have failed, or of all in a folder."""
    _install()
    _failed.add(str(checkpoint))


def _install() -> None:
    """Again where somebody has put back a hook of before."""
    before = sys.unraisablehook
    if before.__module__ == __name__:
        return

    def hook(raised: Any) -> None:
        if str(raised.exc_value) != "Event loop is closed" or not (_scopes or _failed):
            before(raised)

    sys.unraisablehook = hook
    logging.getLogger("asyncio").addFilter(_is_told)


def _is_told(record: logging.LogRecord) -> bool:
    told = record.getMessage()
    if "exception was never retrieved" not in told:
        return True
    error = str(record.exc_info[1]) if record.exc_info else ""
    return not (_scopes or (_failed and "orbax" in told) or any(p in error for p in _failed))
