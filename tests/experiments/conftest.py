"""Experiments are scripts: imported by their names, and forgotten afterwards."""

import importlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest

EXPERIMENTS = Path(__file__).parents[2] / "experiments"


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], ModuleType]]:
    """The module of an experiment, by its name."""
    before = set(sys.modules)
    monkeypatch.syspath_prepend(EXPERIMENTS)
    yield importlib.import_module
    for path in EXPERIMENTS.glob("*.py"):
        if path.stem not in before:
            sys.modules.pop(path.stem, None)
