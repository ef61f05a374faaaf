"""What is abandoned at a failed checkpoint stays silent; what others leave does not."""

import asyncio
import gc
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from isnet_jax.training import abandoned
from isnet_jax.training.abandoned import abandoned_work_is_silent, stay_silent_about


@pytest.fixture(autouse=True)
def hooks(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What the hook of before is told."""
    told: list[str] = []
    monkeypatch.setattr(sys, "unraisablehook", lambda raised: told.append(str(raised.exc_value)))
    monkeypatch.setattr(abandoned, "_failed", set())
    return told


def leave(error: str, by: str = "somebody") -> None:
    """A task that nobody asks for its error."""

    async def task():
        raise ValueError(error)

    async def start():
        task.__qualname__ = by
        await asyncio.wait([asyncio.ensure_future(task())])

    asyncio.run(start())
    gc.collect()


def close_a_loop() -> None:
    sys.unraisablehook(SimpleNamespace(exc_value=RuntimeError("Event loop is closed")))


def test_within_the_block_all_is_silent(hooks: list[str], caplog: pytest.LogCaptureFixture):
    with abandoned_work_is_silent():
        leave("anything")
        close_a_loop()
    assert not caplog.records
    assert not hooks
    close_a_loop()
    assert hooks == ["Event loop is closed"]


def test_afterwards_what_names_the_place(
    hooks: list[str], caplog: pytest.LogCaptureFixture, tmp_path: Path
):
    stay_silent_about(tmp_path / "last" / "6")
    leave(f"cannot read {tmp_path}/last/6/state")
    leave("no space left", by="orbax.write")
    close_a_loop()
    assert not caplog.records
    assert not hooks
    leave("no space left")
    assert "no space left" in caplog.text


def test_others_are_told(caplog: pytest.LogCaptureFixture):
    with abandoned_work_is_silent():
        pass
    leave("something else")
    assert "exception was never retrieved" in caplog.text


def test_a_hook_that_was_put_back_is_replaced_again(hooks: list[str], tmp_path: Path):
    before = sys.unraisablehook
    stay_silent_about(tmp_path)
    sys.unraisablehook = before
    stay_silent_about(tmp_path)
    close_a_loop()
    assert not hooks
