"""Random transformations: image and mask move alike, exactly where they can."""

import json

import numpy as np
import own_pictures as own
import pytest

from isnet_jax.data import Augmentation, Split, train_iterator
from isnet_jax.errors import UserError

EVERYTHING = Augmentation(
    max_shift=1, max_rotation=30, min_crop=0.8, flip_horizontal=True, flip_vertical=True
)


def split(count: int = 12, side: int = 16) -> Split:
    """Images that are white exactly where their mask is."""
    masks = np.zeros((count, side, side, 1), np.uint8)
    for number in range(count):
        masks[number, 3 + number % 3 : 10, 2:9] = 255
        masks[number, 5:8, 9 : 10 + number % 4] = 255
    return Split(
        images=np.repeat(masks, 3, axis=3),
        masks=masks,
        labels=np.arange(count, dtype=np.int32) % 2,
        ids=tuple(map(str, range(count))),
        class_names=("a", "b"),
    )


def batch(count: int = 12) -> dict:
    return dict(split(count).batch(slice(None)))


def test_nothing_by_default():
    assert not Augmentation()
    assert EVERYTHING
    before = batch()
    after = Augmentation()(before, np.random.default_rng(0))
    assert all(np.array_equal(before[key], after[key]) for key in before)


@pytest.mark.parametrize(
    "augmentation",
    [
        EVERYTHING,
        Augmentation(max_rotation=180),
        Augmentation(min_crop=0.5),
        Augmentation(max_shift=3),
    ],
    ids=["everything", "rotation", "crop", "shift"],
)
def test_masks_stay_binary_and_images_go_with_them(augmentation: Augmentation):
    before = batch()
    after = augmentation(before, np.random.default_rng(1))
    assert not np.array_equal(after["mask"], before["mask"])
    assert set(np.unique(after["mask"])) == {0, 1}
    # The image was the mask: it differs by the interpolation at the border at most.
    assert np.abs(after["image"] - after["mask"]).mean() < 0.05
    assert ((after["image"] > 0.5) == (after["mask"] > 0.5)).mean() > 0.98
    assert np.array_equal(after["label"], before["label"])


def test_flips_are_exact():
    before = {"image": own.pixels(0)[None].astype(np.float32) / 255, "label": np.zeros(1)}
    before["mask"] = own.drawn(5)[None, ..., None].astype(np.float32)
    seen = set()
    rng = np.random.default_rng(0)
    for _ in range(40):
        after = Augmentation(flip_horizontal=True, flip_vertical=True)(before, rng)
        found = [
            (rows, columns)
            for rows in (1, -1)
            for columns in (1, -1)
            if all(
                np.array_equal(after[key], before[key][:, ::rows, ::columns])
                for key in ("image", "mask")
            )
        ]
        assert len(found) == 1
        seen.update(found)
    assert len(seen) == 4


def test_rotations_keep_to_their_range_and_crops_to_the_image():
    rng = np.random.default_rng(0)
    turns = Augmentation(max_rotation=30)
    angles = [np.degrees(np.arctan2(*turns.draw(9, 16, rng)[1::-1, 0])) for _ in range(200)]
    assert -30 <= min(angles) < -25
    assert 25 < max(angles) <= 30
    shares = []
    for _ in range(200):
        matrix = Augmentation(min_crop=0.5).draw(9, 16, rng)
        corners = matrix @ np.array([[0, 0, 1], [16, 9, 1]]).T
        assert (corners[:2] >= -1e-9).all()
        assert (corners[:2] <= np.array([[16], [9]]) + 1e-9).all()
        shares.append(matrix[0, 0])
    assert 0.5 <= min(shares) < 0.55
    assert 0.95 < max(shares) <= 1


def test_a_sample_keeps_its_foreground():
    before = batch()
    before["mask"] = np.zeros_like(before["mask"])
    before["mask"][:, 0, 0] = 1
    rng = np.random.default_rng(0)
    for _ in range(20):
        after = Augmentation(max_shift=8)(before, rng)
        assert after["mask"].any((1, 2, 3)).all()
        kept = (after["mask"] == before["mask"]).all((1, 2, 3))
        assert kept.any()
        assert all(np.array_equal(after["image"][i], before["image"][i]) for i in np.where(kept)[0])


def test_samples_without_a_mask_are_moved_too():
    before = batch() | {"has_mask": np.zeros(12, bool)}
    before["mask"] = np.zeros_like(before["mask"])
    after = EVERYTHING(before, np.random.default_rng(0))
    assert not after["mask"].any()
    assert not np.array_equal(after["image"], before["image"])
    assert np.array_equal(after["has_mask"], before["has_mask"])


@pytest.mark.parametrize("consumed", [0, 5])
def test_resuming_is_exact(consumed: int):
    def fresh():
        return train_iterator(split(), 5, seed=3, augmentation=EVERYTHING)

    iterator = fresh()
    for _ in range(consumed):
        next(iterator)
    state = json.loads(json.dumps(iterator.get_state()))
    expected = [next(iterator) for _ in range(5)]
    resumed = fresh()
    resumed.set_state(state)
    for wanted in expected:
        found = next(resumed)
        assert all(np.array_equal(wanted[key], found[key]) for key in wanted)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_shift": -1}, "max_shift is -1 pixels"),
        ({"max_rotation": 181}, "max_rotation is 181 degrees"),
        ({"max_rotation": float("nan")}, "max_rotation is nan"),
        ({"min_crop": 0}, "min_crop is 0"),
        ({"min_crop": 1.1}, r"min_crop is 1\.1"),
    ],
)
def test_options_out_of_range(options: dict, message: str):
    with pytest.raises(UserError, match=message):
        Augmentation(**options)
