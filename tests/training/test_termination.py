"""Signals within a training: noted, and acted upon where nothing is cut short."""

import os
import signal
import socket
import subprocess
import sys

import pytest

from isnet_jax.training.termination import Termination, ended_at_once, interrupted_afterwards


@pytest.fixture(autouse=True)
def heard():
    """Ctrl-C, which shells let processes in the background ignore."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_ctrl_c_in_a_write_counts_afterwards():
    written = []

    def save():
        with interrupted_afterwards():
            signal.raise_signal(signal.SIGINT)
            written.append(1)

    with pytest.raises(KeyboardInterrupt):
        save()
    assert written
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_second_ctrl_c_counts_at_once():
    written = []

    def save():
        with interrupted_afterwards():
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGINT)
            written.append(1)

    with pytest.raises(KeyboardInterrupt):
        save()
    assert not written
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_errors_of_a_write_come_before_ctrl_c():
    def save():
        with interrupted_afterwards():
            signal.raise_signal(signal.SIGINT)
            raise OSError("full")

    with pytest.raises(KeyboardInterrupt) as raised:
        save()
    assert isinstance(raised.value.__context__, OSError)


def test_sigterm_is_noted_and_the_handler_is_put_back(monkeypatch: pytest.MonkeyPatch):
    passed_on = []
    before = signal.signal(signal.SIGTERM, lambda *_: passed_on.append(1))
    try:
        with Termination() as termination:
            assert not termination.is_due()
            os.kill(os.getpid(), signal.SIGTERM)
            assert termination.is_due()
            assert termination.is_due(at_once=True)
            assert not passed_on
        assert passed_on == [1]  # It came after the last question, for all that is known here.
        with Termination() as termination:
            assert not termination.is_due()
    finally:
        signal.signal(signal.SIGTERM, before)


ALONE = """
import sys
from isnet_jax.training import DistributedConfig
print("meeting", flush=True)
DistributedConfig(f"127.0.0.1:{sys.argv[1]}", count=2).connect()
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_process_that_waits_for_the_others_ends_at_once(number: signal.Signals):
    """Python hears of no signal while it waits in the runtime, which it does for minutes."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    command = [sys.executable, "-c", ALONE, str(port)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "meeting\n"
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(1)
        process.send_signal(number)
        try:
            assert process.wait(10) == -number
        finally:
            process.kill()


def test_signals_that_are_ignored_stay_ignored():
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with ended_at_once():
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
