"""Training from weights that are there: what is loaded, what moves, and how far."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from tiny_training import ISNET, PLAIN, SMALL, Silent, arrays, split

from isnet_jax import UserError, models
from isnet_jax.training import (
    Checkpoints,
    FineTuneConfig,
    OptimiserConfig,
    TrainConfig,
    build_step,
    fit,
    init_state,
    load_network,
)
from isnet_jax.training.start import start

SGD = OptimiserConfig(
    name="sgd", learning_rate=0.5, warmup_fraction=0, final_fraction=1, momentum=0, clip_norm=0
)


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trained network of five classes: its statistics are none of a fresh one's."""
    path = tmp_path_factory.mktemp("weights") / "small.safetensors"
    model = models.create("small", num_classes=5, rngs=nnx.Rngs(9))
    model(jnp.linspace(0, 1, 2 * 12 * 12 * 3).reshape(2, 12, 12, 3))
    models.save_weights(model, path)
    return path


def tuned(given: TrainConfig = PLAIN, **options: Any) -> TrainConfig:
    return dataclasses.replace(given, optimiser=SGD, fine_tune=FineTuneConfig(**options))


def moves(training: TrainConfig, steps: int = 2) -> tuple[dict[str, float], dict[str, float]]:
    """By how much each array moves in the first step, and in all of them."""
    _, state, step = start(SMALL, training, steps)
    before = [named(state)]
    for _ in range(steps):
        state, _ = step(state, split(8).batch(slice(None)))
        before.append(named(state))
    first, last = (
        {name: float(np.abs(after[name] - before[0][name]).max()) for name in after}
        for after in (before[1], before[-1])
    )
    return first, last


def named(state: Any) -> dict[str, np.ndarray]:
    pairs = jax.tree_util.tree_flatten_with_path((state.parameters, state.rest))[0]
    return {
        jax.tree_util.keystr(path[1:-1], simple=True, separator="."): np.asarray(leaf)
        for path, leaf in pairs
    }


def still(found: dict[str, float]) -> set[str]:
    return {name.split(".")[0] for name, distance in found.items() if distance == 0}


@pytest.mark.parametrize("training", [PLAIN, ISNET], ids=["plain", "isnet"])
def test_frozen_stages_stay_with_their_statistics(weights: Path, training: TrainConfig):
    assert still(moves(tuned(training, weights=weights, freeze=2))[1]) == {
        "conv1", "bn1", "conv2", "bn2",
    }  # fmt: skip


def test_all_but_the_head_is_frozen_and_takes_no_memory(weights: Path):
    training = tuned(weights=weights, freeze=-1)
    assert still(moves(training)[1]) == {"conv1", "bn1", "conv2", "bn2", "conv3"}
    adam = dataclasses.replace(training, optimiser=OptimiserConfig())
    _, state, _ = start(SMALL, adam, 2)
    head = 2 * (16 * 3 + 3)
    assert head <= sum(leaf.size for leaf in jax.tree.leaves(state.optimiser)) < head + 10


def test_the_head_alone_first(weights: Path):
    first, last = moves(tuned(weights=weights, head_first=0.5), steps=4)
    assert {"conv1", "conv3"} <= still(first)
    assert first["fc.bias"] > 0
    assert not still(last)


def test_rates_fall_towards_the_input(weights: Path):
    even, _ = moves(tuned(weights=weights))
    falling, _ = moves(tuned(weights=weights, layer_decay=0.5))
    for name, power in (
        ("conv1.kernel", 3),
        ("conv2.kernel", 2),
        ("conv3.bias", 1),
        ("fc.bias", 0),
    ):
        assert falling[name] == pytest.approx(even[name] * 0.5**power, rel=1e-4)


def test_statistics_stay_and_are_used(weights: Path):
    _, last = moves(tuned(weights=weights, freeze_statistics=True))
    assert last["bn1.mean"] == last["bn2.var"] == 0 < last["bn1.scale"]
    model, state, step = start(SMALL, tuned(weights=weights, freeze_statistics=True), 2)
    batch = split(8).batch(slice(None))
    network = nnx.merge(nnx.graphdef(model), state.parameters, state.rest, copy=True)
    network.eval()
    losses = optax.softmax_cross_entropy_with_integer_labels(
        network(jnp.asarray(batch["image"])), batch["label"]
    )
    expected = float(losses.mean())
    _, metrics = step(state, batch)
    assert float(metrics["loss"]) == pytest.approx(expected, rel=1e-5)


def test_nothing_asked_for_changes_nothing():
    model = SMALL.create()
    rule = SGD.make(3)
    assert FineTuneConfig().optimiser(rule, model, 3, 1) is rule
    assert init_state(model, rule, jax.random.key(0)).average is None


def test_a_new_head_where_the_classes_differ_and_what_is_said(weights: Path, tmp_path: Path):
    observer = Silent()
    training = tuned(weights=weights, freeze=-1)
    network, _ = fit(SMALL, training, split(24), split(6, 1), tmp_path / "a", observer)
    said = [text for what, text in observer.told if what == "notice"]
    assert said == [f"14 arrays from {weights}; new: fc.bias, fc.weight"]
    stored = models.read_weights(weights)
    np.testing.assert_array_equal(arrays(network)["['conv1']['bias'].value"], stored["conv1.bias"])
    # Gone on with, or of the same classes: nothing is read again, or the head is taken too.
    weights.rename(tmp_path / "moved")
    again = Silent()
    fit(SMALL, training, split(24), split(6, 1), tmp_path / "a", again)
    assert not [text for what, text in again.told if what == "notice"]
    (tmp_path / "moved").rename(weights)
    told: list[str] = []
    five = models.create("small", num_classes=5, rngs=nnx.Rngs(1))
    FineTuneConfig(weights=weights).load(five, told.append)
    assert told == [f"16 arrays from {weights}; the head too"]
    with pytest.raises(UserError, match="wrong shape"):
        FineTuneConfig(weights=weights, head="load").load(SMALL.create())


def test_weights_of_half_precision_are_trained_in_the_network_s(tmp_path: Path):
    half = models.create("small", num_classes=3, rngs=nnx.Rngs(0))
    stored = {n: np.asarray(v[...], np.float16) for n, v in models.torch_names(half).items()}
    stored = {n: a.transpose((3, 2, 0, 1)) if a.ndim == 4 else a.T for n, a in stored.items()}
    models.load_torch(half, stored)
    models.save_weights(half, tmp_path / "half.safetensors")
    model = SMALL.create(1)
    FineTuneConfig(weights=tmp_path / "half.safetensors").load(model)
    assert {variable.dtype for variable in models.torch_names(model).values()} == {
        jnp.dtype("float32")
    }


def test_the_mean_of_the_weights_is_judged_and_kept(tmp_path: Path):
    """By hand: each mean moves by 1 - min(decay, (1 + step) / (10 + step)) towards the value."""
    optimiser = dataclasses.replace(SGD, average=0.5)
    training = dataclasses.replace(PLAIN, optimiser=optimiser, epochs=1)
    model = SMALL.create(training.seed)
    rule = training.make_optimiser(model, 3)
    state = init_state(model, rule, jax.random.key(training.seed), average=True)
    step = jax.jit(build_step(model, training.make_loss(model), rule, average=0.5))
    batches, mean = training.batches(split(24)), named(state)
    for number in range(3):
        state, _ = step(state, next(batches))
        share = 1 - min(0.5, (1 + number) / (10 + number))
        mean = {name: mean[name] + share * (named(state)[name] - mean[name]) for name in mean}
    network, _ = fit(SMALL, training, split(24), split(6, 1), tmp_path, Silent())
    found = arrays(network)
    assert found["['fc']['bias'].value"] == pytest.approx(mean["fc.bias"], abs=1e-6)
    assert found["['bn1']['mean'].value"] == pytest.approx(mean["bn1.mean"], abs=1e-6)
    loaded, _ = load_network(tmp_path)
    jax.tree.map(np.testing.assert_array_equal, arrays(loaded), found)
    with Checkpoints(tmp_path) as checkpoints:
        resumed = checkpoints.resume(state)
    assert resumed is not None
    assert np.abs(named(resumed[0])["fc.bias"] - mean["fc.bias"]).max() > 1e-4


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"freeze": -2}, "freeze is -2; expected a number of stages"),
        ({"head_first": 1.0}, "head_first is 1.0"),
        ({"layer_decay": 0.0}, "layer_decay is 0.0"),
        ({"head": "keep"}, "unknown head 'keep'"),
    ],
)
def test_options_out_of_range(options: dict[str, Any], message: str):
    with pytest.raises(UserError, match=message):
        FineTuneConfig(**options)


def test_what_cannot_be_done_is_said_before_training(weights: Path):
    with pytest.raises(UserError, match="freeze would keep random values"):
        FineTuneConfig(freeze=1).load(SMALL.create())
    with pytest.raises(UserError, match="freeze is 9, but a Small has 3 stages"):
        FineTuneConfig(weights=weights, freeze=9).frozen(SMALL.create())  # pyright: ignore
    with pytest.raises(UserError, match="cannot be read"):
        FineTuneConfig(weights=weights.with_name("absent.pth")).fingerprint()
