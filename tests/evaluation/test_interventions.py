"""Interventions on backgrounds and objects, on networks whose answer is known."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from isnet_jax.evaluation.interventions import (
    BACKGROUNDS,
    agreement,
    background_exchanged,
    background_mean,
    heatmap_warning,
    interventions,
    object_removed,
)

COUNT, SIDE = 40, 16


class OfPixel(nnx.Module):
    """Says class 1 where one pixel is bright, 0 where it is dark."""

    def __init__(self, row: int, column: int):
        self.row, self.column = row, column

    def __call__(self, x):
        bright = x[:, self.row, self.column].mean(-1) - 0.5
        return jnp.stack([-bright, bright], 1)


@pytest.fixture(scope="module")
def drawn() -> dict[str, np.ndarray]:
    """The object and the background are bright in class 1, dark in class 0."""
    rng = np.random.default_rng(0)
    labels = np.arange(COUNT) % 2
    masks = np.zeros((COUNT, SIDE, SIDE, 1), np.float32)
    masks[:, 6:10, 6:10] = 1
    shade = 0.2 + 0.6 * labels[:, None, None, None]
    images = (shade + 0.1 * rng.random((COUNT, SIDE, SIDE, 3))).astype(np.float32)
    return {"images": images, "masks": masks, "labels": labels}


def test_a_network_that_looks_at_the_object_keeps_its_predictions(drawn):
    found = interventions(OfPixel(7, 7), **drawn)
    for name in BACKGROUNDS:
        assert found[f"background_{name}"] == found[f"agreement_{name}"] == 1.0


def test_a_network_that_looks_at_the_background_does_not(drawn):
    found = interventions(OfPixel(1, 1), **drawn)
    assert found["background_exchanged"] < 0.8
    assert found["agreement_exchanged"] < 0.8
    assert found["background_noise"] < 0.8
    assert found["background_mean"] == found["background_blurred"] == 1.0
    assert found["object_removed"] == 1.0


def test_only_what_it_should_is_changed(drawn):
    images, masks = drawn["images"], drawn["masks"]
    inside = np.broadcast_to(masks > 0, images.shape)
    for change in BACKGROUNDS.values():
        changed = change(images, masks)
        assert changed.shape == images.shape
        assert changed.dtype == np.float32
        np.testing.assert_array_equal(changed[inside], images[inside])
        assert (np.abs(changed - images)[~inside] > 1e-3).mean() > 0.5
        assert changed.min() >= 0
        assert changed.max() <= 1
    removed = object_removed(images, masks)
    np.testing.assert_allclose(removed[~inside], images[~inside], atol=1e-6)
    far = [14, 15, 0, 1]
    expected = images[:, far][:, :, far]
    np.testing.assert_allclose(removed[:, 6:10, 6:10], expected, atol=1e-6)
    mean = background_mean(images, masks)
    colour = images[0][~inside[0]].reshape(-1, 3).mean(0)
    np.testing.assert_allclose(mean[0, 0, 0], colour, rtol=1e-5)


def test_every_background_goes_to_another_image():
    images = np.broadcast_to(np.arange(7, dtype=np.float32)[:, None, None, None] / 10, (7, 4, 4, 1))
    masks = np.zeros((7, 4, 4, 1), np.float32)
    given = background_exchanged(images, masks)[:, 0, 0, 0] * 10
    assert sorted(np.rint(given).tolist()) == list(range(7))
    assert (np.rint(given) != np.arange(7)).all()


def test_an_image_alone_and_one_without_background(drawn):
    image, mask = drawn["images"][:1], drawn["masks"][:1]
    np.testing.assert_array_equal(background_exchanged(image, mask), image)
    whole = np.ones_like(drawn["masks"])
    for change in BACKGROUNDS.values():
        np.testing.assert_array_equal(change(drawn["images"], whole), drawn["images"])


def test_agreement_of_decisions_for_multi_label_data():
    before, after = np.array([[1.0, -1.0], [2.0, 3.0]]), np.array([[2.0, 1.0], [1.0, 1.0]])
    assert agreement(before, after, 2) == 0.75
    assert agreement(before, after, 1) == 0.5


def test_the_warning():
    clean = {"background_relevance": 0.1, "interventions": {"agreement_exchanged": 0.35}}
    assert "65%" in (heatmap_warning(clean) or "")
    assert heatmap_warning(clean | {"background_relevance": 0.6}) is None
    assert heatmap_warning(clean | {"interventions": {"agreement_exchanged": 0.97}}) is None
    assert heatmap_warning({"background_relevance": None, "interventions": None}) is None
