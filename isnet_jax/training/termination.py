"""SIGTERM: the current step is finished and saved, then the program ends."""

from __future__ import annotations

import itertools
import signal
import threading
from types import TracebackType

import jax
from jax.experimental import multihost_utils

_asked = itertools.count(1)


class Termination:
    """Notices SIGTERM within a `with` block; a second one ends the program at once.

    Only the main thread receives signals: elsewhere SIGTERM keeps its meaning. Of several
    processes (`jax.distributed`) JAX takes all of them from the start, outside of the block too,
    and tells every process if one has come to any of them.
    """

    def __init__(self):
        self._noted = False
        self._before = None

    def is_due(self) -> bool:
        """Whether to save and to end now.

        Of several processes all must ask at the same places; all get the same answer.
        """
        if jax.process_count() == 1:
            return self._noted
        if not jax.config.jax_enable_preemption_service:  # pyright: ignore[reportAttributeAccessIssue]
            return False
        # By number, so never one number twice, nor a smaller one: another training starts at 1.
        return multihost_utils.reached_preemption_sync_point(next(_asked))

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
