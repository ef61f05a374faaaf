"""Predictions in chunks, accuracy, and the background's share of relevance."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_training import SMALL, split

from isnet_jax import lrp
from isnet_jax.evaluation import accuracy, background_share, highest_logit_relevance, predict
from isnet_jax.evaluation.background import JUDGE, relevance_mass, relevance_rank
from isnet_jax.evaluation.predict import chunks


@pytest.mark.parametrize(("count", "size"), [(7, 3), (6, 3), (2, 5), (1, 1)])
def test_chunks_cover_every_sample_once(count: int, size: int):
    found = list(chunks(count, size))
    assert {len(indices) for indices, _ in found} == {size}
    assert np.concatenate([indices[:valid] for indices, valid in found]).tolist() == list(
        range(count)
    )


def test_predictions_do_not_depend_on_chunks_and_are_the_bare_models():
    model = SMALL.create()
    model.eval()
    images = split(7).batch(slice(None))["image"]
    logits = predict(model, images, batch_size=3)
    assert logits.shape == (7, 3)
    np.testing.assert_allclose(logits, predict(model, images), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(logits, model(jnp.asarray(images)), rtol=1e-4, atol=1e-6)


def test_accuracy():
    logits = np.array([[2.0, 1.0], [0.0, 1.0], [3.0, 1.0], [0.0, 5.0]])
    assert accuracy(logits, np.array([0, 0, 0, 1])) == 0.75


def test_relevance_is_that_of_the_highest_logit():
    model = SMALL.create()
    model.eval()
    images = split(5).batch(slice(None))["image"]
    found = highest_logit_relevance(model, images, batch_size=2)
    assert found.shape == images.shape
    logits, every = lrp.relevance(model, jnp.asarray(images), target="all", rules=JUDGE)
    highest = np.asarray(every)[np.arange(5), np.argmax(logits, 1)]
    np.testing.assert_allclose(found, highest, rtol=1e-3, atol=1e-5)


def test_background_share():
    masks = np.zeros((3, 2, 2, 1), np.float32)
    masks[:, 0] = 1
    relevance = np.zeros((3, 2, 2, 3), np.float32)
    relevance[0, 0, 0] = 3, -3, 0  # Signs and channels do not cancel.
    relevance[0, 1, 1] = 0, 0, -2
    relevance[1, 1, 0] = 1  # All on the background; the third sample has none at all.
    assert background_share(relevance, masks) == pytest.approx((0.25 + 1 + 0) / 3)


def test_relevance_mass_and_rank():
    masks = np.zeros((4, 2, 2, 1), np.float32)
    masks[:3, 0] = 1
    relevance = np.zeros((4, 2, 2, 3), np.float32)
    relevance[0, 0, 0] = 3, -1, 1  # Channels cancel; the pixel has 3.
    relevance[0, 0, 1] = -5  # Negative pixels do not count, but are the last.
    relevance[0, 1, 1] = 1, 0, 0
    relevance[1, 1, 0] = 1  # All on the background, and the rest is a tie.
    relevance[3] = 1  # The third has no relevance, the fourth no object.
    np.testing.assert_allclose(relevance_mass(relevance, masks), [0.75, 0, np.nan, np.nan])
    np.testing.assert_allclose(relevance_rank(relevance, masks), [0.5, 0.5, np.nan, np.nan])


def test_judging_leaves_the_network_as_it_is():
    model = SMALL.create()
    before = [np.asarray(leaf) for leaf in jax.tree.leaves(model)]
    predict(model, split(2).batch(slice(None))["image"])
    after = jax.tree.leaves(model)
    assert all((a == b).all() for a, b in zip(before, after, strict=True))
