"""The relay to the first process: it carries bytes both ways, and tells which end went."""

import socket
import threading

from isnet_jax.training.lifeline import relay


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
