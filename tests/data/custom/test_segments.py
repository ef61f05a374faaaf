"""COCO's polygons and run lengths."""

import tracemalloc
from typing import Any

import numpy as np
import own_pictures as own
import pytest

from isnet_jax.data.custom.readers import Rejected
from isnet_jax.data.custom.readers.coco import _Segments
from isnet_jax.data.custom.readers.samples import Contents
from isnet_jax.data.custom.readers.segments import check, draw

MASK = np.array([[0, 0, 1, 1], [0, 1, 1, 0], [1, 1, 0, 1]], bool)
# Column by column: 001 011 110 101.
RUNS = [2, 1, 1, 4, 1, 1, 1, 1]
# pycocotools 2.0.11: mask.encode(np.asfortranarray(MASK)).
ENCODED = "21130M00"


def drawn(segment: Any, height: int, width: int) -> np.ndarray:
    mask = np.zeros((height, width), bool)
    draw(segment, mask)
    return mask


@pytest.mark.parametrize("counts", [RUNS, ENCODED])
def test_run_lengths(counts: Any):
    segment = {"counts": counts, "size": [3, 4]}
    assert np.array_equal(drawn(segment, 3, 4), MASK)
    check(segment, 3, 4)


def test_pixels_whose_centre_is_inside_belong_to_a_polygon():
    for number in range(9):
        assert np.array_equal(drawn([own.rectangle(number)], 8, 8), own.drawn(number))
        check([own.rectangle(number)], 8, 8)
    triangle = drawn([[0, 0, 4, 0, 0, 4]], 4, 4)
    assert triangle.astype(int).tolist() == [[1, 1, 1, 0], [1, 1, 0, 0], [1, 0, 0, 0], [0] * 4]


def test_polygons_of_a_segment_are_united_and_may_touch_the_border():
    parts = [[0, 0, 8, 0, 8, 1, 0, 1], [0, 7, 8.5, 7, 8.5, 8, 0, 8]]
    assert drawn(parts, 8, 8).sum(1).tolist() == [8, 0, 0, 0, 0, 0, 0, 8]


@pytest.mark.parametrize(
    ("segment", "message"),
    [
        (None, "neither polygons nor run lengths"),
        ([], "neither polygons nor run lengths"),
        ([[1, 2, 3, 4]], "three or more points"),
        ([[1, 2, 3, 4, 5, 6, 7]], "three or more points"),
        ([["1", 2, 3, 4, 5, 6]], "three or more points"),
        ([[True, 2, 3, 4, 5, 6]], "three or more points"),
        ([[1, 2, 9, 4, 5, 6]], "x = 9, outside of its image of 4 x 3"),
        ([[1, float("nan"), 2, 3, 2, 1]], "y = nan"),
        ([[1, 10**400, 2, 3, 2, 1]], "y = 1000"),
        ({"counts": RUNS, "size": [4, 3]}, r"for the size \[4, 3\], but its image is \[3, 4\]"),
        ({"counts": [*RUNS, 1], "size": [3, 4]}, "do not add up to 3 x 4"),
        ({"counts": [-1, 13], "size": [3, 4]}, "do not add up"),
        ({"counts": [12.0], "size": [3, 4]}, "do not add up"),
        ({"counts": "", "size": [3, 4]}, "do not add up"),
        ({"counts": ENCODED[:-1], "size": [3, 4]}, "do not add up"),
        ({"counts": "o", "size": [3, 4]}, "break off"),
        ({"counts": "oooooooooooo", "size": [3, 4]}, "unknown encoding"),
        ({"counts": "ü", "size": [3, 4]}, "unknown encoding"),
        ({"counts": "?", "size": [3, 4]}, "do not fit"),
    ],
)
def test_what_cannot_be_drawn(segment: Any, message: str):
    with pytest.raises(Rejected, match=message):
        check(segment, 3, 4)


def test_runs_as_pixels_one_by_one():
    random = np.random.default_rng(0)
    for _ in range(50):
        height, width = random.integers(1, 9, 2)
        flat = np.repeat(random.integers(0, 2, height * width), random.integers(1, 5))
        flat = flat[: height * width]
        ends = [*(np.flatnonzero(np.diff(flat)) + 1), len(flat)]
        runs = np.diff([0, *ends] if flat[0] == 0 else [0, 0, *ends]).tolist()
        segment = {"counts": runs, "size": [height, width]}
        assert np.array_equal(drawn(segment, height, width), flat.reshape(width, height).T)


def test_many_segments_take_the_memory_of_one():
    side = 1000
    whole = {"size": [side, side], "counts": [0, side * side]}
    polygon = [[0, 0, side, 0, side, side, 0, side]]
    tracemalloc.start()
    source = _Segments({"a": [whole, polygon] * 30}, "only", side, side)
    mask = source.read(side, side, Contents()).mask
    assert mask is not None
    assert mask.all()
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 6 * side * side


def test_fine_outlines_cost_what_they_cross():
    side, count = 1000, 300_000
    turns = np.linspace(0, 2 * np.pi, count, endpoint=False)
    circle = 500 + 400 * np.stack([np.cos(turns), np.sin(turns)], axis=1)
    mask = np.zeros((side, side), bool)
    draw([circle.ravel().tolist()], mask)  # In well under a second, not in count * side steps.
    assert abs(mask.sum() / (np.pi * 400**2) - 1) < 1e-3
