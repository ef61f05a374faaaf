"""`--method NAME` of the training commands: options, run folder, and the commands afterwards."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from isnet_jax.commands.main import main

OPTIONS = (
    "--data.limit", 100, "--data.validation-fraction", 0.2, "--model", "small", "--epochs", 1,
    "--batch-size", 10,
)  # fmt: skip


def run(*words: object) -> None:
    main([str(word) for word in words])


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of a method with two stages and a network of its own, without a plain one."""
    folder = tmp_path_factory.mktemp("methods")
    run("train", "decoy", "--method", "dfr", "--dfr.l1", 0.5, *places(folder), *OPTIONS,
        "--plain-epochs", 0)  # fmt: skip
    return folder


def places(folder: Path) -> tuple[object, ...]:
    return ("--out", folder / "run", "--data-dir", folder / "data")


def test_it_is_judged_and_recorded(finished: Path):
    metrics = json.loads((finished / "run" / "metrics.json").read_text())
    assert "worst_group" in metrics["dfr"]
    assert "isnet" not in metrics
    settings = json.loads((finished / "run" / "run.json").read_text())["settings"]
    assert settings["method"] == "dfr"
    assert settings["dfr"]["l1"] == 0.5
    (earlier,) = (finished / "run" / "dfr" / "earlier" / "metrics.jsonl").read_text().splitlines()
    assert metrics["training_seconds"]["dfr"] >= round(json.loads(earlier)["seconds"], 1)
    assert "dfr" in (finished / "run" / "report.html").read_text()


def test_the_commands_afterwards(finished: Path, capsys: pytest.CaptureFixture[str]):
    run("evaluate", finished / "run", "--data-dir", finished / "data")
    assert "dfr" in capsys.readouterr().out
    config = finished / "run" / "config.yaml"
    run("train", "decoy", "--config", config, *places(finished))
    assert "is finished" in capsys.readouterr().out
    run("export", finished / "run")
    card = (finished / "run" / "export" / "dfr" / "README.md").read_text()
    assert "trained by the method dfr" in card


def test_another_method_is_another_run(finished: Path, capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit):
        run("train", "decoy", *places(finished), *OPTIONS, "--plain-epochs", 0)
    assert "method: 'dfr' there, 'isnet' now" in capsys.readouterr().err


def test_wrong_names_and_options(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    for words, said in (
        (("--method", "rrrr"), "rrr"),
        (("--method", "rrr", "--rrr.weight", -1), "weight is -1"),
        (("--method", "rrr", "--calibration", "x.json"), "calibration"),
    ):
        with pytest.raises(SystemExit, match="2"):
            run("train", "textured", *places(tmp_path), *words)
        assert said in capsys.readouterr().err


def test_help_has_the_methods_options(capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit, match="0"):
        run("train", "biased-digits", "--method", "group-dro", "--help")
    shown = capsys.readouterr().out
    assert "--group-dro.step-size" in shown
    assert "--data.mark.strength" in shown
