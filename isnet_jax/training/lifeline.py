"""Connections to the first process, through relays in both: their end is noticed, not by an abort.

JAX's runtime aborts a process, with a native stack, the moment that its connection to the first
process breaks; the first process only misses another one's heartbeats, much later, and aborts too.
With a relay at each end, which stays when the other end is gone, the training can end by itself.
"""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable

_CHUNK = 1 << 16
_PATIENCE, _PAUSE = 60.0, 0.05  # Seconds.


def relay(address: str, on_lost: Callable[[], None]) -> str:
    """An address of this host that leads to another one.

    Args:
      address: HOST:PORT of the first process, which need not be there yet.
      on_lost: called in a thread of its own when that end has broken an open connection.
    """
    listener = socket.create_server(("127.0.0.1", 0))

    def missed() -> bool:
        on_lost()
        return True

    def serve() -> None:
        while True:
            near, _ = listener.accept()
            try:
                far = _connection(address)
            except OSError:  # Not there yet: JAX asks again.
                near.close()
                continue
            _join(near, far, far_missed=missed)

    _start(serve)
    return _address(listener)


class Front:
    """What others reach the first process by, in that process.

    Attributes:
      port: that others know.
      address: HOST:PORT of the service behind, which need not be there yet.

    Args:
      port: as above.
      on_lost: called in a thread of its own when another process has broken a connection that was
        there at `watch`.

    Raises:
      OSError: the port is taken.
    """

    def __init__(self, port: int, on_lost: Callable[[], None]):
        self.port, self._listener, self._on_lost = port, _listening(port), on_lost
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.address = _address(free)
        self._open: set[socket.socket] = set()
        self._watched: set[socket.socket] = set()
        _start(self._serve)

    def watch(self) -> None:
        """All others are connected: what comes later is none of them."""
        self._watched = {*self._open}

    def _serve(self) -> None:
        while True:
            near, _ = self._listener.accept()
            _start(self._join, near)

    def _join(self, near: socket.socket) -> None:
        until = time.monotonic() + _PATIENCE
        while True:
            try:
                far = _connection(self.address)
                break
            except OSError:
                if time.monotonic() > until:
                    near.close()
                    return
                time.sleep(_PAUSE)
        self._open.add(near)
        _join(near, far, near_missed=lambda: self._is_missed(near))

    def _is_missed(self, near: socket.socket) -> bool:
        self._open.discard(near)
        if near not in self._watched:
            return False
        self._on_lost()
        return True


def _listening(port: int) -> socket.socket:
    """Of all addresses of this host, of IPv6 too where it has them."""
    if socket.has_dualstack_ipv6():
        with contextlib.suppress(OSError):
            return socket.create_server(("", port), family=socket.AF_INET6, dualstack_ipv6=True)
    return socket.create_server(("", port))


def _address(server: socket.socket) -> str:
    host, port = server.getsockname()
    return f"{host}:{port}"


def _connection(address: str) -> socket.socket:
    host, _, port = address.rpartition(":")
    return socket.create_connection((host.strip("[]"), int(port)))


def _join(
    near: socket.socket,
    far: socket.socket,
    near_missed: Callable[[], bool] = lambda: False,
    far_missed: Callable[[], bool] = lambda: False,
) -> None:
    ended = threading.Event()
    _start(_carry, near, far, ended, near_missed)
    _start(_carry, far, near, ended, far_missed)


def _carry(
    source: socket.socket,
    target: socket.socket,
    ended: threading.Event,
    is_missed: Callable[[], bool],
) -> None:
    """Until the source ends; the target stays open where it was the first to, and is missed."""
    with contextlib.suppress(OSError):
        while data := source.recv(_CHUNK):
            target.sendall(data)
    is_first = not ended.is_set()
    ended.set()
    if is_first and is_missed():
        return
    with contextlib.suppress(OSError):
        target.shutdown(socket.SHUT_RDWR)
    if not is_first:
        source.close()
        target.close()


def _start(target: Callable[..., None], *arguments: object) -> None:
    threading.Thread(target=target, args=arguments, daemon=True).start()
