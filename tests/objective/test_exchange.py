"""Backgrounds exchanged within a batch: what stays, what comes, and what the loss is of it."""

from __future__ import annotations

import dataclasses
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers import of_parameters
from small_isnet import BASE, batch_of, compiled, small

from isnet_jax import UserError, isnet_loss, plain_loss
from isnet_jax.objective import Exchange
from isnet_jax.objective.exchange import both_views, exchanged, filled_background, shrunk
from isnet_jax.objective.loss import exchange_loss

KEY = jax.random.key(3)
ALWAYS = Exchange(probability=1.0)
COUNT, SIDE = 6, 8


def coloured_batch() -> dict[str, jax.Array]:
    """Sample n has the background (n + 1) / 10 everywhere, and a white 3 x 3 object."""
    levels = (jnp.arange(COUNT) + 1) / 10
    mask = jnp.zeros((COUNT, SIDE, SIDE, 1)).at[:, 2:5, 3:6].set(1)
    image = jnp.where(mask > 0, 1.0, levels[:, None, None, None]) * jnp.ones(3)
    return {"image": image, "mask": mask, "label": jnp.arange(COUNT)}


def backgrounds(batch: dict[str, Any]) -> np.ndarray:
    """The number of the sample that each background is of; all of it must be of one sample."""
    values = np.where(batch["mask"] > 0, np.nan, batch["image"])
    low, high = np.nanmin(values, (1, 2, 3)), np.nanmax(values, (1, 2, 3))
    np.testing.assert_allclose(low, high)
    return np.rint(10 * low - 1).astype(int)


def test_objects_stay_and_backgrounds_are_others():
    batch = coloured_batch()
    seen = set()
    for seed in range(40):
        after = exchanged(batch, ALWAYS, jax.random.key(seed))
        np.testing.assert_array_equal(after["label"], batch["label"])
        on_object = np.broadcast_to(np.asarray(batch["mask"]) > 0, batch["image"].shape)
        assert (np.asarray(after["image"])[on_object] == 1).all()
        donors = backgrounds(after)
        assert (donors != np.arange(COUNT)).all()
        seen |= set(enumerate(donors.tolist()))
    assert len(seen) == COUNT * (COUNT - 1)


def test_the_share_that_is_exchanged():
    batch = coloured_batch()
    config = Exchange(probability=0.5)
    run = jax.jit(lambda key: exchanged(batch, config, key)["image"])
    kept = [
        backgrounds({**batch, "image": run(jax.random.key(seed))}) == np.arange(COUNT)
        for seed in range(60)
    ]
    assert np.mean(kept) == pytest.approx(0.5, abs=0.1)


def test_samples_without_a_mask_take_no_part():
    there = jnp.array([True, False, True, True, False, True])
    batch = coloured_batch()
    batch["mask"] = batch["mask"] * there[:, None, None, None]
    batch["has_mask"] = there
    for seed in range(10):
        after = exchanged(batch, ALWAYS, jax.random.key(seed))
        np.testing.assert_array_equal(after["image"][~there], batch["image"][~there])
        rows = {name: np.asarray(after[name])[there] for name in ("image", "mask")}
        assert not set(backgrounds(rows)) & {1, 4}


def test_a_single_annotated_sample_stays():
    batch = {name: values[:1] for name, values in coloured_batch().items()}
    np.testing.assert_array_equal(exchanged(batch, ALWAYS, KEY)["image"], batch["image"])


def test_a_background_shows_no_object():
    rng = np.random.default_rng(0)
    texture = rng.uniform(0, 0.5, (2, 16, 16, 3))
    mask = np.zeros((2, 16, 16, 1))
    mask[:, 6:10, 5:11] = 1
    mask[1] = 1
    shown = jnp.asarray(np.where(mask, 1.0, texture))
    filled = np.asarray(filled_background(shown, jnp.asarray(mask)))
    assert (filled[0] <= 0.5).all()
    far = texture[0][[14, 15, 0, 1]][:, [13, 14, 15, 0, 1, 2]]
    np.testing.assert_allclose(filled[0, 6:10, 5:11], far, rtol=1e-6)
    assert not filled[1].any()


def test_masks_shrink_but_never_vanish():
    mask = jnp.zeros((300, 12, 12, 1)).at[:, 1:10, 2:11].set(1).at[0].set(0).at[0, 5, 5].set(1)
    sizes = np.asarray(shrunk(mask, 3, KEY, jnp.arange(300)).sum((1, 2, 3)))
    assert sizes[0] == 1
    assert set(np.sqrt(sizes[1:]).tolist()) == {9, 7, 5, 3}
    assert np.bincount(np.sqrt(sizes[1:]).astype(int))[[9, 7, 5, 3]].min() > 45
    at_edge = jnp.ones((20, 6, 6, 1))
    np.testing.assert_array_equal(shrunk(at_edge, 3, KEY, jnp.arange(20)), at_edge)
    started = time.monotonic()
    shrunk(mask, 2 * 10**9, KEY, jnp.arange(300)).block_until_ready()
    assert time.monotonic() - started < 10


def test_the_loss_is_that_of_the_exchanged_batch(x64):
    batch = batch_of()
    config = dataclasses.replace(BASE, exchange=ALWAYS)
    key = jax.random.fold_in(KEY, 1)
    expected_batch = exchanged(batch, ALWAYS, key)
    assert float(jnp.abs(expected_batch["image"] - batch["image"]).max()) > 0.1
    loss, aux = compiled(isnet_loss)(small(True), batch, config, rng=KEY)
    expected, expected_aux = compiled(isnet_loss)(small(True), expected_batch, BASE, rng=KEY)
    assert float(loss) == pytest.approx(float(expected), rel=1e-12)
    np.testing.assert_allclose(aux["heatmaps"], expected_aux["heatmaps"], rtol=1e-9)
    alone, _ = compiled(exchange_loss)(small(True), batch, config, rng=KEY)
    plain, _ = plain_loss(small(True), expected_batch)
    assert float(alone) == pytest.approx(float(plain), rel=1e-12)


@pytest.mark.parametrize("share", [0.0, 0.2])
def test_consistency_adds_the_difference_of_the_two_views(x64, share: float):
    batch = batch_of()
    exchange = Exchange(probability=1.0, consistency=0.3, unexchanged=share)
    config = dataclasses.replace(BASE, exchange=exchange)
    views = both_views(batch, exchange, jax.random.fold_in(KEY, 1))
    size = len(batch["image"])
    np.testing.assert_array_equal(views["image"][:size], batch["image"])
    np.testing.assert_array_equal(views["label"], np.tile(batch["label"], 2))
    loss, aux = compiled(exchange_loss)(small(True), batch, config, rng=KEY)
    _, plain_aux = plain_loss(small(True), views)
    one, other = plain_aux["logits"][:size], plain_aux["logits"][size:]
    own, exchanged_ones = (
        optax.softmax_cross_entropy_with_integer_labels(logits, batch["label"]).mean()
        for logits in (one, other)
    )
    classification = share * own + (1 - share) * exchanged_ones
    expected = float(classification) + 0.3 * float(((one - other) ** 2).mean())
    assert float(loss) == pytest.approx(expected, rel=1e-12)
    assert aux["logits"].shape == plain_aux["logits"].shape
    whole, _ = compiled(isnet_loss)(small(True), batch, config, rng=KEY)
    assert np.isfinite(float(whole))


def test_parts_draw_by_their_numbers():
    batch = coloured_batch()
    moved = {**batch, "number": jnp.arange(COUNT) + 100}
    a, b = (exchanged(each, Exchange(probability=0.5), KEY)["image"] for each in (batch, moved))
    assert (np.asarray(a) != np.asarray(b)).any()


def test_it_needs_a_key_and_sensible_values():
    config = dataclasses.replace(BASE, exchange=ALWAYS)
    with pytest.raises(UserError, match="exchange needs rng"):
        jax.eval_shape(lambda: isnet_loss(small(True), batch_of(), config)[0])
    for options in (
        {"probability": 1.5},
        {"max_shrink": -1},
        {"consistency": 1.0},
        {"unexchanged": 2},
    ):
        with pytest.raises(UserError, match=next(iter(options))):
            Exchange(**options)


def test_gradients_flow(x64):
    config = dataclasses.replace(BASE, exchange=ALWAYS)
    loss, parameters = of_parameters(
        small(True), lambda model: exchange_loss(model, batch_of(), config, rng=KEY)[0]
    )
    gradient = jax.grad(loss)(parameters)
    assert max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(gradient)) > 1e-4
