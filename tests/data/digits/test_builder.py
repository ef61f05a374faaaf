from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from isnet_jax.data import (
    SPLITS,
    TEST_SPLITS,
    BackgroundMark,
    BiasedDigits,
    BiasedDigitsConfig,
    Digits,
    Split,
    foreground_mask,
    load_digits,
    load_split,
)
from isnet_jax.data.digits.builder import Tie, make_example, split_members
from isnet_jax.errors import UserError

SMALL = BiasedDigitsConfig(limit=100, mark=BackgroundMark(kind="colour", size=4))


@pytest.fixture(scope="module")
def splits(builder: BiasedDigits) -> dict[str, Split]:
    return {name: load_split(builder, name) for name in SPLITS}


def test_splits_are_stratified_and_disjoint(splits: dict[str, Split]):
    sizes = {"train": 7, "validation": 1} | dict.fromkeys(TEST_SPLITS, 2)
    for name, per_class in sizes.items():
        assert np.bincount(splits[name].labels).tolist() == [per_class] * 10
    ids = [set(splits[name].ids) for name in ("train", "validation", "test_biased")]
    assert len(set.union(*ids)) == 100


def test_the_test_sets_differ_in_their_marks_only(splits: dict[str, Split]):
    biased, unbiased, confounding = (splits[name] for name in TEST_SPLITS)
    assert biased.ids == unbiased.ids == confounding.ids
    for split in (biased, confounding):
        np.testing.assert_array_equal(split.labels, unbiased.labels)
        np.testing.assert_array_equal(split.masks, unbiased.masks)
        on_foreground = split.masks[..., 0] > 0
        np.testing.assert_array_equal(split.images[on_foreground], unbiased.images[on_foreground])
        assert (split.images != unbiased.images).any(axis=(1, 2, 3)).all()
    marked = (biased.images != unbiased.images).any(-1)
    np.testing.assert_array_equal(marked, (confounding.images != unbiased.images).any(-1))
    own = [image[where][0].tolist() for image, where in zip(biased.images, marked, strict=True)]
    other = [image[where][0] for image, where in zip(confounding.images, marked, strict=True)]
    colour_of = dict(zip(biased.labels, own, strict=True))
    assert own == [colour_of[label] for label in biased.labels]
    label_of = {tuple(colour): label for label, colour in colour_of.items()}
    assert all(
        label_of[tuple(colour.tolist())] != label
        for colour, label in zip(other, biased.labels, strict=True)
    )


def test_unbiased_images_are_the_digits(splits: dict[str, Split], digits: Digits):
    for image, mask, label, name in zip(
        splits["test_unbiased"].images,
        splits["test_unbiased"].masks,
        splits["test_unbiased"].labels,
        splits["test_unbiased"].ids,
        strict=True,
    ):
        grey = np.pad(digits.images[int(name)], 2)
        np.testing.assert_array_equal(image, np.repeat(grey[..., None], 3, axis=-1))
        np.testing.assert_array_equal(mask[..., 0], foreground_mask(grey) * np.uint8(255))
        assert label == digits.labels[int(name)]


@pytest.mark.parametrize("tie", ["biased", "confounding"])
def test_png_round_trip_is_exact(splits: dict[str, Split], digits: Digits, tie: Tie):
    split = splits[f"test_{tie}"]
    for position in range(0, len(split), 5):
        image, mask = make_example(digits, int(split.ids[position]), tie, SMALL)
        np.testing.assert_array_equal(split.images[position], image)
        np.testing.assert_array_equal(split.masks[position, ..., 0] == 255, mask)


def test_class_names_and_ids_are_kept(splits: dict[str, Split]):
    assert splits["train"].class_names == tuple("0123456789")
    assert list(splits["train"].ids) == sorted(splits["train"].ids)


def test_a_weak_tie_is_weak_in_the_biased_test_set_too(digits: Digits):
    config = replace(SMALL, mark=BackgroundMark(kind="position", strength=0.5))
    strict = replace(SMALL, mark=BackgroundMark(kind="position"))
    agree = [
        np.array_equal(
            make_example(digits, index, "biased", config)[0],
            make_example(digits, index, "biased", strict)[0],
        )
        for index in range(100)
    ]
    assert 0.3 < np.mean(agree) < 0.7


def test_canvas_and_dilation(digits: Digits):
    config = replace(SMALL, canvas=35, mask_dilation=1)
    image, mask = make_example(digits, 0, "unbiased", config)
    assert image.shape == (35, 35, 3)
    np.testing.assert_array_equal(image[3:31, 3:31, 0], digits.images[0])
    _, bare = make_example(digits, 0, "unbiased", replace(config, mask_dilation=0))
    assert mask.sum() > bare.sum()
    assert mask[bare].all()


def test_the_seed_decides_the_splits(digits: Digits):
    first = split_members(digits, SMALL)
    again = split_members(digits, SMALL)
    other = split_members(digits, replace(SMALL, seed=1))
    assert all(np.array_equal(first[name], again[name]) for name in SPLITS)
    assert not np.array_equal(first["train"], other["train"])


@pytest.mark.parametrize("limit", [10, 20])
def test_too_few_digits_for_all_splits(limit: int):
    config = replace(SMALL, limit=limit)
    with pytest.raises(UserError, match=f"class '0' has {limit // 10} digits, too few"):
        split_members(load_digits(limit=limit), config)


def test_configs_with_other_content_have_other_names():
    variants = [
        SMALL,
        replace(SMALL, limit=None),
        replace(SMALL, seed=1),
        replace(SMALL, canvas=36),
        replace(SMALL, mask_dilation=1),
        replace(SMALL, test_fraction=0.25),
        replace(SMALL, validation_fraction=0.15),
        replace(SMALL, mark=BackgroundMark(size=3)),
        replace(SMALL, mark=BackgroundMark(kind="shape")),
        replace(SMALL, mark=BackgroundMark(strength=0.9)),
        replace(SMALL, mark=BackgroundMark(intensity=0.9)),
    ]
    assert len({config.name() for config in variants}) == len(variants)
    assert replace(SMALL).name() == SMALL.name()
    assert SMALL.name().startswith("mnist-mini-colour-")


def test_the_name_needs_the_digits(tmp_path: Path):
    with pytest.raises(UserError, match="missing in"):
        BiasedDigitsConfig(source="idx", folder=tmp_path).name()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mask_dilation": -1}, "mask_dilation is -1"),
        ({"canvas": 27}, "canvas is 27"),
        ({"seed": -1}, "seed is -1"),
        ({"validation_fraction": 0.0}, "validation_fraction is 0.0"),
        ({"test_fraction": 0.9}, "together below 1"),
        ({"test_fraction": float("nan")}, "together below 1"),
    ],
)
def test_options_out_of_range(options: dict, message: str):
    with pytest.raises(UserError, match=message):
        BiasedDigitsConfig(**options)
