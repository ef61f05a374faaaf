"""SIGTERM: the current step is finished and saved, then the program ends."""

from __future__ import annotations

import signal
import threading
from types import TracebackType

import jax


class Termination:
    """Notices SIGTERM within a `with` block; a second one ends the program at once.

    Only the main thread receives signals, and several processes would not stop at the same step:
    elsewhere SIGTERM keeps its meaning.

    Attributes:
      requested: whether SIGTERM has come.
    """

    def __init__(self):
        self.requested = False
        self._before = None

    def __enter__(self) -> Termination:
        if threading.current_thread() is threading.main_thread() and jax.process_count() == 1:
            self._before = signal.signal(signal.SIGTERM, self._note)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._before is not None:
            signal.signal(signal.SIGTERM, self._before)

    def _note(self, number: int, frame: object) -> None:
        self.requested = True
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
