"""SIGTERM: the current step is finished and saved, then the program ends."""

from __future__ import annotations

import signal
import threading
from types import TracebackType

import jax
from jax.experimental import multihost_utils


class Termination:
    """Notices SIGTERM within a `with` block; a second one ends the program at once.

    Only the main thread receives signals: elsewhere SIGTERM keeps its meaning. Of several
    processes (`jax.distributed`) JAX takes the signal, and all end if it has come to one.
    """

    def __init__(self):
        self._noted = False
        self._before = None

    def is_due(self, step: int) -> bool:
        """Whether to save and to end after this step; of several processes, the same in all.

        To be asked after every step, whose number is `step`.
        """
        if jax.process_count() > 1:
            return multihost_utils.reached_preemption_sync_point(step)
        return self._noted

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
        self._noted = True
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
