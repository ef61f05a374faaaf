"""metrics.json of a finished run, read back to be shown again."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import field
from pathlib import Path
from typing import Any

from rich.console import Console

from isnet_jax.errors import UserError, printable
from isnet_jax.evaluation.comparison import Comparison
from isnet_jax.evaluation.cost import RunTime
from isnet_jax.evaluation.interventions import MEASURED
from isnet_jax.evaluation.judge import EXPLAINED
from isnet_jax.evaluation.statistics import Statistics
from isnet_jax.training.serial import read_json, record_of, require_intact

_CHANGES = "interventions"
_OF_NO_TEST_SET = {"worst_group", "background_relevance"}

Judged = dict[str, float | dict[str, float] | None]


@dataclasses.dataclass(frozen=True)
class _Nested:
    """What was judged of a network and is no number; earlier versions had neither."""

    statistics: dict[str, Statistics | None] = field(default_factory=dict)
    explanations: dict[str, float | None] | None = None


@dataclasses.dataclass(frozen=True)
class Metrics:
    """What metrics.json holds, and the judged networks by name, without what is `_Nested` there."""

    networks: dict[str, Judged]
    seconds: float
    training_seconds: dict[str, float]
    date: str
    machine: str
    version: str
    command: str
    comparisons: dict[str, dict[str, Comparison | None]] = field(default_factory=dict)
    run_time: dict[str, RunTime] = field(default_factory=dict)
    images: dict[str, int] = field(default_factory=dict)


def finished_metrics(
    folder: Path, networks: Sequence[str], console: Console
) -> dict[str, Any] | None:
    """The metrics of a run whose files are all there; they are written last.

    None if they are not, or incomplete, which is said: then the networks have to be judged again.
    """
    if not (folder / "report.html").exists():
        return None
    return whole_metrics(folder, networks, console, "The networks are judged again.")


def whole_metrics(
    folder: Path, networks: Sequence[str], console: Console, without: str
) -> dict[str, Any] | None:
    """What metrics.json holds; None if it is not there, or incomplete or changed, which is said.

    Args:
      networks: whose numbers have to be there.
      without: the sentence that says what is done without them.
    """
    file = folder / "metrics.json"
    if not file.exists():
        return None
    try:
        found = read_json(file, without)
        _check(found, networks, file, without)
        require_intact(found, file, without)
    except UserError as error:
        console.print(str(error), soft_wrap=True, highlight=False, markup=False)
        return None
    return found


def _check(found: Any, networks: Sequence[str], file: Path, without: str) -> None:
    nested: dict[str, _Nested] = {}
    if isinstance(found, dict):
        names = {field.name for field in dataclasses.fields(Metrics)}
        if networks[-1] not in found:
            raise UserError(f"{printable(file)}: the file lacks {networks[-1]}. {without}")
        judged = {name: found.get(name, {}) for name in networks}
        found = {name: value for name, value in found.items() if name in names}
        parted = {name: _parted(values, file, without) for name, values in judged.items()}
        found["networks"] = {name: numbers for name, (_, numbers) in parted.items()}
        nested = {name: inner for name, (inner, _) in parted.items()}
    metrics = record_of(Metrics, found, file, without)
    judged = metrics.networks
    columns = {column for values in judged.values() for column in values} - {_CHANGES}
    columns.add("background_relevance")
    for name, values in judged.items():
        wrong = [column for column in columns if isinstance(values.get(column, {}), dict)]
        changes = values.get(_CHANGES)
        if isinstance(changes, dict):
            wrong += [f"{_CHANGES}.{key}" for key in MEASURED if key not in changes]
        elif changes is not None:
            wrong.append(_CHANGES)
        more = nested.get(name, _Nested())
        if more.explanations is not None and set(more.explanations) != set(EXPLAINED):
            wrong.append("explanations")
        if more.statistics and set(more.statistics) != columns - _OF_NO_TEST_SET:
            wrong.append("statistics")
        if not columns - _OF_NO_TEST_SET:
            wrong.append("accuracy")
        if name not in metrics.training_seconds:
            wrong.append("training_seconds")
        if wrong:
            lacking = ", ".join(sorted(wrong))
            raise UserError(f"{printable(file)}: {name} has no whole {lacking}. {without}")


def _parted(judged: Any, file: Path, without: str) -> tuple[_Nested, Any]:
    """What is `_Nested`, and the rest."""
    if not isinstance(judged, dict):
        return _Nested(), judged
    inside = {field.name for field in dataclasses.fields(_Nested)}
    inner = {name: value for name, value in judged.items() if name in inside}
    rest = {name: value for name, value in judged.items() if name not in inside}
    return record_of(_Nested, inner, file, without), rest
