"""A run folder of an earlier version stays usable: it is gone on with, judged, and explained.

`run_of_2026-11-26.zip` holds `run`, which commit 2a03ddc was stopped in (SIGTERM after the first of
two epochs of the ISNet), and `finished`, the metrics that the same commit went on to. Its command:

    isnet-jax train biased-digits --out run --data-dir ds --data.limit 200 --model small \
        --epochs 2 --plain-epochs 1 --batch-size 32
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from isnet_jax.commands.config_file import from_yaml
from isnet_jax.commands.digits import BiasedDigitsJob
from isnet_jax.commands.main import main
from isnet_jax.training import load_network
from isnet_jax.training.speed import TIMES

OPTIONS = (
    "--data.limit", "200", "--model", "small", "--epochs", "2", "--plain-epochs", "1",
    "--batch-size", "32",
)  # fmt: skip


@pytest.fixture(scope="module")
def earlier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that the archive is unpacked in."""
    folder = tmp_path_factory.mktemp("earlier")
    with zipfile.ZipFile(Path(__file__).with_name("run_of_2026-11-26.zip")) as archive:
        archive.extractall(folder)
    return folder


def test_its_networks_and_options_are_read(earlier: Path):
    for name in ("plain", "isnet"):
        _, description = load_network(earlier / "run" / name)
        assert description.architecture == "small"
    job = from_yaml(BiasedDigitsJob, earlier / "run" / "config.yaml")
    assert (job.epochs, job.batch_size, job.data.limit) == (2, 32, 200)


def test_the_same_command_goes_on_to_the_same_end(earlier: Path):
    """Then `evaluate` judges it; both give what the earlier version had measured."""
    run, data = earlier / "run", earlier / "ds"
    without_an_option(run / "run.json")
    # The default objective has changed since: the run's own options are in its folder.
    command = ["train", "biased-digits", "--config", str(run / "config.yaml")]
    as_users_do([*command, "--out", str(run), "--data-dir", str(data), *OPTIONS])
    found = json.loads((run / "metrics.json").read_text())
    expected = json.loads((earlier / "finished" / "metrics.json").read_text())
    for name in ("plain", "isnet"):
        known = {key: found[name][key] for key in expected[name]}
        assert known == pytest.approx(expected[name], abs=1e-3)
    assert records(run / "isnet" / "metrics.jsonl") == [
        pytest.approx(record, rel=1e-3) for record in records(earlier / "finished" / "isnet.jsonl")
    ]
    main(["evaluate", str(run), "--data-dir", str(data)])


def as_users_do(command: list[str]) -> None:
    """In a process without the flags of the tests, which round otherwise than that version did."""
    program = "from isnet_jax.commands.main import main; main()"
    environment = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    subprocess.run([sys.executable, "-c", program, *command], env=environment, check=True)


def without_an_option(file: Path) -> None:
    """As if the version that made the run had not known it."""
    found = json.loads(file.read_text())
    del found["settings"]["patience"], found["settings"]["isnet"]["heatmap_schedule"]
    file.write_text(json.dumps(found))


def records(file: Path) -> list[dict[str, float]]:
    """Of all epochs, without what is measured by the clock."""
    lines = map(json.loads, file.read_text().splitlines())
    return [{k: v for k, v in line.items() if k not in TIMES} for line in lines]
