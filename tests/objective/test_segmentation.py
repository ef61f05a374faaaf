"""The segmenter's loss against formulas by hand."""

from __future__ import annotations

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest

from isnet_jax import UserError
from isnet_jax.objective.batch import Batch
from isnet_jax.objective.segmentation import Segmentation, overlap, segmentation_loss

RNG = np.random.default_rng(0)
LOGITS = RNG.normal(size=(4, 6, 6, 1)).astype(np.float32)
MASKS = (RNG.random((4, 6, 6, 1)) > 0.6).astype(np.float32)
BATCH = Batch(jnp.zeros((4, 6, 6, 3)), np.zeros(4, int), jnp.asarray(MASKS))


def loss(batch: Batch = BATCH, dice_weight: float = 0.5):
    return segmentation_loss(lambda x: jnp.asarray(LOGITS), batch, Segmentation(dice_weight))  # pyright: ignore


def test_cross_entropy_and_dice_by_hand():
    share = 1 / (1 + np.exp(-LOGITS.astype(np.float64)))
    cross = -(MASKS * np.log(share) + (1 - MASKS) * np.log(1 - share)).mean((1, 2, 3))
    both = (share * MASKS).sum((1, 2, 3))
    dice = (2 * both + 1) / (share.sum((1, 2, 3)) + MASKS.sum((1, 2, 3)) + 1)
    assert float(loss(dice_weight=0.0)[0]) == pytest.approx(cross.mean(), rel=1e-5)
    assert float(loss(dice_weight=1.0)[0]) == pytest.approx((1 - dice).mean(), rel=1e-5)
    found = LOGITS > 0
    hits = (found & (MASKS > 0)).sum((1, 2, 3))
    iou = hits / (found | (MASKS > 0)).sum((1, 2, 3))
    _, aux = loss()
    assert float(aux["iou"]) == pytest.approx(iou.mean(), rel=1e-5)
    expected = 2 * hits / (found.sum((1, 2, 3)) + MASKS.sum((1, 2, 3)))
    assert float(aux["dice"]) == pytest.approx(expected.mean(), rel=1e-5)


def test_samples_without_a_mask_do_not_count():
    some = dataclasses.replace(BATCH, has_mask=np.array([True, False, True, False]))
    half = Batch(BATCH.image[::2], BATCH.label[::2], BATCH.mask[::2])
    config = Segmentation()
    expected, _ = segmentation_loss(lambda x: jnp.asarray(LOGITS[::2]), half, config)  # pyright: ignore
    assert float(loss(some)[0]) == pytest.approx(float(expected), rel=1e-5)


def test_nothing_found_where_nothing_is():
    empty = np.zeros((1, 2, 2, 1), bool)
    assert [float(x[0]) for x in overlap(empty, empty)] == [1.0, 1.0]
    assert [float(x[0]) for x in overlap(~empty, empty)] == [0.0, 0.0]
    with pytest.raises(UserError, match="dice_weight is 2"):
        Segmentation(2)
