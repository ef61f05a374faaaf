"""Dividing samples into splits, and bringing images to one size."""

from collections import Counter

import numpy as np
import own_pictures as own
import pytest
from hypothesis import given
from hypothesis import strategies as st

from isnet_jax.data.custom.fitting import fitted
from isnet_jax.data.custom.partition import by_fractions, require_classes
from isnet_jax.errors import UserError


def samples(**counts: int) -> dict[str, tuple[str, ...]]:
    return {f"{name}{i:04d}": (name,) for name, count in counts.items() for i in range(count)}


@given(st.integers(10, 200), st.integers(10, 200), st.integers(0, 3))
def test_every_sample_is_in_one_split_and_classes_keep_their_shares(
    cats: int, dogs: int, seed: int
):
    classes = samples(cat=cats, dog=dogs)
    members = by_fractions(classes, validation_fraction=0.1, test_fraction=0.2, seed=seed)
    assert sorted(name for split in members.values() for name in split) == sorted(classes)
    for split, fraction in (("test", 0.2), ("validation", 0.1)):
        counts = Counter(name[:3] for name in members[split])
        assert abs(counts["cat"] - fraction * cats) <= 1
        assert abs(counts["dog"] - fraction * dogs) <= 1


def test_many_small_groups_come_to_the_fractions_too():
    classes = {f"{i:03d}": (f"class{i}", "all") for i in range(100)}
    members = by_fractions(classes, validation_fraction=0.1, test_fraction=0.2, seed=0)
    assert {split: len(names) for split, names in members.items()} == {
        "train": 70,
        "validation": 10,
        "test": 20,
    }


def test_the_order_of_the_samples_does_not_matter():
    classes = samples(cat=20, dog=20)
    turned = dict(reversed(classes.items()))
    options = {"validation_fraction": 0.1, "test_fraction": 0.2, "seed": 3}
    assert by_fractions(classes, **options) == by_fractions(turned, **options)


def test_no_test_split_on_demand():
    members = by_fractions(samples(cat=20), validation_fraction=0.1, test_fraction=0.0, seed=0)
    assert sorted(members) == ["train", "validation"]


def test_empty_splits_and_missing_classes_are_told():
    with pytest.raises(UserError, match="2 samples leave the split"):
        by_fractions(samples(cat=2), validation_fraction=0.1, test_fraction=0.1, seed=0)
    classes = samples(cat=2, dog=1)
    members = {"train": ["cat0000", "cat0001"], "test": ["dog0000"]}
    with pytest.raises(UserError, match="no training sample is of the class 'dog'"):
        require_classes(members, classes, ("cat", "dog"), multi=False)
    with pytest.raises(UserError, match="at least two"):
        require_classes(members, classes, ("cat",), multi=False)
    require_classes(members, classes, ("cat",), multi=True)


@pytest.mark.parametrize("fit", ["crop", "pad", "stretch"])
@pytest.mark.parametrize("size", [(8, 8), (5, 9), (16, 16), (30, 7)])
def test_image_and_mask_are_fitted_alike(fit, size: tuple[int, int]):
    mask = np.zeros((12, 10), bool)
    mask[3:9, 2:8] = True
    image = np.where(mask, np.uint8(255), np.uint8(0))
    small, small_mask = fitted(image, size, fit), fitted(mask, size, fit)
    assert small.shape == small_mask.shape == size
    assert small_mask.dtype == bool
    wide = fitted(image.astype(np.uint16) * np.uint16(257), size, fit)
    assert np.abs(wide / 65535 - small / 255).max() < 0.01
    assert ((small > 127) == small_mask).mean() > 0.85


def test_crop_and_pad_keep_proportions_and_the_middle():
    image = own.pixels(0, height=8, width=12)
    assert np.array_equal(fitted(image, (8, 8), "crop"), image[:, 2:10])
    padded = fitted(image, (12, 12), "pad")
    assert np.array_equal(padded[2:10], image)
    assert not padded[:2].any()
    assert not padded[10:].any()
    assert fitted(image, (8, 12), "crop") is image
