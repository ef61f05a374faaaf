"""The C library's memory, for programs that train on CPUs."""

from __future__ import annotations

import ctypes

# Names and numbers of mallopt(3).
_TRIM_THRESHOLD, _MMAP_MAX, _ARENA_MAX = -1, -4, -8
_LARGEST = 2**31 - 1


def keep_freed_memory() -> None:
    """Have this process keep what it frees for what it allocates next.

    XLA's CPU backend allocates the temporary values of every step anew. glibc gives such large
    blocks back to the system at once, and the system hands them out page by page again: a sixth
    to a quarter of a training step's time (docs/decisions.md). Kept memory is one heap for all
    threads; up to 2 GiB at its end stay with the process.

    Threads keep the heaps they have, so it has to come before JAX is imported. Without glibc
    (macOS, musl) it does nothing; on accelerators it does not matter.
    """
    change = getattr(ctypes.CDLL(None), "mallopt", None)
    if change is not None:
        for option, value in ((_ARENA_MAX, 1), (_MMAP_MAX, 0), (_TRIM_THRESHOLD, _LARGEST)):
            change(option, value)
