"""Faults of a run: nothing is lost but the steps since the last save, and results stay the same."""

from __future__ import annotations

import dataclasses
import json
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from importlib import metadata
from pathlib import Path

import checkpoint_on_devices
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import fake_devices
from tiny_process import assert_same_results, train, train_here
from tiny_training import ISNET, PLAIN, SMALL, Silent, split, timeless

from isnet_jax import UserError
from isnet_jax.training import CheckpointConfig, Checkpoints, fit, rerun
from isnet_jax.training.dump import host_arrays, load_failure
from isnet_jax.training.metrics import EpochMetrics


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Results of a run that is left alone and saves at the ends of epochs only."""
    folder = tmp_path_factory.mktemp("uninterrupted")
    train_here(folder / "run", folder / "result.npz")
    return folder / "result.npz"


def started_at(lines: list[str]) -> int:
    return next(int(line.split()[1]) for line in lines if line.startswith("start"))


def steps_saved(folder: Path) -> list[int]:
    return sorted(int(path.name) for path in (folder / "last").iterdir() if path.name.isdigit())


def being_written(folder: Path) -> bool:
    return any((folder / "last").glob("*tmp*"))


# SIGKILL


def test_killed_between_and_in_the_middle_of_epochs(tmp_path: Path, expected: Path):
    run, result = tmp_path / "run", tmp_path / "result.npz"
    # Four steps an epoch: before the first checkpoint, in the middle of an epoch, and while a
    # checkpoint is being written.
    train(run, result, stop=lambda line: line == "step 2")
    lines = train(run, result, stop=lambda line: line == "step 6")
    assert started_at(lines) == 0
    assert started_at(train(run, result, stop=lambda line: line == "epoch 2")) == 4
    assert started_at(train_here(run, result)) in (4, 8)
    assert_same_results(result, expected)


def test_killed_inside_a_save(tmp_path: Path, expected: Path):
    run, result = tmp_path / "run", tmp_path / "result.npz"

    def while_writing(line: str) -> bool:
        if line != "step 6":
            return False
        while not being_written(run):
            time.sleep(0.0002)
        return True

    train(run, result, 2, stop=while_writing)
    assert being_written(run)
    lines = train_here(run, result, 2)
    assert started_at(lines) == 4
    assert not being_written(run)
    assert_same_results(result, expected)


@pytest.mark.slow
def test_killed_at_ten_random_moments(tmp_path: Path, expected: Path):
    run, result = tmp_path / "run", tmp_path / "result.npz"
    draw = random.Random(0)
    saved = 0
    for _ in range(10):
        lines = train(run, result, 1, stop=after(draw.randint(1, 3), draw.uniform(0, 0.1)))
        assert started_at(lines) >= saved
        saved = max(steps_saved(run), default=0)
    assert started_at(train(run, result, 1)) == saved
    assert_same_results(result, expected)


def after(steps: int, seconds: float) -> Callable[[str], bool]:
    seen = []

    def stop(line: str) -> bool:
        if line.startswith("step"):
            seen.append(line)
        if len(seen) < steps:
            return False
        time.sleep(seconds)
        return True

    return stop


# SIGTERM


def test_sigterm_saves_the_step_and_exits_with_143(tmp_path: Path, expected: Path):
    run, result = tmp_path / "run", tmp_path / "result.npz"
    lines = train(run, result, stop=lambda line: line == "step 6", by=signal.SIGTERM, status=143)
    saved = max(steps_saved(run))
    assert saved in (6, 7, 8)
    assert any("the same command goes on" in line for line in lines)
    assert started_at(train_here(run, result)) == saved
    assert_same_results(result, expected)


# Disk


def fit_small(folder: Path, training=PLAIN, count: int = 24):
    observer = Silent()
    model, history = fit(SMALL, training, split(count), split(10, 1), folder, observer)
    return model, history, observer.told


def test_a_full_disk(tmp_path: Path, expected: Path):
    run, result = tmp_path / "run", tmp_path / "result.npz"
    train(run, result, stop=lambda line: line == "step 6")
    text = " ".join(train(run, result, largest_file=2000, status=2))
    assert re.search(r"could not be written.*File too large.*steps \[4\] are whole", text)
    assert re.search(r"Make room on the disk.*the same command", text)
    assert steps_saved(run) == [4]
    assert started_at(train_here(run, result)) == 4
    assert_same_results(result, expected)


# Damaged checkpoints


@pytest.fixture(scope="module")
def three_epochs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("three") / "run"
    fit_small(folder, dataclasses.replace(PLAIN, epochs=3))
    return folder


def truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


DAMAGE = {
    "data": lambda step: [truncated(p) for p in step.rglob("d/*") if p.is_file()],
    "manifest": lambda step: [truncated(p) for p in step.rglob("manifest.ocdbt")],
    "metadata": lambda step: [truncated(p) for p in step.rglob("_METADATA")],
    "progress": lambda step: [truncated(p) for p in step.glob("progress/*")],
    "progress gone": lambda step: shutil.rmtree(step / "progress"),
    "state gone": lambda step: shutil.rmtree(step / "state"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_newest_checkpoint_costs_one_epoch(
    three_epochs: Path, tmp_path: Path, damage: str
):
    run = Path(shutil.copytree(three_epochs, tmp_path / "run"))
    before = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert DAMAGE[damage](run / "last" / "9") != []
    _, history, told = fit_small(run, dataclasses.replace(PLAIN, epochs=3))
    assert told[0][0] == "notice"
    assert re.search(r"last/9 cannot be read.*going on from step 6 instead", told[0][1])
    assert told[1] == ("start", 6)
    assert timeless(history) == timeless(before)
    assert (run / "damaged" / "9").is_dir()


def test_no_checkpoint_can_be_read(three_epochs: Path, tmp_path: Path):
    run = Path(shutil.copytree(three_epochs, tmp_path / "run"))
    for step in (run / "last").iterdir():
        shutil.rmtree(step / "state")
    with pytest.raises(UserError, match=r"last/9 cannot be read .*nor any before.*Delete"):
        fit_small(run, dataclasses.replace(PLAIN, epochs=4))
    assert steps_saved(run) == [6, 9]


# Steps that are not finite


def with_nan(count: int, sample: int):
    data = split(count)
    data.images[sample, 0, 0, 0] = np.nan
    return data


@pytest.mark.parametrize("training", [PLAIN, ISNET], ids=["plain", "isnet"])
def test_a_step_with_nan_is_named_dumped_and_made_again(tmp_path: Path, training):
    folder = tmp_path / "run"
    training = dataclasses.replace(
        training, augmentation=PLAIN.augmentation, checkpoints=CheckpointConfig(every=2)
    )
    order = np.random.default_rng((training.seed, 0)).permutation(40)
    step = 4
    sample = int(order[(step - 1) * 8 + 2])
    with pytest.raises(UserError) as raised:
        fit(SMALL, training, with_nan(40, sample), split(10, 1), folder, Silent())
    message = str(raised.value)
    assert f"diverged in epoch 1 at step {step}: NaN or infinite" in message
    assert "The checkpoint of step 2 is kept" in message
    path = folder / f"nonfinite-step-{step}.npz"
    failure = load_failure(path)
    assert failure.ids == tuple(map(str, order[(step - 1) * 8 : step * 8]))
    assert ", ".join(failure.ids) in message
    assert failure.checkpoint == 2
    np.testing.assert_array_equal(failure.batch["label"], order[(step - 1) * 8 : step * 8] % 3)
    assert "loss" in rerun(path)
    assert rerun(path)[-1] == "state"


def test_a_step_that_is_finite_when_repeated(tmp_path: Path, monkeypatch):
    add = EpochMetrics.add

    def struck(self, step, metrics):
        struck = {"loss": jnp.float32(jnp.nan)} if step == 2 else {}
        return add(self, step, metrics | struck)

    monkeypatch.setattr(EpochMetrics, "add", struck)
    with pytest.raises(UserError, match=r"at step 2: .*it was finite: suspect the device"):
        fit_small(tmp_path / "run")
    assert rerun(tmp_path / "run" / "nonfinite-step-2.npz") == []


def test_a_file_that_is_no_dump(tmp_path: Path):
    (tmp_path / "x.npz").write_text("no")
    with pytest.raises(UserError, match="is no dump of a training step"):
        rerun(tmp_path / "x.npz")


# What a checkpoint holds


def test_what_a_checkpoint_says_of_its_making(three_epochs: Path):
    saved = json.loads((three_epochs / "last" / "9" / "progress" / "metadata").read_text())
    progress = saved["record"]  # beside its checksums
    assert progress["training"]["batch_size"] == PLAIN.batch_size
    assert progress["version"] == metadata.version("isnet-jax")
    assert {"revision", "jax"} <= set(progress)


def test_the_best_and_the_last_are_kept(tmp_path: Path):
    checkpoints = CheckpointConfig(every=2, keep_last=4, keep_best=2)
    training = dataclasses.replace(PLAIN, epochs=4, checkpoints=checkpoints)
    _, history, _ = fit_small(tmp_path, training)
    assert steps_saved(tmp_path) == [8, 9, 10, 12]
    best = sorted(history, key=lambda record: record["validation_loss"])[:2]
    found = sorted(int(path.name) for path in (tmp_path / "best").iterdir())
    assert found == sorted(int(record["step"]) for record in best)


def test_a_checkpoint_goes_from_one_device_to_eight_and_back(three_epochs: Path, tmp_path: Path):
    done = subprocess.run(
        [sys.executable, checkpoint_on_devices.__file__, str(three_epochs), str(tmp_path)],
        env=fake_devices(8),
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    states = []
    for folder in (three_epochs, tmp_path):
        with Checkpoints(folder) as checkpoints:
            resumed = checkpoints.resume(checkpoint_on_devices.like(3))
        assert resumed is not None
        states.append(host_arrays(resumed[0]))
    jax.tree.map(np.testing.assert_array_equal, *states)
