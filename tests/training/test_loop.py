"""The loop: one trace, no waiting for the device but to log, every validation sample counted."""

import dataclasses
from pathlib import Path

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_training import ISNET, PLAIN, SMALL, Silent, arrays, split, timeless

from isnet_jax import Classification, UserError
from isnet_jax.training import (
    compile_evaluation,
    fit,
    init_state,
    loop,
    make_step,
    objective,
)


def test_a_whole_training_traces_its_step_once(tmp_path: Path, monkeypatch):
    def counted(*args, **options):
        return chex.assert_max_traces(make_step(*args, **options), n=1)

    chex.clear_trace_counter()
    monkeypatch.setattr(loop, "make_step", counted)
    observer = Silent()
    fit(SMALL, PLAIN, split(26), split(10, 1), tmp_path, observer)
    assert [step for what, step in observer.told if what == "step"] == [1, 2, 3, 4, 5, 6]
    # The counter counts: another shape is another trace.
    model = SMALL.create()
    optimiser = PLAIN.optimiser.make(2)
    step = jax.jit(counted(model, objective(Classification()), optimiser))
    state = init_state(model, optimiser, jax.random.key(0))
    step(state, split(2).batch(slice(None)))
    with pytest.raises(AssertionError, match="traced"):
        step(state, split(3).batch(slice(None)))


def test_the_same_seed_gives_the_same_run_and_another_one_does_not(tmp_path: Path):
    def run(name, seed):
        training = dataclasses.replace(PLAIN, seed=seed, max_shift=1)
        model, history = fit(SMALL, training, split(24), split(10, 1), tmp_path / name, Silent())
        return arrays(model), timeless(history)

    first, again, other = run("a", 0), run("b", 0), run("c", 1)
    jax.tree.map(np.testing.assert_array_equal, first, again)
    assert any((first[0][name] != other[0][name]).any() for name in first[0])


def test_the_host_waits_only_to_log(monkeypatch):
    """Counts every device-to-host transfer; transfer guards do not see those of the CPU."""
    transfers = []
    kind = type(jnp.zeros(()))
    read = kind._value

    def counting(array):
        transfers.append(array.shape)
        return read.fget(array)

    model = SMALL.create()
    optimiser = PLAIN.optimiser.make(25)
    step = jax.jit(make_step(model, objective(Classification()), optimiser))
    state = init_state(model, optimiser, jax.random.key(0))
    batches = PLAIN.batches(split(24))
    state, _ = step(state, next(batches))
    monkeypatch.setattr(kind, "_value", property(counting))
    float(jnp.ones(()))
    assert len(transfers) == 1
    transfers.clear()
    seen = []

    class Counting(Silent):
        def on_step(self, step, metrics):
            seen.append((len(transfers), metrics is not None))

    loop._epoch(step, state, batches, range(25), Counting())
    fetched = 4  # loss, accuracy, classification, gradient_norm
    assert [n for n, _ in seen] == [0] * 9 + [fetched] * 10 + [2 * fetched] * 6
    assert [number + 1 for number, (_, logged) in enumerate(seen) if logged] == [10, 20]


@pytest.mark.parametrize("count", [1, 5, 16, 23, 40])
def test_validation_counts_every_sample_once(count: int):
    model = SMALL.create()
    state = init_state(model, PLAIN.optimiser.make(1), jax.random.key(0))
    evaluate = compile_evaluation(model, objective(Classification()))
    samples = split(count)
    key = jax.random.key(0)
    one_by_one = [evaluate(state, samples.batch([i]), key)["loss"] for i in range(count)]
    found = loop._validate(evaluate, state, samples, PLAIN)
    np.testing.assert_allclose(found["loss"], np.mean(one_by_one), rtol=1e-5)


@pytest.mark.parametrize(
    ("count", "largest", "sizes"),
    [(500, 128, [125] * 4), (16, 16, [16]), (23, 16, [12, 11]), (30, 16, [15, 15]), (1, 9, [1])],
)
def test_chunks_are_even(count: int, largest: int, sizes: list[int]):
    chunks = loop._even_chunks(count, largest)
    assert [len(chunk) for chunk in chunks] == sizes
    np.testing.assert_array_equal(np.concatenate(chunks), np.arange(count))


def test_fewer_samples_than_a_batch(tmp_path: Path):
    with pytest.raises(UserError, match="5 examples do not fill one batch of 8"):
        fit(SMALL, PLAIN, split(5), split(5), tmp_path, Silent())


@pytest.mark.parametrize("at_fault", ["loss", "nonfinite"])
def test_divergence_is_noticed_at_the_next_look(at_fault: str):
    metrics = {"loss": jnp.ones(()), "nonfinite": jnp.zeros((), int)}
    metrics[at_fault] = jnp.full((), jnp.nan) if at_fault == "loss" else jnp.ones((), int)
    observer = Silent()
    with pytest.raises(UserError, match=r"diverged in epoch 2: .*checkpoint of epoch 1 is kept"):
        loop._epoch(lambda s, b: (s, metrics), None, iter(range(99)), range(50, 100), observer)
    assert len(observer.told) == loop.FETCH_EVERY - 1


@pytest.mark.parametrize(
    ("field", "value"), [("epochs", 0), ("batch_size", 0), ("max_shift", -1), ("seed", -1)]
)
def test_options_out_of_range(field: str, value: int):
    with pytest.raises(UserError, match=rf"training: {field} is {value}.*expected"):
        dataclasses.replace(ISNET, **{field: value})
