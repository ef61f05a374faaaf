"""A profile of some steps, for TensorBoard's profile plugin, XProf and Perfetto."""

from __future__ import annotations

import contextlib
from pathlib import Path
from types import TracebackType
from typing import Any

import jax

from isnet_jax.errors import UserError, printable


class Window:
    """Writes a `jax.profiler` trace of the steps `steps[0]` to `steps[1]`, from 1, to `folder`.

    Where a run goes on after the first of them, the trace begins there; after the last, there is
    none. Use as a context manager.
    """

    def __init__(self, folder: Path, steps: tuple[int, int] | None):
        self._folder, self._steps, self._running = folder, steps, False

    def __enter__(self) -> Window:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with contextlib.suppress(*[] if error is None else [UserError]):
            self._stop()

    def before(self, step: int) -> None:
        """Called before each step is dispatched."""
        if self._steps and not self._running and self._steps[0] <= step <= self._steps[1]:
            jax.profiler.start_trace(self._folder)
            self._running = True

    def after(self, step: int, result: Any) -> None:
        """Called after each step with what it returned; waits for it at the window's end."""
        if self._running and self._steps and step >= self._steps[1]:
            jax.block_until_ready(result)
            self._stop()

    def _stop(self) -> None:
        if self._running:
            self._running = False
            try:
                jax.profiler.stop_trace()
            except RuntimeError as error:  # Of the storage, and of what lies in the folder's place.
                raise UserError(
                    f"the profile cannot be written to {printable(self._folder)} "
                    f"({str(error).splitlines()[0]}). Make room or move what is there away, or "
                    "leave out --profile-steps; the same command goes on after the last checkpoint."
                ) from error
