"""COCO's polygons and run lengths."""

from typing import Any

import numpy as np
import own_pictures as own
import pytest

from isnet_jax.data.custom.readers import Rejected
from isnet_jax.data.custom.readers.segments import check, draw

MASK = np.array([[0, 0, 1, 1], [0, 1, 1, 0], [1, 1, 0, 1]], bool)
# Column by column: 001 011 110 101.
RUNS = [2, 1, 1, 4, 1, 1, 1, 1]
# pycocotools 2.0.11: mask.encode(np.asfortranarray(MASK)).
ENCODED = "21130M00"


@pytest.mark.parametrize("counts", [RUNS, ENCODED])
def test_run_lengths(counts: Any):
    segment = {"counts": counts, "size": [3, 4]}
    assert np.array_equal(draw(segment, 3, 4), MASK)
    assert check(segment, 3, 4) == MASK.sum()


def test_pixels_whose_centre_is_inside_belong_to_a_polygon():
    for number in range(9):
        assert np.array_equal(draw([own.rectangle(number)], 8, 8), own.drawn(number))
        assert check([own.rectangle(number)], 8, 8) == 12
    triangle = draw([[0, 0, 4, 0, 0, 4]], 4, 4)
    assert triangle.astype(int).tolist() == [[1, 1, 1, 0], [1, 1, 0, 0], [1, 0, 0, 0], [0] * 4]


def test_polygons_of_a_segment_are_united_and_may_touch_the_border():
    parts = [[0, 0, 8, 0, 8, 1, 0, 1], [0, 7, 8.5, 7, 8.5, 8, 0, 8]]
    assert draw(parts, 8, 8).sum(1).tolist() == [8, 0, 0, 0, 0, 0, 0, 8]


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
