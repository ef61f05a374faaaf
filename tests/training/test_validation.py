"""Validation: every sample counts once, however the split is taken in parts."""

import dataclasses

import jax
import numpy as np
import pytest
from tiny_training import SMALL, split

from isnet_jax import Classification, ISNetConfig
from isnet_jax.objective.batch import Batch, Whole
from isnet_jax.objective.exchange import Exchange
from isnet_jax.training import MeshConfig, build_validation, init_state
from isnet_jax.training.optimiser import OptimiserConfig
from isnet_jax.training.validation import Validation, even_parts

WEIGHTED = Classification(class_weights=(1.0, 2.0, 5.0))
ISNET = ISNetConfig(variant="stochastic", classification=WEIGHTED, batch_stats="gradient")


@pytest.mark.parametrize("config", [WEIGHTED, ISNET], ids=["plain", "isnet"])
@pytest.mark.parametrize("largest", [1, 5, 16])
def test_parts_make_the_whole(config, largest: int):
    """Class weights, samples without a mask and random choices included."""
    model = SMALL.create()
    state = init_state(model, OptimiserConfig().make(1), jax.random.key(0))
    samples = dataclasses.replace(split(13), has_mask=np.arange(13) % 4 > 1)
    everything = samples.batch(slice(None))
    validate = jax.jit(build_validation(model, config))
    whole = Whole(samples.labels, samples.has_mask)
    expected = validate(state, Batch.of(everything), whole)
    validation = Validation(model, config, MeshConfig("single").launcher(8), samples, largest)
    found = validation.metrics(state)
    assert found.keys() == expected.keys()
    for name in set(found) - {"nonfinite"}:
        np.testing.assert_allclose(found[name], expected[name], rtol=1e-5, err_msg=name)


def test_every_sample_is_explained_and_p_is_constant():
    model = SMALL.create()
    state = init_state(model, OptimiserConfig().make(1), jax.random.key(0))
    batch = split(4).batch(slice(None))
    found = []
    for config in (
        ISNetConfig(heatmap_fraction=0.5, heatmap_schedule=((0, 0.0), (9, 0.7))),
        ISNetConfig(),
    ):
        validate = jax.jit(build_validation(model, config))
        found.append(validate(state, Batch.of(batch), Whole(batch["label"])))
    jax.tree.map(np.testing.assert_array_equal, *found)


def test_the_accuracy_is_that_of_the_images_as_they_are():
    model = SMALL.create()
    state = init_state(model, OptimiserConfig().make(1), jax.random.key(0))
    batch, accuracies = split(12).batch(slice(None)), []
    for exchange in (Exchange(), Exchange(1.0), Exchange(1.0, consistency=1.0)):
        config = ISNetConfig(exchange=exchange)
        validate = jax.jit(build_validation(model, config))
        found = validate(state, Batch.of(batch), Whole(batch["label"]))
        accuracies.append(float(found["accuracy"]))
    assert accuracies[0] == accuracies[1] == accuracies[2]


@pytest.mark.parametrize(
    ("count", "largest", "sizes"),
    [
        (500, 128, [125] * 4),
        (16, 16, [16]),
        (23, 16, [12, 11]),
        (30, 16, [15, 15]),
        (1, 9, [1]),
        (0, 9, []),
    ],
)
def test_parts_are_even(count: int, largest: int, sizes: list[int]):
    parts = even_parts(count, largest)
    assert [len(part) for part in parts] == sizes
    assert [index for part in parts for index in part] == [*range(count)]
