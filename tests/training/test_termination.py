"""Signals within a training: noted, and acted upon where nothing is cut short."""

import os
import signal

import pytest

from isnet_jax.training.termination import Termination, interrupted_afterwards


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
