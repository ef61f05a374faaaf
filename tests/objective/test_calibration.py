"""C1 and C2: the formula, what is measured, and the file that train reads."""

from __future__ import annotations

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from rich.console import Console
from small_isnet import Tapped, batch_of, compiled
from tiny_training import PLAIN, SMALL, split

from isnet_jax import Classification, ISNetConfig, UserError, isnet_loss
from isnet_jax.commands.calibrate import CalibrateBiasedDigits, run
from isnet_jax.objective.calibration import bounds, calibrated, total_relevance, write
from isnet_jax.training import build_step, calibrate, compile_step, init_state, loss_function

CONFIG = ISNetConfig(variant="stochastic", batch_stats="constant")


def test_bounds_of_hand_worked_numbers():
    narrow = np.array([9.0, 10.0, 11.0])  # mean 10, sd 1
    np.testing.assert_allclose(bounds(narrow), (7, 13))
    wide = np.array([0.0, 10.0, 20.0])  # mean 10, sd 10
    np.testing.assert_allclose(bounds(wide), (2, 40))
    skewed = np.array([0.0] * 99 + [100.0])  # mean 1, sd 10
    np.testing.assert_allclose(bounds(skewed), (0.2, 5))


@pytest.mark.parametrize("totals", [[1.0, 1.0], [0.0, 0.0], [1.0, np.nan], [2.0]])
def test_totals_that_make_no_range(totals):
    with pytest.raises(UserError, match=f"total relevance of {len(totals)} samples has mean"):
        bounds(np.array(totals))


@pytest.mark.parametrize(
    ("changes", "rows"),
    [
        ({"variant": "original"}, 1),
        ({"variant": "dual"}, 2),
        ({"variant": "selective", "softmax_epsilon": 0.0, "deep_supervision": True}, 2),
        ({"variant": "dual", "deep_supervision": ("middle", "end")}, 6),
    ],
)
def test_totals_are_those_of_the_heatmaps_that_are_trained(changes, rows):
    config = ISNetConfig(**changes)
    with jax.enable_x64(True):
        model, batch = Tapped(nnx.Rngs(0)), batch_of()
        totals = total_relevance(model, batch["image"], config, jax.random.key(2))
        _, aux = compiled(isnet_loss)(model, batch, config)
        places = (f"relevance/{name}" for name in ("middle", "end"))
        maps = [aux[name] for name in ("heatmaps", *places) if name in aux]
        sums = [jnp.abs(m).sum((2, 3, 4)) for m in maps]
        expected = jnp.concatenate(
            [s.T if config.variant == "dual" else s.mean(1)[None] for s in sums]
        )
        assert totals.shape == (rows, 3)
        np.testing.assert_allclose(totals, expected, rtol=1e-9)


def test_selective_is_measured_as_if_the_network_were_not_sure():
    """The epsilon of its log-odds would leave nothing to measure of a trained network."""
    config = ISNetConfig(variant="selective")
    with jax.enable_x64(True):
        model, batch = Tapped(nnx.Rngs(0)), batch_of()
        head = [v for _, v in nnx.to_flat_state(nnx.state(model, nnx.Param))][-1]
        head.set_value(100 * head.get_value())
        key = jax.random.key(0)
        saturated = jnp.abs(compiled(isnet_loss)(model, batch, config)[1]["heatmaps"]).sum(
            (1, 2, 3, 4)
        )
        highest = total_relevance(
            model, batch["image"], ISNetConfig(variant="stochastic"), key
        ).mean()
        assert saturated.mean() < 0.01 * highest
        assert total_relevance(model, batch["image"], config, key).mean() > 0.1 * highest


def test_the_last_epoch_of_a_plain_training_is_measured():
    """Written out: two epochs of plain steps, totals before each step of the second."""
    training = dataclasses.replace(PLAIN, objective=Classification(), epochs=2)
    train = split(24)
    told = []
    found = calibrate(SMALL, CONFIG, training, train, lambda *progress: told.append(progress))
    optimiser, model = training.optimiser.make(6), SMALL.create(training.seed)
    state = init_state(model, optimiser, jax.random.key(training.seed))
    step = compile_step(build_step(model, loss_function(Classification()), optimiser))
    totals, batches = [], training.batches(train)
    for number in range(6):
        batch = next(batches)
        if number >= 3:
            model = SMALL.create()
            nnx.update(model, state.parameters, state.rest)
            model.train()
            key = jax.random.fold_in(state.key, state.step)
            totals.append(total_relevance(model, jnp.asarray(batch["image"]), CONFIG, key))
        state, _ = step(state, batch)
    expected = np.concatenate(totals, 1)
    assert (found.samples, found.places, len(told)) == (24, ("input",), 6)
    np.testing.assert_allclose(found.mean, expected.mean(1), rtol=1e-4)
    np.testing.assert_allclose(found.foreground_range[0], bounds(expected[0]), rtol=1e-3)


@pytest.fixture(scope="module")
def calibration():
    return calibrate(SMALL, CONFIG, dataclasses.replace(PLAIN, epochs=1), split(16))


def test_the_file_gives_the_objective_its_ranges(calibration, tmp_path):
    write(calibration, tmp_path / "c.json")
    found = calibrated(CONFIG, "small", "float32", tmp_path / "c.json")
    assert found == dataclasses.replace(CONFIG, foreground_range=calibration.foreground_range)


def test_a_place_that_cannot_be_written_to(calibration, tmp_path):
    (tmp_path / "file").write_text("")
    for out in (tmp_path, tmp_path / "file" / "c.json"):
        with pytest.raises(UserError, match=r"cannot write .* Choose another --out"):
            write(calibration, out)
        with pytest.raises(UserError, match=r"cannot write .* Choose another --out"):
            run(CalibrateBiasedDigits(out=out), Console())


def test_a_file_for_other_heatmaps_is_refused(calibration, tmp_path):
    write(calibration, tmp_path / "c.json")
    other = dataclasses.replace(CONFIG, variant="selective", lrp_epsilon=0.1)
    message = (
        r"differs in:\n  model: 'small' there, 'compact' now\n  dtype: 'float32' there, "
        r"'bfloat16' now\n  variant: 'stochastic' there, "
        r"'selective' now\n  lrp_epsilon: 0.01 there, 0.1 now\nCalibrate again"
    )
    with pytest.raises(UserError, match=message):
        calibrated(other, "compact", "bfloat16", tmp_path / "c.json")


@pytest.mark.parametrize("text", ["", "{}", "[1]", json.dumps({"foreground_range": [[1]]})])
def test_files_that_are_no_calibration(text, tmp_path):
    (tmp_path / "c.json").write_text(text)
    with pytest.raises(UserError, match=r"c.json is no calibration .*; expected the file that"):
        calibrated(CONFIG, "small", "float32", tmp_path / "c.json")
    with pytest.raises(UserError, match=r"none.json is no calibration"):
        calibrated(CONFIG, "small", "float32", tmp_path / "none.json")
