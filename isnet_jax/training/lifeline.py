"""The connection to the first process, through this one: its end is noticed, and not by an abort.

JAX's runtime aborts the process, with a native stack, the moment that its connection to the first
process breaks. Here it is connected to a relay in its own process, which stays when the first
process is gone, so that the training can end by itself.
"""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable

_CHUNK = 1 << 16


def relay(address: str, on_lost: Callable[[], None]) -> str:
    """An address of this host that leads to another one.

    Args:
      address: HOST:PORT of the first process, which need not be there yet.
      on_lost: called in a thread of its own when that end has broken an open connection.
    """
    listener = socket.create_server(("127.0.0.1", 0))
    host, _, port = address.rpartition(":")

    def serve() -> None:
        while True:
            near, _ = listener.accept()
            try:
                far = socket.create_connection((host.strip("[]"), int(port)))
            except OSError:  # Not there yet: JAX asks again.
                near.close()
                continue
            closed = threading.Event()
            _start(_copy_there, near, far, closed)
            _start(_copy_back, far, near, closed, on_lost)

    _start(serve)
    return f"127.0.0.1:{listener.getsockname()[1]}"


def _copy_there(near: socket.socket, far: socket.socket, closed: threading.Event) -> None:
    _copy(near, far)
    closed.set()
    with contextlib.suppress(OSError):
        far.shutdown(socket.SHUT_RDWR)


def _copy_back(
    far: socket.socket, near: socket.socket, closed: threading.Event, on_lost: Callable[[], None]
) -> None:
    _copy(far, near)
    if closed.is_set():  # From here.
        near.close()
    else:
        on_lost()


def _copy(source: socket.socket, target: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(_CHUNK):
            target.sendall(data)


def _start(target: Callable[..., None], *arguments: object) -> None:
    threading.Thread(target=target, args=arguments, daemon=True).start()
