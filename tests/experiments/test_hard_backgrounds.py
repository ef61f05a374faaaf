"""The objectives on a hard set, at their smallest, and once more where a table holds all rows."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def test_the_page_shows_the_committed_results(script):
    results = json.loads((ROOT / "experiments/results/hard_backgrounds.json").read_text())
    page = (ROOT / "docs/hard-backgrounds.md").read_text()
    tables = script("hard_backgrounds").markdown(results["rows"]).split("\n\n")
    shown = [table for table in tables if table.startswith("|")]
    assert shown
    assert not [table for table in shown if table.strip() not in page]


def test_a_row_is_trained_once(tmp_path: Path, script, monkeypatch: pytest.MonkeyPatch):
    hard_backgrounds = script("hard_backgrounds")
    experiment = hard_backgrounds.Experiment(
        sets=("decoy",),
        objectives=("exchange, consistent",),
        seeds=(3,),
        epochs=1,
        limit=100,
        out=tmp_path / "here",
        data_dir=tmp_path / "data",
    )
    hard_backgrounds.main(experiment)
    table = experiment.out / "table.json"
    rows = json.loads(table.read_text())["rows"]
    (row,) = rows["decoy"]["exchange, consistent"]
    assert row["seed"] == 3
    assert 0 <= row["worst_group"] <= row["unbiased"] <= 1
    assert "| exchange, consistent |" in (experiment.out / "table.md").read_text()

    monkeypatch.setattr(hard_backgrounds, "fit", None)
    elsewhere = replace(experiment, known=table, out=tmp_path / "elsewhere")
    hard_backgrounds.main(elsewhere)
    assert json.loads((elsewhere.out / "table.json").read_text())["rows"] == rows
