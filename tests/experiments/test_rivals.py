"""The comparison of methods, at its smallest, and once more where all is kept."""

import json
from dataclasses import replace
from pathlib import Path

import pytest


def test_two_methods_one_set(tmp_path: Path, script, monkeypatch: pytest.MonkeyPatch):
    rivals = script("rivals")
    experiment = rivals.Experiment(
        sets=("decoy",),
        methods=("swap",),
        seeds=(0,),
        epochs=1,
        limit=100,
        search_rates=(1e-2,),
        budgets=("steps",),
        out=tmp_path / "out",
        data_dir=tmp_path / "data",
    )
    rivals.main(experiment)
    table = experiment.out / "table.json"
    isnet, swap = json.loads(table.read_text())["rows"]
    assert isnet["against"] is None
    assert {*swap["against"]} >= {"biased", "unseen"}
    assert swap["statistics"]["unbiased"]["accuracy"]["low"] <= swap["unbiased"]
    assert "| swap |" in (experiment.out / "table.md").read_text()

    monkeypatch.setattr(rivals.hard.train, "fit", None, raising=False)
    rivals.main(experiment)
    assert json.loads(table.read_text())["rows"] == [isnet, swap]
    elsewhere = replace(experiment, known=table, out=tmp_path / "elsewhere")
    rivals.main(elsewhere)
    assert json.loads((elsewhere.out / "table.json").read_text())["rows"] == [isnet, swap]
    assert sorted(path.name for path in elsewhere.out.iterdir()) == ["table.json", "table.md"]
