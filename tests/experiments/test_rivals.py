"""The comparison of methods, at its smallest, and once more where all is kept."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

ROOT = Path(__file__).parents[2]


def test_the_page_shows_the_committed_results(script):
    results = json.loads((ROOT / "experiments/results/rivals.json").read_text())
    page = (ROOT / "docs/rivals.md").read_text()
    tables = script("rivals_tables").markdown(results["rows"]).strip().split("\n\n")
    assert len(tables) >= 4
    assert not [table for table in tables if table not in page]


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
    tables = (experiment.out / "table.md").read_text()
    assert len([line for line in tables.splitlines() if line.startswith("| swap |")]) == 3
    answer = swap["run_time"]
    assert f"| {answer['flop'] / 1e6:.1f} | {answer['parameters']:,} |" in tables

    pictures = script("rivals_pictures")
    side_by_side = pictures.Pictures(
        experiment.out, set="decoy", rows=2, data_dir=experiment.data_dir, out=tmp_path / "all.png"
    )
    pictures.main(side_by_side)
    with Image.open(side_by_side.out) as drawn:
        across = pictures.SIZE + pictures.GAP
        assert drawn.size == (3 * across, pictures.CAPTION + 2 * across)

    monkeypatch.setattr(rivals.hard.train, "fit", None, raising=False)
    rivals.main(experiment)
    assert json.loads(table.read_text())["rows"] == [isnet, swap]
    elsewhere = replace(experiment, known=table, out=tmp_path / "elsewhere")
    rivals.main(elsewhere)
    assert json.loads((elsewhere.out / "table.json").read_text())["rows"] == [isnet, swap]
    assert sorted(path.name for path in elsewhere.out.iterdir()) == ["table.json", "table.md"]


def test_what_biased_validation_images_find_best(
    tmp_path: Path, script, monkeypatch: pytest.MonkeyPatch
):
    """First the rate, then the weight with that rate; a method without one has only the first."""
    rivals = script("rivals")
    accuracies = {"0.003": 0.6, "0.01": 0.9, "0.01-0.1": 0.7, "0.01-1": 0.8}  # Rate and weight.
    monkeypatch.setattr(rivals, "_trained", lambda *_: {})
    for measure in ("_biased", "_exchanged"):
        monkeypatch.setattr(rivals, measure, lambda _, run: accuracies[run.parent.name])
    search = rivals.Experiment(
        search_rates=(3e-3, 1e-2), search_factors=(0.01, 0.1), out=tmp_path / "out"
    )

    def found(method: str, experiment=search):
        return rivals._settings(experiment, "decoy", method, rivals.Console(quiet=True))

    assert found("swap") == (1e-2, None)
    assert found("rrr") == found("gain") == (1e-2, 1.0)
    accuracies["0.01-1"] = 0.5
    assert found("rrr") == (1e-2, 0.1)
    accuracies |= {"0.003": 0.95, "0.003-1": 0.9}
    assert found("rrr", replace(search, search_factors=(0.1, 1.0))) == (3e-3, None)

    table = tmp_path / "table.json"
    table.write_text(json.dumps({"rows": [{"method": "rrr", "learning_rate": 1.0, "weight": 2.0}]}))
    elsewhere = replace(search, settings_of=table)
    assert found("rrr", elsewhere) == (1.0, 2.0)
    with pytest.raises(SystemExit, match="no row of gain"):
        found("gain", elsewhere)


def test_tables_where_the_data_say_nothing(script):
    """An area of 1 has no interval, a network with NaN no statistics, a segmented one no share."""
    tables = script("rivals_tables")
    perfect = {"value": 1.0, "low": None, "high": None}
    row = {
        **dict.fromkeys(tables.MEASURES, 0.5),
        "background_relevance": None,
        "statistics": {"unseen": {"accuracy": {"value": 0.5, "low": 0.4, "high": 0.6}}},
        "against": None,
    }
    found = tables.differences({"isnet": [row], "swap": [{**row, "statistics": None}]})
    assert found.splitlines()[2] == "| isnet | 50.0 (40.0 to 60.0) | - | - | - | - | - |"
    assert found.splitlines()[3] == "| swap | - | - | - | - | - | - |"
    row["statistics"]["unseen"]["auc"] = perfect
    assert "| 100.0 |" in tables.differences({"isnet": [row]})
    assert tables.accuracies({"isnet": [row]}).splitlines()[2].endswith("| - | 50.0 % | 1 |")
