"""Checkpoints: what is kept, what is refused, what a killed process leaves behind."""

import contextlib
import dataclasses
import json
import os
import re
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import tensorstore
from flax import nnx
from tiny_training import PLAIN, SMALL, Silent, arrays, split

from isnet_jax import UserError
from isnet_jax.training import Checkpoints, OptimiserConfig, fit, init_state, load_network


def run(folder: Path, training=PLAIN, description=SMALL):
    observer = Silent()
    model, history = fit(description, training, split(24), split(10, 1), folder, observer)
    return model, history, observer.told


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("finished") / "plain"
    run(folder)
    return folder


@pytest.fixture
def copy(finished: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "plain"))


def state_of(value: float):
    model = SMALL.create()
    state = init_state(model, optax.sgd(0.1), jax.random.key(0))
    return dataclasses.replace(
        state,
        step=jnp.int32(value),
        parameters=jax.tree.map(lambda p: jnp.full_like(p, value), state.parameters),
    )


def test_best_is_the_lowest_validation_loss_and_last_the_latest(tmp_path: Path):
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.resume(state_of(0)) is None
        for step, loss in ((1, 0.5), (2, 0.25), (3, 0.75)):
            checkpoints.save(state_of(step), {"history": [step]}, loss=loss)
    with Checkpoints(tmp_path) as checkpoints:
        resumed = checkpoints.resume(state_of(0))
        best = checkpoints.best(state_of(0))
    assert resumed is not None
    assert best is not None
    assert (int(resumed[0].step), resumed[1]) == (3, {"history": [3]})
    assert int(best.step) == 2
    assert jax.tree.leaves(best.parameters)[0].ravel()[0] == 2


def test_saving_copies_what_the_next_step_donates(tmp_path: Path):
    overwrite = jax.jit(lambda s: jax.tree.map(lambda p: p * 0 - 1, s), donate_argnums=0)
    state = state_of(5)
    with Checkpoints(tmp_path) as checkpoints:
        parameters = state.parameters
        checkpoints.save(state, {})
        overwrite(parameters)
    with Checkpoints(tmp_path) as checkpoints:
        resumed = checkpoints.resume(state_of(0))
    assert resumed is not None
    assert all((leaf == 5).all() for leaf in jax.tree.leaves(resumed[0].parameters))


def test_what_a_killed_write_leaves_is_ignored_and_removed(copy: Path):
    for kind in ("last", "best"):
        half = copy / kind / "99.orbax-checkpoint-tmp-1234" / "state"
        half.mkdir(parents=True)
        (half / "garbage").write_text("half")
    _, history, told = run(copy, dataclasses.replace(PLAIN, epochs=3))
    assert told[0] == ("start", 6)
    assert [record["epoch"] for record in history] == [1, 2, 3]
    assert not list(copy.glob("*/*tmp*"))


def test_a_best_of_an_epoch_that_last_does_not_know_is_dropped(copy: Path):
    newest = max((copy / "last").iterdir(), key=lambda path: int(path.name))
    (best,) = (copy / "best").iterdir()
    best.rename(best.with_name("7"))
    with Checkpoints(copy) as checkpoints:
        model = SMALL.create(PLAIN.seed)
        like = init_state(model, PLAIN.optimiser.make(6), jax.random.key(0))
        resumed = checkpoints.resume(like)
        assert resumed is not None
        assert int(resumed[0].step) == int(newest.name) == 6
        assert not list((copy / "best").iterdir())


def test_a_finished_training_is_not_repeated(finished: Path):
    first, history, _ = run(finished)
    again, repeated, told = run(finished)
    assert told == [("start", 6)]
    assert repeated == history
    jax.tree.map(np.testing.assert_array_equal, arrays(first), arrays(again))


def test_the_returned_network_is_the_best_one_and_load_network_finds_it(finished: Path):
    model, history, _ = run(finished)
    best = min(history, key=lambda record: record["validation_loss"])
    assert [path.name for path in (finished / "best").iterdir()] == [str(best["step"])]
    loaded, description = load_network(finished)
    assert description == SMALL
    jax.tree.map(np.testing.assert_array_equal, arrays(model), arrays(loaded))
    x = jnp.asarray(split(2).batch(slice(None))["image"])
    np.testing.assert_array_equal(loaded(x), model(x))


def test_loading_writes_nothing(finished: Path):
    before = sorted(finished.rglob("*"))
    load_network(finished)
    assert sorted(finished.rglob("*")) == before


@pytest.mark.parametrize("rate", [1e30, 1e38])
def test_a_diverged_training_stops_without_a_checkpoint(tmp_path: Path, rate: float):
    diverging = OptimiserConfig(name="sgd", learning_rate=rate, clip_norm=0, warmup_fraction=0)
    with pytest.raises(UserError, match=r"training diverged in epoch 1.*learning rate"):
        run(tmp_path / "run", dataclasses.replace(PLAIN, optimiser=diverging))
    assert not list((tmp_path / "run" / "last").iterdir())
    assert not list((tmp_path / "run" / "best").iterdir())


def test_another_architecture_is_refused_and_nothing_is_overwritten(copy: Path):
    before = (copy / "model.json").read_text()
    other = dataclasses.replace(SMALL, architecture="compact")
    with pytest.raises(UserError, match=r"holds another network, a 'small'.*expected a 'compact'"):
        run(copy, description=other)
    assert (copy / "model.json").read_text() == before
    with pytest.raises(UserError, match=r"holds a 'small'; expected a 'compact'"):
        load_network(copy, "compact")


def test_weights_of_another_architecture_are_refused(copy: Path):
    fields = json.loads((copy / "model.json").read_text())
    del fields["checksum"]
    (copy / "model.json").write_text(json.dumps(fields | {"architecture": "compact"}))
    with pytest.raises(UserError, match=r"another architecture.*\n.*found nothing, expected"):
        load_network(copy)


def test_another_optimiser_is_refused(copy: Path):
    sgd = dataclasses.replace(PLAIN, optimiser=OptimiserConfig(name="sgd"), epochs=3)
    with pytest.raises(UserError, match="another architecture or optimiser"):
        run(copy, sgd)


def test_a_folder_without_a_network(tmp_path: Path, copy: Path):
    with pytest.raises(UserError, match=r"holds no network.*Did you mean .*plain"):
        load_network(tmp_path)
    with pytest.raises(UserError, match="holds no network"):
        load_network(tmp_path / "absent")
    for kind in ("best", "last"):
        shutil.rmtree(copy / kind)
    with pytest.raises(UserError, match="no checkpoint yet"):
        load_network(copy)
    with Checkpoints(copy) as checkpoints:
        checkpoints.save(state_of(1), {"history": []})  # In the middle of the first epoch.
    with pytest.raises(UserError, match="no checkpoint yet"):
        load_network(copy)


def flip(step: Path) -> None:
    """Bits of the arrays' bytes: one in each 64, since some of them are never read."""
    for path in (step / "state").rglob("d/*"):
        data = bytearray(path.read_bytes())
        for place in range(len(data) % 64 // 2, len(data), 64):
            data[place] ^= 1
        path.write_bytes(data)


def newest(folder: Path) -> Path:
    return max(folder.iterdir(), key=lambda path: int(path.name))


@pytest.mark.parametrize("damage", [flip, lambda step: shutil.rmtree(step / "state")])
def test_a_damaged_best_is_named_and_the_last_taken(copy: Path, damage):
    damage(newest(copy / "best"))
    with pytest.warns(UserWarning, match=r"best/\d+ cannot be read .*; taking last/6 instead"):
        load_network(copy)
    _, _, told = run(copy)
    assert "taking last/6 instead" in next(text for kind, text in told if kind == "notice")
    damage(newest(copy / "last"))
    with pytest.warns(UserWarning, match="taking last/3 instead"):
        load_network(copy)
    damage(copy / "last" / "3")
    with pytest.raises(UserError, match=r"cannot be read.*nor any other.*Delete that folder"):
        load_network(copy)


@pytest.mark.parametrize(
    "content", ['{"validation_loss": 9.0}', '{"vamidation_loss": 1.0}', "{}", "{"]
)
def test_the_loss_that_ranks_a_best_one_is_its_own(copy: Path, content: str):
    """Orbax keeps it in a file without a checksum."""
    file = newest(copy / "best") / "metrics" / "metrics"
    whole = file.read_text()
    file.write_text(content)
    damage = pytest.warns(UserWarning, match=r"best/\d+ cannot be read")
    with damage if content == "{" else contextlib.nullcontext():
        load_network(copy)
    assert file.read_text() == content
    _, _, told = run(copy)
    assert "was changed; it is" in dict(told)["notice"]
    assert json.loads(file.read_text()) == json.loads(whole)


STRANGERS = {
    "file": lambda path: path.write_text("x"),
    "pipe": os.mkfifo,
    "link to nowhere": lambda path: path.symlink_to("absent"),
    "link to itself": lambda path: path.symlink_to(path.name),
}


@pytest.mark.parametrize("kind", ["last", "best"])
@pytest.mark.parametrize("stranger", STRANGERS)
def test_what_is_no_checkpoint_is_moved_away(copy: Path, kind: str, stranger: str):
    """Orbax would wait for a pipe, and fail to write where a link is."""
    whole = newest(copy / kind)
    shutil.rmtree(whole)
    STRANGERS[stranger](whole)
    STRANGERS[stranger](copy / kind / "9")
    (copy / kind / "\N{SUPERSCRIPT TWO}").mkdir()
    _, history, told = run(copy)
    notices = [text for what, text in told if what == "notice"]
    assert all(f"{kind}/{s} is no checkpoint" in " ".join(notices) for s in (whole.name, "9"))
    assert [record["epoch"] for record in history] == [1, 2]
    assert (copy / "last" / "6").is_dir()
    assert {path.name for path in (copy / "damaged").iterdir()} == {whole.name, "9"}


@pytest.mark.parametrize("name", [".", "last", "best", "damaged"])
@pytest.mark.parametrize("stranger", ["file", "link to nowhere"])
def test_what_lies_where_checkpoints_belong_is_named(copy: Path, name: str, stranger: str):
    shutil.rmtree(copy / name, ignore_errors=True)
    STRANGERS[stranger](copy / name)
    with pytest.raises(UserError, match=r"is no folder; .*Move it away"):
        Checkpoints(copy)


def test_a_copy_under_another_number_is_no_checkpoint(copy: Path):
    """Training would go on from there for ever."""
    shutil.copytree(newest(copy / "last"), copy / "last" / "20")
    _, history, told = run(copy)
    assert "last/20 cannot be read (it is that of step 6)" in dict(told)["notice"]
    assert len(history) == 2


def test_a_deleted_best_is_done_without(copy: Path):
    shutil.rmtree(newest(copy / "best"))
    model, _, _ = run(copy)
    with pytest.warns(UserWarning, match="best is empty; taking last/6 instead"):
        loaded, _ = load_network(copy)
    jax.tree.map(np.testing.assert_array_equal, arrays(model), arrays(loaded))


def test_values_that_storage_cannot_miss_are_named_and_the_ones_before_taken(copy: Path):
    place = {"driver": "ocdbt", "base": f"file://{newest(copy / 'last') / 'state'}/"}
    spec = {"driver": "zarr", "kvstore": place, "path": "parameters/bn1/scale/value"}
    array = tensorstore.open(spec).result()
    values = array.read().result()
    values.view(np.uint32)[0] ^= 1
    array.write(values).result()
    _, history, told = run(copy)
    notice = next(text for kind, text in told if kind == "notice")
    assert "the array parameters/bn1/scale/value is damaged: its checksum differs" in notice
    assert ("start", 3) in told
    assert [record["epoch"] for record in history] == [1, 2]


def test_flipped_bits_in_the_last_are_named_and_the_one_before_taken(copy: Path):
    flip(newest(copy / "last"))
    _, history, told = run(copy)
    assert "last/6 cannot be read" in next(t for kind, t in told if kind == "notice")
    assert ("start", 3) in told
    assert [record["epoch"] for record in history] == [1, 2]


@pytest.mark.parametrize("record", ["{}", "[]", "null", "1", '{"record": {}, "checksums": {}}'])
def test_an_incomplete_record_of_progress(copy: Path, record: str):
    (newest(copy / "last") / "progress" / "metadata").write_text(record)
    _, _, told = run(copy)
    assert "record of progress is incomplete" in next(t for kind, t in told if kind == "notice")
    assert ("start", 3) in told


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"history": [{}]}, "epoch 1 lacks step"),
        ({"history": None}, "history is None"),
        ({"batches": {}}, "batches is not of the form"),
        ({"epoch": []}, "epoch is \\[\\]"),
    ],
)
def test_a_wrong_record_of_an_earlier_version(copy: Path, change: dict, words: str):
    """Which had no checksums."""
    place = newest(copy / "last") / "progress" / "metadata"
    place.write_text(json.dumps(json.loads(place.read_text())["record"] | change))
    _, _, told = run(copy)
    assert re.search(f"last/6.*{words}.*step 3 instead", dict(told)["notice"])
    assert ("start", 3) in told


def test_a_changed_record_of_progress(copy: Path):
    place = newest(copy / "last") / "progress" / "metadata"
    place.write_text(place.read_text().replace('"epoch": 1', '"epoch": 0', 1))
    _, _, told = run(copy)
    assert "record of progress is damaged" in next(t for kind, t in told if kind == "notice")


@pytest.mark.parametrize("impl", ["threefry2x32", "rbg"])
def test_keys_and_optimiser_state_survive(tmp_path: Path, impl: str):
    model = SMALL.create()
    state = init_state(model, optax.adamw(1e-3), jax.random.key(7, impl=impl))
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(state, {})
    with Checkpoints(tmp_path) as checkpoints:
        like = init_state(model, optax.adamw(1e-3), jax.random.key(0, impl=impl))
        resumed = checkpoints.resume(like)
    assert resumed is not None
    assert jax.random.key_impl(resumed[0].key) == jax.random.key_impl(state.key)
    assert jax.tree.structure(resumed[0]) == jax.tree.structure(state)
    assert jax.random.uniform(resumed[0].key) == jax.random.uniform(state.key)
    assert isinstance(resumed[0].parameters, nnx.State)
