"""The relays at both ends: they carry bytes both ways, and tell which end went."""

import socket
import threading

import pytest

from isnet_jax.training.lifeline import Front, relay


def connected(on_lost) -> tuple[socket.socket, socket.socket]:
    """Both ends of a connection through the relay."""
    server = socket.create_server(("127.0.0.1", 0))
    host, port = relay(f"127.0.0.1:{server.getsockname()[1]}", on_lost).split(":")
    near = socket.create_connection((host, int(port)))
    far, _ = server.accept()
    server.close()
    return near, far


def test_bytes_go_both_ways():
    near, far = connected(lambda: None)
    with near, far:
        near.sendall(b"question")
        assert far.recv(100) == b"question"
        far.sendall(b"answer")
        assert near.recv(100) == b"answer"


def test_the_far_end_is_missed_while_the_near_one_stays_connected():
    lost = threading.Event()
    near, far = connected(lost.set)
    with near:
        far.close()
        assert lost.wait(10)
        near.settimeout(0.1)
        near.sendall(b"is anybody there")


def test_the_near_end_may_go():
    lost = threading.Event()
    near, far = connected(lost.set)
    with far:
        near.close()
        assert far.recv(100) == b""
        assert not lost.wait(0.2)


def test_a_first_process_that_is_not_there_yet():
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    host, own = relay(f"127.0.0.1:{port}", lambda: None).split(":")
    with socket.create_connection((host, int(own))) as early:
        assert early.recv(100) == b""


def fronted(front: Front) -> tuple[socket.socket, socket.socket]:
    """Both ends of a connection to the first process, whose service starts after it."""
    near = socket.create_connection(("127.0.0.1", front.port))
    host, port = front.address.split(":")
    with socket.create_server((host, int(port))) as service:
        far, _ = service.accept()
    return near, far


@pytest.fixture
def lost() -> threading.Event:
    return threading.Event()


@pytest.fixture
def front(lost: threading.Event) -> Front:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    return Front(port, lost.set)


def test_another_process_is_missed_by_the_first(front: Front, lost: threading.Event):
    near, far = fronted(front)
    with far:
        near.sendall(b"question")
        assert far.recv(100) == b"question"
        far.sendall(b"answer")
        assert near.recv(100) == b"answer"
        front.watch()
        near.close()
        assert lost.wait(10)
        far.settimeout(0.1)
        far.sendall(b"is anybody there")


def test_who_came_before_all_were_there_or_after_is_not_missed(front: Front, lost: threading.Event):
    for _ in range(2):
        near, far = fronted(front)
        with near, far:
            near.shutdown(socket.SHUT_RDWR)
            assert far.recv(100) == b""
        front.watch()
    assert not lost.is_set()


def test_a_port_that_is_taken(lost: threading.Event):
    with socket.create_server(("", 0)) as other, pytest.raises(OSError, match="in use"):
        Front(other.getsockname()[1], lost.set)
