from typing import get_args

import numpy as np
import pytest

from isnet_jax.data import BackgroundMark, Digits, foreground_mask, paint
from isnet_jax.data.digits.marks import (
    MarkKind,
    biased_code,
    confounding_code,
    grown,
)
from isnet_jax.errors import UserError

KINDS = get_args(MarkKind)
EMPTY = np.zeros((32, 32), dtype=bool)


def marked(mark: BackgroundMark, code: int, mask: np.ndarray = EMPTY, seed: int = 0) -> np.ndarray:
    image = np.zeros((*mask.shape, 3), dtype=np.uint8)
    return paint(mark, image, mask, code, 10, np.random.default_rng(seed))


def test_foreground_is_filled_and_dilated():
    image = np.zeros((9, 9), dtype=np.uint8)
    image[3:6, 3:6] = 1
    image[4, 4] = 0
    mask = foreground_mask(image)
    assert mask.dtype == bool
    expected = np.zeros((9, 9), dtype=bool)
    expected[3:6, 3:6] = True
    np.testing.assert_array_equal(mask, expected)
    expected[1:8, 1:8] = True
    np.testing.assert_array_equal(foreground_mask(image, dilation=2), expected)
    with pytest.raises(UserError, match="dilation is -1"):
        grown(mask, -1)


@pytest.mark.parametrize("kind", KINDS)
def test_marks_keep_off_the_foreground(kind: MarkKind, digits: Digits):
    mark = BackgroundMark(kind=kind, size=6)
    for index in range(0, len(digits), 3):
        image = np.repeat(np.pad(digits.images[index], 2)[..., None], 3, axis=-1)
        mask = foreground_mask(image[..., 0], dilation=1)
        for code in range(10):
            painted = paint(mark, image, mask, code, 10, np.random.default_rng(index))
            np.testing.assert_array_equal(painted[mask], image[mask])
            assert (painted != image).any()


@pytest.mark.parametrize("kind", KINDS)
def test_marks_are_clipped_where_foreground_is_everywhere(kind: MarkKind):
    mask = np.ones((32, 32), dtype=bool)
    mask[0] = mask[:, 0] = mask[-1] = mask[:, -1] = False
    for code in range(10):
        painted = marked(BackgroundMark(kind=kind, size=4), code, mask)
        assert painted.any()
        assert not painted[mask].any()


@pytest.mark.parametrize("kind", KINDS)
def test_no_background_at_all(kind: MarkKind):
    with pytest.raises(UserError, match=r"leaves no background .* covers 100% of the image"):
        marked(BackgroundMark(kind=kind), 0, ~EMPTY)


@pytest.mark.parametrize("size", [3, 4, 5, 7])
def test_shapes_differ_between_classes(size: int):
    mark = BackgroundMark(kind="shape", size=size)
    shapes = []
    for code in range(10):
        image = marked(mark, code, seed=7)
        assert set(np.unique(image)) == {0, 255}
        shapes.append(image.tobytes())
    assert len(set(shapes)) == 10


def test_positions_are_apart_on_the_border_and_fixed():
    mark = BackgroundMark(kind="position", size=5)
    images = [marked(mark, code, seed=code) for code in range(10)]
    for code, image in enumerate(images):
        assert (image > 0).all(axis=-1).sum() == 25
        assert not image[5:-5, 5:-5].any()
        np.testing.assert_array_equal(image, marked(mark, code, seed=99))
    assert sum(image > 0 for image in images).max() == 1  # pyright: ignore


def test_colours_are_far_apart():
    colours = []
    for code in range(10):
        image = marked(BackgroundMark(kind="colour", size=1), code).astype(float) / 255
        colours.append(image.max(axis=(0, 1)))
        assert colours[-1].max() == 1
    apart = np.array(colours)[:, None] - np.array(colours)
    distances = np.linalg.norm(apart, axis=-1)
    assert distances[~np.eye(10, dtype=bool)].min() > 0.7


def test_random_places_cover_the_background():
    mark = BackgroundMark(kind="colour", size=4)
    covered = sum(marked(mark, 0, seed=seed) > 0 for seed in range(400))
    assert (covered > 0).mean() > 0.9  # pyright: ignore


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_intensity_and_dtype(dtype: type):
    image = np.zeros((32, 32, 3), dtype=dtype)
    mark = BackgroundMark(kind="position", size=4, intensity=0.5)
    painted = paint(mark, image, EMPTY, 0, 10, np.random.default_rng(0))
    assert painted.dtype == dtype
    assert painted.max() == (128 if dtype is np.uint8 else 0.5)
    assert not image.any()


@pytest.mark.parametrize("strength", [0.0, 0.7, 1.0])
def test_strength_is_the_share_of_own_marks(strength: float):
    rng = np.random.default_rng(0)
    mark = BackgroundMark(strength=strength)
    codes = np.array([biased_code(mark, 3, 10, rng) for _ in range(5000)])
    assert np.mean(codes == 3) == pytest.approx(strength, abs=0.02)
    others = np.bincount(codes, minlength=10)[np.arange(10) != 3] / 5000
    np.testing.assert_allclose(others, (1 - strength) / 9, atol=0.015)


def test_confounding_is_uniform_over_the_other_classes():
    rng = np.random.default_rng(0)
    codes = [confounding_code(4, 5, rng) for _ in range(4000)]
    counts = np.bincount(codes, minlength=5)
    assert counts[4] == 0
    np.testing.assert_allclose(counts[:4] / 4000, 0.25, atol=0.03)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kind": "color"}, "unknown kind of mark 'color'; did you mean 'colour'"),
        (
            {"kind": "colour", "size": 0},
            "size of a colour mark is 0 pixels, but must be at least 1",
        ),
        ({"kind": "shape", "size": 2}, "size of a shape mark is 2 pixels, but must be at least 3"),
        ({"intensity": 0.0}, "intensity is 0.0"),
        ({"intensity": 255.0}, "intensity is 255"),
        ({"intensity": float("nan")}, "intensity is nan"),
        ({"strength": 1.5}, "strength is 1.5, but it is a probability"),
        ({"strength": -0.1}, "strength is -0.1"),
    ],
)
def test_marks_out_of_range(options: dict, message: str):
    with pytest.raises(UserError, match=message):
        BackgroundMark(**options)


@pytest.mark.parametrize(
    ("kind", "size", "classes", "message"),
    [
        ("colour", 4, 20, "20 classes, but marks of kind 'colour' .* only 19 apart"),
        ("shape", 4, 13, "only 12 apart"),
        ("position", 9, 11, "only 10 apart on images of 32 x 32. .* or a smaller size"),
        ("colour", 33, 10, "33 x 33 pixels does not fit on an image of 32 x 32"),
        ("colour", 4, 1, "there is 1 class only"),
    ],
)
def test_marks_that_cannot_tell_the_classes(kind: MarkKind, size: int, classes: int, message: str):
    mark = BackgroundMark(kind=kind, size=size)
    with pytest.raises(UserError, match=message):
        mark.check(classes, 32, 32)


@pytest.mark.parametrize("code", [-1, 10])
def test_no_mark_for_an_unknown_class(code: int):
    with pytest.raises(UserError, match=f"class {code} has no mark"):
        marked(BackgroundMark(), code)
