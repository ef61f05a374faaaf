"""Signals: SIGTERM ends a training after a step that is saved; Ctrl-C cuts no write short."""

from __future__ import annotations

import collections
import contextlib
import functools
import signal
import threading
from collections.abc import Iterator
from types import TracebackType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

# Of several processes: so many questions lie between a signal and the answer to it.
_LAG = 2

_noted = False


def listen() -> Any:
    """Note SIGTERM from now on; a second one ends the program at once.

    Returns:
      The handler before; None outside of the main thread, which alone receives signals.
    """
    global _noted
    _noted = False
    if threading.current_thread() is not threading.main_thread():
        return None
    return signal.signal(signal.SIGTERM, _note)


@contextlib.contextmanager
def ended_at_once() -> Iterator[None]:
    """SIGTERM and Ctrl-C end the process within the block, where Python would not hear of them."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    heard = {n: handler for n, handler in before.items() if handler not in (None, signal.SIG_IGN)}
    for number in heard:
        signal.signal(number, signal.SIG_DFL)
    try:
        yield
    finally:
        for number, handler in heard.items():
            signal.signal(number, handler)


def _note(number: int, frame: object) -> None:
    global _noted
    _noted = True
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


class Termination:
    """Notices SIGTERM within a `with` block; a second one ends the program at once.

    Only the main thread receives signals: elsewhere SIGTERM keeps its meaning. Processes that
    train together (`DistributedConfig.connect`) note it from their start to their end, and a
    signal to any of them is one to all.
    """

    def __init__(self):
        self._before: Any = None
        self._answers: collections.deque[jax.Array] = collections.deque()

    def is_due(self, *, at_once: bool = False) -> bool:
        """Whether to save and to end now.

        Of several processes all must ask at the same places, and all get the same answer: whether
        any of them had noted a signal a few questions ago, so that the device never waits.

        Args:
          at_once: the answer is about now; the device may wait.
        """
        if jax.process_count() == 1:
            return _noted
        self._answers.append(_any(_noted))
        if at_once:
            return any(map(bool, self._answers))
        return len(self._answers) > _LAG and bool(self._answers.popleft())

    def __enter__(self) -> Termination:
        if jax.process_count() == 1:
            self._before = listen()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._before is not None:
            signal.signal(signal.SIGTERM, self._before)
            if _noted and error is None:  # Since the last question.
                signal.raise_signal(signal.SIGTERM)


def _any(noted: bool) -> jax.Array:
    """Whether any process has noted a signal; nothing waits for it yet."""
    own, largest = _ballot()
    return largest(jax.make_array_from_process_local_data(own, np.array([noted], np.int32)))


@functools.cache
def _ballot() -> tuple[NamedSharding, Any]:
    """A place for a number of each process, and the function that gives all the largest."""
    devices = {device.process_index: device for device in jax.devices()}
    mesh = Mesh(np.array([devices[index] for index in sorted(devices)]), ("process",))
    own, everywhere = (NamedSharding(mesh, PartitionSpec(*axis)) for axis in (["process"], []))
    return own, jax.jit(jnp.max, out_shardings=everywhere)


@contextlib.contextmanager
def interrupted_afterwards() -> Iterator[None]:
    """Ctrl-C within the block counts from its end on; a second one counts at once."""
    before = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or before is None:
        yield
        return
    noted = False

    def note(number: int, frame: object) -> None:
        nonlocal noted
        noted = True
        signal.signal(signal.SIGINT, before)

    signal.signal(signal.SIGINT, note)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
        if noted:
            signal.raise_signal(signal.SIGINT)
