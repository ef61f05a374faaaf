"""Several processes that train together: how they meet, and what only the first one does."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import re
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from typing import Any, NoReturn, TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils

from isnet_jax.errors import Terminated, UserError
from isnet_jax.training.lifeline import Front, relay
from isnet_jax.training.termination import ended_at_once, listen

T = TypeVar("T")

_MESSAGE_BYTES = 4096
_GRACE = 5  # Seconds, at most, in which a step with the others fails by itself.
_OF_THE_RUNTIME = re.compile(r"[A-Z_]+: ")  # A status, such as UNKNOWN or DEADLINE_EXCEEDED.
_MEETING = 300  # Seconds that all processes have to start in, at least.
_ENDING = 24 * 3600  # Seconds that the others wait for the first one's tests and report.

_stopping = threading.Lock()

LOST = 75
"""Exit code of a process whose peers are gone: EX_TEMPFAIL, schedulers may start all again."""


@dataclasses.dataclass(frozen=True)
class DistributedConfig:
    """The processes of one training, each started with the same options but `index`.

    All need the same data and output folder (a shared disk).

    Attributes:
      coordinator: HOST:PORT of the first process, where the others find it; or "auto", which
        leaves this, count and index to JAX (SLURM, Open MPI, TPU pods); "": a single process.
      count: how many there are.
      index: which one this is, from 0.
      timeout: seconds without a sign of life from another process until this one stops. One that
        lives is waited for, however long it takes.
    """

    coordinator: str = ""
    count: int = 1
    index: int = 0
    timeout: int = 100

    def __post_init__(self):
        if self.timeout < 1:
            raise UserError(f"processes: timeout is {self.timeout} s; expected at least 1.")
        if not 0 <= self.index < self.count:
            raise UserError(
                f"processes: index is {self.index} of {self.count}; expected 0 to count - 1."
            )
        if self.count > 1 and not self.coordinator:
            raise UserError(
                f"processes: {self.count} of them, but no coordinator; expected HOST:PORT of the "
                "first one."
            )
        _, colon, port = self.coordinator.rpartition(":")
        named = colon and port.isdecimal() and 0 < int(port) < 2**16
        if self.coordinator not in ("", "auto") and not named:
            raise UserError(
                f"processes: coordinator is {self.coordinator!r}; expected HOST:PORT with a port "
                'of 1 to 65,535, or "auto".'
            )

    @property
    def meeting(self) -> int:
        """Seconds within which all of them start."""
        return max(self.timeout, _MEETING)

    def connect(self) -> None:
        """Meet the others; before anything else is done with JAX.

        Raises:
          UserError: they do not come within the time-out, or JAX cannot find out by itself.
        """
        if not self.coordinator:
            return
        given: dict[str, Any] = {}
        front = None
        if self.coordinator != "auto":
            given = {"num_processes": self.count, "process_id": self.index}
            if self.index == 0:
                front = self._front()
                given |= dict.fromkeys(
                    ("coordinator_address", "coordinator_bind_address"), front.address
                )
            else:
                given["coordinator_address"] = relay(
                    self.coordinator, lambda: self._stop_unless_over("the first process")
                )
        # A service of JAX's would take SIGTERM, look once a second, and agree by a barrier.
        jax.config.update("jax_enable_preemption_service", False)
        try:
            with ended_at_once():
                jax.distributed.initialize(
                    **given,
                    initialization_timeout=self.meeting,
                    heartbeat_timeout_seconds=self.timeout,
                    shutdown_timeout_seconds=_ENDING,
                )
            listen()
            if front is not None:
                front.watch()
        except (RuntimeError, ValueError) as error:
            raise UserError(
                f"processes: could not meet the others ({str(error).splitlines()[0]}). Start all "
                f"{self.count} within {self.meeting} s of each other, with the "
                "first one's HOST:PORT as coordinator."
            ) from error

    def _front(self) -> Front:
        port = int(self.coordinator.rpartition(":")[2])
        try:
            return Front(port, lambda: self._stop_unless_over("another process"))
        except OSError as error:
            raise UserError(
                f"processes: the port of the coordinator {self.coordinator} cannot be had "
                f"({error.strerror or error}). Choose another one, for all of them."
            ) from error

    def _stop_unless_over(self, whom: str) -> None:
        """One is gone: a while later this one is too, unless both have just ended."""
        time.sleep(min(_GRACE, self.timeout / 2))
        if jax.distributed.is_initialized():
            _stop(f"the connection to {whom} broke")


def is_first() -> bool:
    """Whether this process writes the files that only one may write."""
    return jax.process_index() == 0


def first_then_all(action: Callable[[], T]) -> T:
    """`action()` in the first process, and when it is done there in the others.

    Raises:
      UserError: that of the first process, in all of them.
    """
    if jax.process_count() == 1:
        return action()
    result: Any = None
    message = b""
    if is_first():
        try:
            result = action()
        except UserError as error:
            message = str(error).encode()[:_MESSAGE_BYTES]
    padded = np.frombuffer(message.ljust(_MESSAGE_BYTES, b"\0"), np.uint8)
    with stops_with_the_others():
        told = bytes(np.asarray(multihost_utils.broadcast_one_to_all(padded))).rstrip(b"\0")
    if told:
        raise UserError(told.decode(errors="replace"))
    return result if is_first() else action()


@contextlib.contextmanager
def stops_with_the_others() -> Iterator[None]:
    """Ends this process with a message and the code `LOST` if another one has stopped.

    At once, because whatever would wait for the others (checkpoints, JAX's shutdown) ends in an
    abort of the runtime without a word of ours. A peer that hangs instead is noticed by the runtime
    itself, `DistributedConfig.timeout` seconds after its last sign of life.
    """
    try:
        yield
    except (RuntimeError, TimeoutError, ValueError) as error:
        # Compiled functions raise some of the runtime's errors as ValueErrors.
        if isinstance(error, ValueError) and not _OF_THE_RUNTIME.match(str(error)):
            raise
        if jax.process_count() == 1:
            raise
        _stop((str(error).splitlines() or [type(error).__name__])[0])


@contextlib.contextmanager
def leaves_the_others() -> Iterator[None]:
    """An error ends this process at once; the others notice and stop with the code `LOST`.

    JAX's shutdown would wait for them, and they for this one's part of what they compute together.
    """
    try:
        yield
    except SystemExit as ended:
        if ended.code in (None, 0, Terminated.exit_code):  # All have agreed to end.
            raise
        _end(ended.code if isinstance(ended.code, int) else 1)
    except BaseException:
        traceback.print_exc()
        _end(1)


def _stop(reason: str) -> NoReturn:
    with _stopping:  # For ever: only the first one speaks.
        print(
            f"error: process {jax.process_index()} of {jax.process_count()} stops: what it does "
            f"with the others failed ({reason[:500]}). Most likely one of them has stopped; see "
            "what it printed. Start all of them again with the same command: training goes on "
            "after the last saved epoch.",
            file=sys.stderr,
        )
        _end(LOST)


def _end(code: int) -> NoReturn:
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def agreed(numbers: dict[str, float]) -> dict[str, float]:
    """The first process's numbers, so that all decide alike."""
    if jax.process_count() == 1:
        return numbers
    values = np.array([*numbers.values()], np.float32)
    told = np.asarray(multihost_utils.broadcast_one_to_all(values))
    return dict(zip(numbers, map(float, told), strict=True))


Processes = DistributedConfig  # Its former name.
