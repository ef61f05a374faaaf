"""The jobs on hard data, with small networks and few samples."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from isnet_jax.commands import hard
from isnet_jax.commands.main import main

SMALL = ("--model", "small", "--epochs", "1", "--plain-epochs", "1", "--batch-size", "32")


def run(*words: object) -> None:
    main([str(word) for word in words])


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("hard")
    data = ("--data-dir", folder / "data", "--data.limit", 100)
    run("train", "decoy", "--out", folder / "run", *data, *SMALL)
    return folder


def test_both_networks_are_judged_on_all_test_sets(finished: Path):
    metrics = json.loads((finished / "run" / "metrics.json").read_text())
    for network in ("plain", "isnet"):
        assert {"biased", "unbiased", "confounding", "unseen", "worst_group"} < set(
            metrics[network]
        )
    page = (finished / "run" / "report.html").read_text()
    assert "grey patch in a corner" in page
    assert "another image&#x27;s background" in page or "another image's background" in page


def test_it_is_judged_again_and_gone_on_with(finished: Path, capsys: pytest.CaptureFixture[str]):
    run("evaluate", finished / "run", "--data-dir", finished / "data")
    shown = capsys.readouterr().out
    assert "unseen" in shown
    assert "object removed" in shown.replace("\n", " ")
    config = ("--config", finished / "run" / "config.yaml")
    run("train", "decoy", "--out", finished / "run", *config)
    assert "is finished" in capsys.readouterr().out


def test_other_options_are_another_run(finished: Path, capsys: pytest.CaptureFixture[str]):
    data = ("--data-dir", finished / "data", "--data.limit", 100, "--data.seed", 5)
    with pytest.raises(SystemExit):
        run("train", "decoy", "--out", finished / "run", *data, *SMALL)
    assert "data.seed" in capsys.readouterr().err


@pytest.mark.parametrize("name", hard.JOBS)
def test_every_job_has_a_help(name: str, capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit, match="0"):
        run("train", name, "--help")
    shown = capsys.readouterr().out
    assert "--data.seed" in shown
    assert hard.JOBS[name]().data.kind == name
