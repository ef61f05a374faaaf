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
        methods=("rrr",),
        seeds=(0,),
        epochs=1,
        limit=100,
        search_rates=(1e-2,),
        search_factors=(0.1, 10.0),
        search_epochs=1,
        budgets=("steps",),
        out=tmp_path / "out",
        data_dir=tmp_path / "data",
    )
    rivals.main(experiment)
    table = experiment.out / "table.json"
    isnet, rrr = json.loads(table.read_text())["rows"]
    assert isnet["against"] is isnet["weight"] is None
    assert rrr["weight"] in (1.0, 100.0)
    settings = (experiment.out / "decoy/rrr/steps/0/run.json").read_text()
    assert json.loads(settings)["settings"]["rrr"]["weight"] == rrr["weight"]
    assert {*rrr["against"]} >= {"biased", "unseen"}
    assert rrr["statistics"]["unbiased"]["accuracy"]["low"] <= rrr["unbiased"]
    tables = (experiment.out / "table.md").read_text()
    assert len([line for line in tables.splitlines() if line.startswith("| rrr |")]) == 3
    answer = rrr["run_time"]
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
    assert json.loads(table.read_text())["rows"] == [isnet, rrr]
    elsewhere = replace(experiment, known=(table,), out=tmp_path / "elsewhere")
    rivals.main(elsewhere)
    assert json.loads((elsewhere.out / "table.json").read_text())["rows"] == [isnet, rrr]
    assert sorted(path.name for path in elsewhere.out.iterdir()) == ["table.json", "table.md"]


def test_the_order_of_the_search(tmp_path: Path, script, monkeypatch: pytest.MonkeyPatch):
    """The rate, then the weight by the other measure, then the rate with that weight."""
    rivals = script("rivals")
    biased = {"0.003": 0.6, "0.01": 0.9, "0.01-1": 0.7, "0.003-1": 0.8}
    exchanged = {"0.01": 0.1, "0.01-0.1": 0.2, "0.01-1": 0.3}
    monkeypatch.setattr(rivals, "_trained", lambda *_: {})
    monkeypatch.setattr(rivals, "_biased", lambda *run: biased[run[-1].name])
    monkeypatch.setattr(rivals, "_exchanged", lambda *run: exchanged[run[-1].name])
    search = rivals.Experiment(
        search_rates=(3e-3, 1e-2), search_factors=(0.01, 0.1, 1.0), out=tmp_path / "out"
    )

    def found(method: str):
        return rivals._searched(search, "decoy", method, rivals.Console(quiet=True))

    assert found("swap") == (1e-2, None)
    assert found("rrr") == (3e-3, 1.0)
    exchanged["0.01"] = 0.4
    assert found("rrr") == (1e-2, 10.0)


def test_settings_of_another_set(tmp_path: Path, script):
    rivals = script("rivals")
    table = tmp_path / "table.json"
    rows = [{"method": "isnet", "learning_rate": 0.1, "weight": None}] * 2
    experiment = rivals.Experiment(methods=("rrr",), settings_of=table, out=tmp_path / "out")
    for more, count in (([], 0), ([(1.0, 2.0), (1.0, 3.0)], 2), ([(1.0, 2.0)], 1)):
        other = [
            {"method": "rrr", "learning_rate": rate, "weight": weight} for rate, weight in more
        ]
        table.write_text(json.dumps({"rows": rows + other}))
        if count == 1:
            assert rivals._taken(experiment) == {"isnet": (0.1, None), "rrr": (1.0, 2.0)}
        else:
            with pytest.raises(SystemExit, match=f"has {count} settings of rrr; expected one"):
                rivals.main(experiment)
    assert not experiment.out.exists()


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
