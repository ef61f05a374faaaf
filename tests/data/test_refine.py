"""Coarse masks cut to their objects, by what looks unlike the rest of the image."""

import sys

import numpy as np
import pytest
from own_pictures import write

from isnet_jax.data import FolderSource, OwnDataConfig, load_split, prepare_own
from isnet_jax.data.hard import Textured
from isnet_jax.data.refine import refined
from isnet_jax.errors import UserError


def scene(side: int = 48) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A blue disc before greenish noise, where it is, and the box around it."""
    rng = np.random.default_rng(0)
    rows, columns = np.mgrid[:side, :side] - side / 2
    disc = np.hypot(rows, columns) < side / 4
    image = rng.integers(60, 140, (side, side, 3)) * (0.3, 1.0, 0.3)
    image[disc] = rng.integers(100, 140, (side, side, 3))[disc] * (0.2, 0.4, 1.5)
    box = np.zeros_like(disc)
    box[side // 4 : -side // 4, side // 4 : -side // 4] = True
    return image.astype(np.uint8), disc, box


def overlap(a, b) -> float:
    return (a & b).sum() / (a | b).sum()


def test_a_box_is_cut_to_the_object_that_it_holds():
    image, disc, box = scene()
    found = refined(image, box)
    assert overlap(box, disc) < 0.8
    assert overlap(found, disc) > 0.95
    assert not (found & ~box).any()
    np.testing.assert_array_equal(found, refined(image, box))


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_masks_of_nothing_and_of_all_stay(share):
    image, disc, _ = scene()
    mask = np.full_like(disc, bool(share))
    np.testing.assert_array_equal(refined(image, mask), mask)


def test_an_image_of_one_colour_keeps_its_mask():
    _, _, box = scene()
    np.testing.assert_array_equal(refined(np.full((48, 48, 3), 7, np.uint8), box), box)


def test_prepared_masks_are_refined(tmp_path):
    image, disc, box = scene()
    for number in range(10):
        name = f"{'xy'[number % 2]}/{number}.png"
        write(tmp_path / "in/images" / name, image ^ np.uint8(number))
        write(tmp_path / "in/masks" / name, box)
    options = OwnDataConfig(refine_masks=True, validation_fraction=0.2)
    made = prepare_own(FolderSource(tmp_path / "in"), tmp_path / "out", options)
    for mask in load_split(made.builder, "train").masks[..., 0]:
        assert overlap(mask > 0, disc) > overlap(box, disc)


def test_drawn_masks_are_refined():
    exact, coarse = (Textured(limit=100, mask_dilation=width) for width in (0, 4))
    cut = Textured(limit=100, mask_dilation=4, refine=True)
    masks = [made.example("train", 0).mask for made in (exact, coarse, cut)]
    assert overlap(masks[2], masks[0]) > overlap(masks[1], masks[0])


def test_without_opencv_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(UserError, match=r"opencv-python-headless"):
        prepare_own(FolderSource("none"), "out", OwnDataConfig(refine_masks=True))
    with pytest.raises(UserError, match=r"isnet-jax\[refine\]"):
        Textured(refine=True)
