"""metrics.json of a finished run: shown again if it is whole, else said and made again."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import junk
import numpy as np
import pytest
from rich.console import Console

from isnet_jax.commands.finished import finished_metrics
from isnet_jax.commands.results import show
from isnet_jax.evaluation.comparison import compare
from isnet_jax.evaluation.interventions import MEASURED
from isnet_jax.evaluation.judge import EXPLAINED
from isnet_jax.evaluation.statistics import statistics
from isnet_jax.training.serial import write_record

LOGITS, LABELS = np.array([[0.0, 1], [1, 0], [0, 2], [1, 0]]), np.array([1, 0, 0, 0])
STATISTICS, COMPARISON = (
    dataclasses.asdict(made)  # pyright: ignore[reportArgumentType]
    for made in (
        statistics(LOGITS, LABELS, ("a", "b")),
        compare(LOGITS, -LOGITS, LABELS, ("a", "b")),
    )
)
del STATISTICS["classes"]["b"], COMPARISON["classes"]["b"]
JUDGED = {
    "test": 0.5,
    "worst_group": 0.25,
    "background_relevance": 0.1,
    "interventions": dict.fromkeys(MEASURED, 0.5),
}
MORE = {
    "explanations": dict.fromkeys(EXPLAINED, 0.5),
    "statistics": {"test": STATISTICS},
}
WHOLE: dict[str, Any] = {
    "plain": JUDGED,
    "isnet": JUDGED | MORE | {"test": 0.75},
    "comparisons": {"plain": {"test": COMPARISON}},
    "seconds": 5,
    "training_seconds": {"plain": 1.0, "isnet": 2},
    "date": "2026-01-01",
    "machine": "m",
    "version": "0.1.0",
    "command": "isnet-jax",
}
WHOLE = json.loads(json.dumps(WHOLE))  # Nothing in it is shared.
NETWORKS = ("plain", "isnet")
# What earlier versions did not have, or what is there of some networks and classes only.
OPTIONAL = re.compile(
    r"'interventions'\)|'explanations'\)|'statistics'\)|'statistics', 'test'\)|'classes', 'a'\)"
    r"|'comparisons',\)|'comparisons', 'plain'\)|'comparisons', 'plain', 'test'\)"
)
QUIET = Console(quiet=True)


def read(folder: Path, record: Any, networks=NETWORKS, console: Console = QUIET):
    (folder / "report.html").write_text("")
    (folder / "metrics.json").write_text(json.dumps(record))
    return finished_metrics(folder, networks, console)


def test_whole_records(tmp_path: Path):
    """With what a later version or a person has added, or an earlier one did not have."""
    none = JUDGED | {"background_relevance": None, "interventions": None}
    earlier = {name: {"test": 1, "background_relevance": 0.5} for name in NETWORKS}
    for record in (WHOLE, WHOLE | {"note": 1}, WHOLE | {"plain": none}, WHOLE | earlier):
        assert read(tmp_path, record) == record
        show(record, QUIET)
    alone = {name: value for name, value in WHOLE.items() if name != "plain"}
    assert read(tmp_path, alone, ("isnet",)) == alone


def test_whatever_is_taken_can_be_shown(tmp_path: Path):
    taken = 0
    for words, record in junk.variants(WHOLE):
        found = read(tmp_path, record)
        if found is not None:
            taken += 1
            show(found, QUIET)
        assert found is None or "missing" not in words or OPTIONAL.search(words), words
    assert taken > 0


@pytest.mark.parametrize("column", ["test", "background_relevance"])
def test_one_network_without_a_column(tmp_path: Path, column: str):
    alone = {"isnet": {k: v for k, v in JUDGED.items() if k != column}}
    assert read(tmp_path, {k: v for k, v in WHOLE.items() if k != "plain"} | alone) is None


def test_a_changed_number_is_noticed(tmp_path: Path):
    write_record(tmp_path / "metrics.json", WHOLE)
    whole = (tmp_path / "metrics.json").read_text()
    assert read(tmp_path, json.loads(whole)) is not None
    assert read(tmp_path, json.loads(whole.replace("0.75", "0.95"))) is None


@pytest.mark.parametrize(
    ("path", "message"),
    [
        (("isnet",), "lacks isnet"),
        (("plain",), "plain has no whole"),
        (("plain", "test"), "plain has no whole test"),
        (("isnet", "interventions", "object_removed"), "no whole interventions.object_removed"),
        (("seconds",), "lacks seconds"),
    ],
)
def test_what_is_missing_is_said(tmp_path: Path, capsys, path: tuple[str, ...], message: str):
    console = Console()
    assert read(tmp_path, junk.without(WHOLE, path), console=console) is None
    told = capsys.readouterr().out
    assert f"{tmp_path / 'metrics.json'}: " in told
    assert message in told
    assert "judged again" in told
