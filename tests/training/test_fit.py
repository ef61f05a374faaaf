"""The loop: one trace, no waiting for the device but to log, every validation sample counted."""

import dataclasses
import json
import re
from pathlib import Path

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_training import ISNET, PLAIN, SMALL, Silent, arrays, split, timeless

from isnet_jax import Classification, UserError
from isnet_jax.data import Augmentation
from isnet_jax.training import (
    Checkpoints,
    OptimiserConfig,
    build_step,
    fit,
    init_state,
    loss_function,
    trainer,
)
from isnet_jax.training.metrics import EpochMetrics, NonFiniteError


def test_a_whole_training_traces_its_step_once(tmp_path: Path, monkeypatch):
    def counted(*args, **options):
        return chex.assert_max_traces(build_step(*args, **options), n=1)

    chex.clear_trace_counter()
    monkeypatch.setattr(trainer, "build_step", counted)
    observer = Silent()
    fit(SMALL, PLAIN, split(26), split(10, 1), tmp_path, observer)
    assert [step for what, step in observer.told if what == "step"] == [1, 2, 3, 4, 5, 6]
    # The counter counts: another shape is another trace.
    model = SMALL.create()
    optimiser = PLAIN.optimiser.make(2)
    step = jax.jit(counted(model, loss_function(Classification()), optimiser))
    state = init_state(model, optimiser, jax.random.key(0))
    step(state, split(2).batch(slice(None)))
    with pytest.raises(AssertionError, match="traced"):
        step(state, split(3).batch(slice(None)))


def test_the_same_seed_gives_the_same_run_and_another_one_does_not(tmp_path: Path):
    def trained(name, seed):
        training = dataclasses.replace(PLAIN, seed=seed, augmentation=Augmentation(max_shift=1))
        model, history = fit(SMALL, training, split(24), split(10, 1), tmp_path / name, Silent())
        return arrays(model), timeless(history)

    first, again, other = trained("a", 0), trained("b", 0), trained("c", 1)
    jax.tree.map(np.testing.assert_array_equal, first, again)
    assert any((first[0][name] != other[0][name]).any() for name in first[0])


def test_the_host_waits_only_to_log(tmp_path: Path, monkeypatch):
    """Counts every device-to-host transfer; transfer guards do not see those of the CPU."""
    transfers = []
    kind = type(jnp.zeros(()))
    read = kind._value

    def counting(array):
        transfers.append(array.shape)
        return read.fget(array)

    with Checkpoints(tmp_path) as checkpoints:
        training = trainer.Trainer(
            SMALL, PLAIN, split(26 * 8), split(8), tmp_path, checkpoints, lambda cost: None
        )
        training.advance()
        training.metrics = EpochMetrics()
        monkeypatch.setattr(kind, "_value", property(counting))
        float(jnp.ones(()))
        assert len(transfers) == 1
        transfers.clear()
        seen = []
        for _ in range(25):
            _, looked = training.advance()
            seen.append((len(transfers), looked is not None))
    fetched = 4  # loss, accuracy, classification, gradient_norm
    assert [n for n, _ in seen] == [0] * 9 + [fetched] * 10 + [2 * fetched] * 6
    assert [number + 1 for number, (_, looked) in enumerate(seen) if looked] == [10, 20]
    # Not the latest step's: waiting for it would leave the device idle.
    assert set(transfers) == {(6,), (10,)}


def test_fewer_samples_than_a_batch(tmp_path: Path):
    with pytest.raises(UserError, match="5 examples do not fill one batch of 8"):
        fit(SMALL, PLAIN, split(5), split(5), tmp_path, Silent())


@pytest.mark.parametrize("at_fault", ["loss", "nonfinite"])
@pytest.mark.parametrize("wrong", [1, 6, 7, 16, 20])
def test_every_step_is_looked_at(at_fault: str, wrong: int):
    metrics = EpochMetrics()
    fine = {"loss": jnp.ones(()), "nonfinite": jnp.zeros((), int)}
    bad = fine | {at_fault: jnp.full((), jnp.nan) if at_fault == "loss" else jnp.ones((), int)}

    def epoch():
        for step in range(1, 21):
            metrics.add(step, bad if step == wrong else fine)
        metrics.means()

    with pytest.raises(NonFiniteError) as raised:
        epoch()
    assert raised.value.step == wrong
    assert raised.value.names == ["loss" if at_fault == "loss" else "heatmaps"]


@pytest.mark.parametrize("interrupted", [0, 1, 7, 10, 24])
def test_means_of_an_interrupted_epoch_have_the_same_bits(interrupted: int):
    values = np.random.default_rng(0).random(25, np.float32)
    whole, parts = EpochMetrics(), EpochMetrics()
    for step, value in enumerate(values):
        if step == interrupted:
            parts = EpochMetrics(json.loads(json.dumps(parts.saved())))
        for metrics in (whole, parts):
            metrics.add(step, {"loss": jnp.float32(value)})
    assert whole.means() == parts.means()
    np.testing.assert_allclose(whole.means()["loss"], values.mean(), rtol=1e-6)


def test_early_stopping_waits_for_a_lower_validation_loss(tmp_path: Path):
    still = OptimiserConfig(name="sgd", learning_rate=1e-30, warmup_fraction=0)
    training = dataclasses.replace(PLAIN, optimiser=still, epochs=9, patience=2)
    _, history = fit(SMALL, training, split(24), split(10, 1), tmp_path, Silent())
    losses = [record["validation_loss"] for record in history]
    assert len(losses) < 9
    assert len(losses) - 1 - int(np.argmin(losses)) == 2
    observer = Silent()
    _, again = fit(SMALL, training, split(24), split(10, 1), tmp_path, observer)
    assert again == history
    assert [what for what, _ in observer.told] == ["start"]


def test_the_best_epoch_can_be_that_of_the_interventions(tmp_path: Path):
    training = dataclasses.replace(PLAIN, epochs=4, select_by="interventions")
    _, history = fit(SMALL, training, split(24), split(10, 1), tmp_path, Silent())
    right = {record["step"]: record["validation_exchanged_accuracy"] for record in history}
    assert all(0 <= share <= 1 for share in right.values())
    kept = [int(folder.name) for folder in (tmp_path / "best").iterdir() if folder.name.isdigit()]
    assert [right[step] for step in kept] == [max(right.values())]
    with pytest.raises(UserError, match="interventions"):
        dataclasses.replace(PLAIN, select_by="intervention")


def test_records_are_written_as_json_lines(tmp_path: Path):
    _, history = fit(SMALL, PLAIN, split(24), split(10, 1), tmp_path, Silent())
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == history
    first, second = history
    assert first["seconds"] > first["first_step_seconds"] > 0
    assert "first_step_seconds" not in second
    for record in history:
        assert record["images_per_second"] == pytest.approx(8 * record["steps_per_second"])


def test_a_profile_of_some_steps(tmp_path: Path):
    training = dataclasses.replace(PLAIN, profile_steps=(2, 3))
    fit(SMALL, training, split(24), split(10, 1), tmp_path, Silent())
    assert len(list((tmp_path / "profile").rglob("*.xplane.pb"))) == 1


def test_a_profile_that_cannot_be_written(tmp_path: Path):
    training = dataclasses.replace(PLAIN, profile_steps=(2, 3))
    (tmp_path / "profile").write_text("")
    with pytest.raises(UserError, match=r"profile cannot be written to .* leave out --profile"):
        fit(SMALL, training, split(24), split(10, 1), tmp_path, Silent())


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("epochs", 0), ("batch_size", 0), ("seed", -1), ("patience", -1), ("profile_steps", (3, 2)),
    ],
)  # fmt: skip
def test_options_out_of_range(field: str, value: object):
    found = re.escape(f"training: {field} is {value}")
    with pytest.raises(UserError, match=rf"{found}.*expected"):
        dataclasses.replace(ISNET, **{field: value})


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("optimiser.learning_rate", 1e308),
        ("optimiser.learning_rate", 1e-60),
        ("objective.lrp_epsilon", 1e39),
        ("objective.background_scale", 1e-50),
        ("objective.foreground_range", (1.0, 1e300)),
        ("objective.classification.class_weights", (1.0, 1e308)),
        ("objective.heatmap_schedule", ((10**20, 0.5),)),
        ("objective.exchange.max_shrink", 10**30),
        ("checkpoints.keep_last", 2**31),
        ("epochs", 10**10),
    ],
)
def test_numbers_beyond_what_networks_compute_with(option: str, value: object):
    """They would be infinite or 0 there, or overflow."""

    def changed(options, names):
        inner = value if len(names) == 1 else changed(getattr(options, names[0]), names[1:])
        return dataclasses.replace(options, **{names[0]: inner})

    with pytest.raises(UserError, match=rf"{option} is .*expected"):
        changed(ISNET, option.split("."))


def test_more_steps_than_can_be_counted():
    training = dataclasses.replace(PLAIN, epochs=10**9)
    training.make_optimiser(SMALL.create(0), 2 * 10**9)
    with pytest.raises(UserError, match=r"1,000,000,000 epochs are 3,000,000,000 steps"):
        training.make_optimiser(SMALL.create(0), 3 * 10**9)
