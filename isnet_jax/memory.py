"""The C library's memory, for programs that train on CPUs."""

from __future__ import annotations

import ctypes
import resource
from pathlib import Path

from isnet_jax.errors import UserError

# Names and numbers of mallopt(3).
_TRIM_THRESHOLD, _MMAP_MAX = -1, -4
_NEVER = -1


# JAX's libraries end with a segmentation fault in 1 GB of addresses, and start in 2.5 GB.
LEAST_ADDRESS_SPACE = 2 << 30
_FREE_ADDRESSES = 1 << 30
_STATUS = Path("/proc/self/statm")  # of Linux alone: pages of addresses, and more


def require_address_space() -> None:
    """Raises a `UserError` where a limit (ulimit -v) would make JAX's libraries crash."""
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    if limit != resource.RLIM_INFINITY and limit < LEAST_ADDRESS_SPACE:
        raise UserError(
            f"this process may use {limit / 2**30:.2g} GiB of addresses (ulimit -v); JAX needs at "
            f"least {LEAST_ADDRESS_SPACE >> 30} GiB to start, and more to train. Raise the limit."
        )


def require_free_addresses() -> None:
    """Raises a `UserError` where a limit (ulimit -v) would make readers of records wait for ever.

    Their threads take 600 MB of addresses, and those that find none are waited for.
    """
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    if limit == resource.RLIM_INFINITY or not _STATUS.exists():
        return
    used = int(_STATUS.read_text().split()[0]) * resource.getpagesize()
    if limit - used < _FREE_ADDRESSES:
        raise UserError(
            f"this process may use {limit / 2**30:.2g} GiB of addresses (ulimit -v), and uses "
            f"{used / 2**30:.2g}; to read prepared data it needs {_FREE_ADDRESSES >> 30} GiB more. "
            "Raise the limit."
        )


def keep_freed_memory() -> None:
    """Have this process keep what it frees for what it allocates next.

    XLA's CPU backend allocates the temporary values of every step anew. glibc gives such large
    blocks back to the system at once, and the system hands them out page by page again: a sixth
    to a quarter of a training step's time (docs/measurements.md). The process then stays as large
    as it was at its largest.

    Large blocks are kept for the main thread only, so JAX is also told to run a CPU's step in the
    thread that calls it. For that it has to be called before JAX's first computation. Without
    glibc (macOS, musl) memory stays as it is; accelerators are not affected.
    """
    import jax

    jax.config.update("jax_cpu_enable_async_dispatch", False)
    change = getattr(ctypes.CDLL(None), "mallopt", None)
    if change is not None:
        for option, value in ((_MMAP_MAX, 0), (_TRIM_THRESHOLD, _NEVER)):
            change(option, value)
