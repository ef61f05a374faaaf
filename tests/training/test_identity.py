"""Whole checkpoints of another training, under a step that this one could have."""

import dataclasses
import json
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest
from tiny_training import PLAIN, SMALL, Silent, arrays, split

from isnet_jax import UserError
from isnet_jax.training import CheckpointConfig, OptimiserConfig, fit, load_network
from isnet_jax.training.identity import identity

TRAIN, VALIDATION = split(24), split(10, 1)
OTHER = dataclasses.replace(PLAIN, seed=4, epochs=3)


def run(folder: Path, training=PLAIN):
    observer = Silent()
    model, history = fit(SMALL, training, TRAIN, VALIDATION, folder, observer)
    return arrays(model), history, observer.told


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    run(folder / "own")
    run(folder / "other", OTHER)
    return folder


@pytest.fixture
def copy(runs: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(runs / "own", tmp_path / "own"))


def steps(folder: Path) -> set[int]:
    return {int(path.name) for path in folder.iterdir()}


@pytest.mark.parametrize("kind", ["last", "best"])
def test_they_are_moved_away(runs: Path, copy: Path, kind: str):
    """The other's best one has the lower loss: it would displace that of this training."""
    whole, _, _ = run(copy)
    for name in ("last", "best"):
        for path in (runs / "other" / name).iterdir():
            target = copy / kind / path.name
            shutil.rmtree(target, ignore_errors=True)
            shutil.copytree(path, target)
    other = steps(copy / kind)
    assert 9 in other
    found, history, told = run(copy)
    notices = [text for what, text in told if what == "notice"]
    assert f"{kind}/9 is a checkpoint of another training than" in " ".join(notices)
    assert steps(copy / "damaged") >= {9}
    assert [record["epoch"] for record in history] == [1, 2]
    if kind == "last":
        jax.tree.map(np.testing.assert_array_equal, found, whole)


def test_a_network_is_not_read_from_one(runs: Path, copy: Path):
    (best,) = (copy / "best").iterdir()
    shutil.rmtree(best)
    (other,) = (runs / "other" / "best").iterdir()
    shutil.copytree(other, copy / "best" / other.name)
    with pytest.warns(UserWarning, match="it is another training's.*taking last/6 instead"):
        load_network(copy)
    shutil.rmtree(copy / "last")
    with pytest.raises(UserError, match=r"it is another training's.*nor any other"):
        load_network(copy)


def test_of_two_that_are_moved_away_both_stay(runs: Path, copy: Path):
    for kind in ("last", "best"):
        shutil.copytree(runs / "other" / "last" / "9", copy / kind / "9")
    run(copy)
    assert {path.name for path in (copy / "damaged").iterdir()} == {"9", "9.2"}


def test_what_an_earlier_version_wrote_has_no_identity(runs: Path, copy: Path):
    record = json.loads((copy / "model.json").read_text())
    assert len(record.pop("training")) == 64
    del record["checksum"]
    (copy / "model.json").write_text(json.dumps(record))
    shutil.rmtree(copy / "last")
    shutil.copytree(runs / "other" / "last", copy / "last")
    assert ("start", 9) in run(copy)[2]


def test_a_record_that_was_deleted_is_written_anew(copy: Path):
    before = (copy / "model.json").read_text()
    (copy / "model.json").unlink()
    assert ("start", 6) in run(copy)[2]
    assert (copy / "model.json").read_text() == before


def test_what_decides_the_result_is_another_identity():
    changed = [
        identity(SMALL, training, *splits)
        for training, splits in [
            (PLAIN, (TRAIN, VALIDATION)),
            (OTHER, (TRAIN, VALIDATION)),
            (PLAIN, (TRAIN, TRAIN)),
            (PLAIN, (dataclasses.replace(TRAIN, labels=TRAIN.labels[::-1]), VALIDATION)),
            (PLAIN, (dataclasses.replace(TRAIN, masks=1 - TRAIN.masks), VALIDATION)),
            (PLAIN, (dataclasses.replace(TRAIN, images=TRAIN.images / 2), VALIDATION)),
            (PLAIN, (dataclasses.replace(TRAIN, ids=TRAIN.ids[::-1]), VALIDATION)),
            (dataclasses.replace(PLAIN, optimiser=OptimiserConfig(learning_rate=1e-4)), (TRAIN,)),
        ]
    ]
    assert len({*changed}) == len(changed)


def test_what_decides_nothing_is_not():
    kept = dataclasses.replace(PLAIN, checkpoints=CheckpointConfig(every=1), profile_steps=(1, 2))
    assert identity(SMALL, kept, TRAIN) == identity(SMALL, PLAIN, TRAIN)
