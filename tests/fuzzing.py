"""Many drawn inputs for one test, each within seconds; how many quick and slow tests draw."""

from __future__ import annotations

import signal
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import hypothesis
import pytest
from hypothesis import strategies as st

# A pipe that nobody writes to, or a bomb, would take for ever.
SECONDS = 30


def counts(few: int, many: int) -> pytest.MarkDecorator:
    return pytest.mark.parametrize(
        "examples", [few, pytest.param(many, marks=pytest.mark.slow)], ids=["few", "many"]
    )


def fuzz(examples: int, strategy: st.SearchStrategy, test: Callable[[Any], None]) -> None:
    """Runs the test on many draws, each in at most `SECONDS`."""

    @hypothesis.settings(
        max_examples=examples,
        deadline=timedelta(seconds=SECONDS),
        derandomize=examples <= 200,
        database=None,
        suppress_health_check=list(hypothesis.HealthCheck),
        phases=[hypothesis.Phase.generate, hypothesis.Phase.shrink],
    )
    @hypothesis.given(strategy)
    def run(drawn: Any) -> None:
        signal.alarm(SECONDS)
        try:
            test(drawn)
        finally:
            signal.alarm(0)

    run()


def spoilt(text: bytes) -> st.SearchStrategy[bytes]:
    """Bytes with some taken out, put in, or in another's place."""
    places = st.tuples(st.integers(0, len(text)), st.integers(0, 9), st.binary(max_size=4))

    def apply(changes: list[tuple[int, int, bytes]]) -> bytes:
        data = text
        for place, taken, put in changes:
            data = data[:place] + put + data[place + taken :]
        return data

    return st.lists(places, min_size=1, max_size=3).map(apply)
