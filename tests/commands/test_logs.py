"""Where curves go beside TensorBoard, with stand-ins for the services' packages."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import own_pictures as own
import pytest

from isnet_jax import UserError
from isnet_jax.commands import logs
from isnet_jax.commands.logs import Logs
from isnet_jax.commands.main import main

PICTURE = np.zeros((4, 6, 3), np.uint8)


class Wandb(ModuleType):
    """Of Weights & Biases what we call; keeps it."""

    def __init__(self):
        super().__init__("wandb")
        self.begun: list[dict[str, Any]] = []
        self.logged: list[tuple[dict[str, Any], int]] = []
        self.ended: list[int] = []
        self.Image = lambda pixels: ("picture", pixels.shape)

    def init(self, **options: Any) -> Wandb:
        self.begun.append(options)
        return self

    def log(self, values: dict[str, Any], step: int) -> None:
        self.logged.append((values, step))

    def finish(self, exit_code: int) -> None:
        self.ended.append(exit_code)


class Client:
    """Of MLflow's client what we call; a server's memory outlives it."""

    server: dict[str, Any]

    def get_experiment_by_name(self, name: str) -> Any:
        return self.server["experiments"].get(name)

    def create_experiment(self, name: str) -> str:
        self.server["experiments"][name] = SimpleNamespace(experiment_id="7")
        return "7"

    def create_run(self, experiment: str, run_name: str) -> Any:
        assert experiment == "7"
        identity = f"run{len(self.server['runs'])}"
        self.server["runs"][identity] = {
            "name": run_name,
            "params": {},
            "metrics": [],
            "images": [],
        }
        return SimpleNamespace(info=SimpleNamespace(run_id=identity))

    def update_run(self, identity: str, status: str) -> None:
        self.server["runs"][identity]["status"] = status

    def log_batch(self, identity: str, metrics: Any = (), params: Any = ()) -> None:
        assert len(params) <= 100
        run = self.server["runs"][identity]
        run["params"] |= {each.key: each.value for each in params}
        run["metrics"] += [(each.key, each.value, each.step) for each in metrics]

    def log_image(self, identity: str, pixels: np.ndarray, key: str, step: int) -> None:
        self.server["runs"][identity]["images"].append((key, pixels.shape, step))

    def set_terminated(self, identity: str, status: str) -> None:
        self.server["runs"][identity]["status"] = status


def stand_in(monkeypatch: pytest.MonkeyPatch, module: ModuleType) -> None:
    module.__spec__ = importlib.util.spec_from_loader(module.__name__, None)
    monkeypatch.setitem(sys.modules, module.__name__, module)


@pytest.fixture
def wandb(monkeypatch: pytest.MonkeyPatch) -> Wandb:
    module = Wandb()
    stand_in(monkeypatch, module)
    return module


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    mlflow, tracking, entities = map(ModuleType, ("mlflow", "mlflow.tracking", "mlflow.entities"))
    found: dict[str, Any] = {"experiments": {}, "runs": {}}
    monkeypatch.setattr(Client, "server", found, raising=False)
    tracking.__dict__["MlflowClient"] = Client
    entities.__dict__["Param"] = lambda key, value: SimpleNamespace(key=key, value=value)
    entities.__dict__["Metric"] = lambda key, value, timestamp, step: SimpleNamespace(
        key=key, value=value, timestamp=timestamp, step=step
    )
    mlflow.__dict__["entities"] = entities
    for module in (mlflow, tracking, entities):
        stand_in(monkeypatch, module)
    return found


def write(where: Logs, step: int) -> None:
    (log,) = where.open(step)
    with log:
        log.scalars({"train/loss": 0.5}, step + 1)
        log.image("heatmaps", PICTURE, step + 1)


def test_wandb_goes_on_in_the_same_run(wandb: Wandb, tmp_path: Path):
    where = Logs(tmp_path / "r", "isnet", ("wandb",), {"epochs": 3})
    write(where, 0)
    write(dataclasses.replace(where, options={"epochs": 4}), 1)
    first, again = wandb.begun
    assert again == first | {"config": None}
    assert (first["name"], first["resume"], first["config"]) == ("r/isnet", "allow", {"epochs": 3})
    assert Path(first["dir"]).is_dir()
    assert wandb.logged[:2] == [
        ({"train/loss": 0.5}, 1), ({"heatmaps": ("picture", (4, 6, 3))}, 1)
    ]  # fmt: skip
    assert wandb.ended == [0, 0]
    write(Logs(tmp_path / "r", "plain", ("wandb",)), 0)
    assert wandb.begun[-1]["id"] != first["id"]


def test_mlflow_goes_on_in_the_same_run(server: dict[str, Any], tmp_path: Path):
    where = Logs(tmp_path / "r", "isnet", ("mlflow",), {"isnet": {"variant": "dual"}, "epochs": 3})
    write(where, 0)
    write(dataclasses.replace(where, options={"epochs": 4}), 1)
    (run,) = server["runs"].values()
    assert run["params"] == {"isnet.variant": "dual", "epochs": "3"}
    assert run["metrics"] == [("train/loss", 0.5, 1), ("train/loss", 0.5, 2)]
    assert run["images"] == [("heatmaps", (4, 6, 3), 1), ("heatmaps", (4, 6, 3), 2)]
    assert (run["name"], run["status"]) == ("r/isnet", "FINISHED")


def test_a_training_that_failed_is_said_to_have(wandb: Wandb, server: dict[str, Any], tmp_path):
    def fail() -> None:
        for log in Logs(tmp_path, "isnet", ("wandb", "mlflow")).open(0):
            with pytest.raises(KeyError), log:
                raise KeyError

    fail()
    assert wandb.ended == [1]
    assert [run["status"] for run in server["runs"].values()] == ["FAILED"]


def test_a_service_that_cannot_be_reached(wandb: Wandb, tmp_path, monkeypatch):
    def refuse(**options: Any) -> None:
        raise ConnectionError("no route")

    where = Logs(tmp_path, "isnet", ("wandb",), {"epochs": 3})
    with monkeypatch.context() as there:
        there.setattr(wandb, "init", refuse)
        with pytest.raises(UserError, match=r"Weights & Biases cannot be logged to \(no route\)"):
            write(where, 0)
    write(where, 0)
    assert wandb.begun[-1]["config"] == {"epochs": 3}


@pytest.mark.parametrize("kind", ["wandb", "mlflow"])
def test_what_is_not_installed_is_said_before_anything_is_done(kind, tmp_path, capsys, monkeypatch):
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == kind else found(name)
    )
    with pytest.raises(UserError, match=rf"--log {kind} needs .*\(pip install {kind}\)"):
        logs.require(("tensorboard", kind))
    with pytest.raises(SystemExit, match="2"):
        main(["train", "decoy", "--out", str(tmp_path / "run"), "--log", kind])
    assert f"pip install {kind}" in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "run").exists()


def test_a_run_is_the_same_whatever_watches_it(wandb: Wandb, server: dict[str, Any], tmp_path):
    """Both services beside TensorBoard, from the command; then the run is judged again without."""
    for number in range(12):
        place = f"{own.CLASSES[number % 2]}/{number:02d}.png"
        own.write(tmp_path / "p" / "images" / place, own.pixels(number, height=16, width=16))
        own.write(tmp_path / "p" / "masks" / place, own.drawn(number, height=16, width=16))
    main(["prepare", "folder", str(tmp_path / "p"), "--out", str(tmp_path / "data")])
    command = ["train", "own-data", str(tmp_path / "data"), "--out", str(tmp_path / "run")]
    command += ["--model", "small", "--epochs", "1", "--batch-size", "4"]
    main([*command, "--log", "tensorboard", "wandb", "mlflow"])
    (run,) = server["runs"].values()
    names = {name for values, _ in wandb.logged for name in values}
    assert {"validation/loss", "speed/seconds", "heatmaps"} <= names
    assert {name for name, _, _ in run["metrics"]} == names - {"heatmaps"}
    assert run["params"]["model"] == wandb.begun[0]["config"]["model"] == "small"
    assert list((tmp_path / "run" / "tensorboard" / "isnet").iterdir())
    settings = json.loads((tmp_path / "run" / "run.json").read_text())["settings"]
    assert "log" not in settings
    main(command)
    assert len(wandb.begun) == 1
