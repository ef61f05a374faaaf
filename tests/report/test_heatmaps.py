import io
import os

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from isnet_jax.errors import UserError
from isnet_jax.report import heatmaps as drawing

pytestmark = pytest.mark.filterwarnings("error")


def _samples(count=2, height=6, width=8):
    rng = np.random.default_rng(0)
    images = rng.uniform(size=(count, height, width, 3))
    masks = np.zeros((count, height, width, 1), np.float32)
    masks[:, 2:4, 3:6] = 1
    heatmaps = {name: rng.normal(size=images.shape) for name in ("plain", "isnet")}
    return images, masks, heatmaps


def test_colours_are_white_at_zero_red_above_and_blue_below():
    rgb = drawing.relevance_rgb([[-1.0, -0.3, 0.0, 0.3, 1.0]], limit=1.0)[0].astype(int)
    assert rgb[2].tolist() == [255, 255, 255]
    assert all(rgb[i, 2] > rgb[i, 0] for i in (0, 1))
    assert all(rgb[i, 0] > rgb[i, 2] for i in (3, 4))
    assert rgb[4].sum() < rgb[3].sum() < rgb[2].sum() > rgb[1].sum() > rgb[0].sum()


def test_colours_sum_channels_and_clip_at_the_limit():
    relevance = np.array([[[1.0, -1.0, 0.0], [2.0, 1.0, 0.0], [300.0, 0.0, 0.0]]])
    rgb = drawing.relevance_rgb(relevance, limit=3.0)
    assert rgb.dtype == np.uint8
    assert rgb[0, 0].tolist() == [255, 255, 255]
    np.testing.assert_array_equal(rgb[0, 1], rgb[0, 2])


def test_default_limit_resists_one_extreme_pixel():
    relevance = np.ones((32, 32))
    relevance[0, 0] = -1e6
    assert drawing.relevance_limit(relevance) == 1.0
    np.testing.assert_array_equal(
        drawing.relevance_rgb(relevance), drawing.relevance_rgb(relevance, limit=1.0)
    )


def test_default_limit_of_sparse_and_of_zero_heatmaps():
    sparse = np.zeros((32, 32))
    sparse[5, 5] = -0.25
    assert drawing.relevance_limit(sparse) == 0.25
    assert (drawing.relevance_rgb(np.zeros((4, 4))) == 255).all()


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_broken_relevance_is_an_error(bad):
    relevance = np.zeros((4, 4, 3))
    relevance[1, 2, 0] = bad
    with pytest.raises(UserError, match="1 of 48 values"):
        drawing.relevance_rgb(relevance)


@pytest.mark.parametrize("limit", [0.0, -1.0, np.nan, np.inf])
def test_limit_must_be_positive(limit):
    with pytest.raises(UserError, match="limit"):
        drawing.relevance_rgb(np.zeros((2, 2)), limit=limit)


def test_outline_of_a_rectangle_is_four_edges_on_pixel_borders():
    mask = np.zeros((5, 6, 1))
    mask[1:3, 2:5] = 1
    segments = {tuple(map(tuple, segment)) for segment in drawing.mask_outline(mask)}
    assert segments == {
        ((2, 1), (5, 1)),
        ((2, 3), (5, 3)),
        ((2, 1), (2, 3)),
        ((5, 1), (5, 3)),
    }


def test_outline_touches_the_images_end_and_closes():
    mask = np.array([[1, 1, 0], [1, 0, 0], [0, 0, 1]], bool)
    segments = drawing.mask_outline(mask)
    length = np.abs(segments[:, 1] - segments[:, 0]).sum()
    assert length == 8 + 4
    _, ends = np.unique(segments.reshape(-1, 2), axis=0, return_counts=True)
    assert (ends % 2 == 0).all()
    assert segments.min() == 0
    assert segments.max() == 3


def test_outline_of_empty_mask_and_of_a_wrong_shape():
    assert drawing.mask_outline(np.zeros((4, 4))).shape == (0, 2, 2)
    with pytest.raises(UserError, match=r"\(4, 4, 3\)"):
        drawing.mask_outline(np.zeros((4, 4, 3)))


def test_panel_has_a_tile_per_sample_and_network_and_marks_wrong_predictions():
    images, masks, heatmaps = _samples()
    captions = {"plain": ["plain: 3 (99 %)", "plain: $x$"], "input": ["a", "b"]}
    figure = drawing.panel(images, heatmaps, masks, captions, {"plain": [False, True]})
    assert isinstance(figure, Figure)
    tiles = figure.axes[:6]
    assert [axis.get_title() for axis in tiles[:3]] == ["input", "plain", "isnet"]
    assert tiles[1].get_xlabel() == "plain: 3 (99 %)"
    assert tiles[4].get_xlabel() == "✗ plain: $x$"
    assert [len(axis.collections) for axis in tiles] == [0, 1, 1, 0, 1, 1]
    assert Image.open(io.BytesIO(drawing.png_bytes(figure))).size[0] > 300


def test_panel_without_masks_and_with_one_channel():
    images, _, heatmaps = _samples(count=1)
    figure = drawing.panel(images[..., :1], {"only": heatmaps["plain"][..., :1]})
    assert not any(axis.collections for axis in figure.axes)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"images": np.zeros((2, 6, 8))}, "images are"),
        ({"images": np.full((2, 6, 8, 3), 255.0)}, r"\[0, 1\]"),
        ({"heatmaps": {"plain": np.zeros((2, 6, 7, 3))}}, r"heatmaps\['plain'\]"),
        ({"masks": np.zeros((2, 6, 8))}, "masks"),
        ({"captions": {"plain": ["one"]}}, r"captions\['plain'\].*2.*1"),
        ({"wrong": {"plain": [True] * 3}}, r"wrong\['plain'\].*2.*3"),
    ],
)
def test_panel_says_what_does_not_fit(change, message):
    images, masks, heatmaps = _samples()
    with pytest.raises(UserError, match=message):
        drawing.panel(**({"images": images, "heatmaps": heatmaps, "masks": masks} | change))


def test_grid_places_tiles_and_outlines():
    images, masks, heatmaps = _samples()
    images[1] = 1.0
    heatmaps["isnet"][:] = 0
    grid = drawing.heatmap_grid(images, masks, heatmaps, scale=4)
    assert grid.dtype == np.uint8
    assert grid.shape == (2 * (4 * 6 + 2) + 2, 3 * (4 * 8 + 2) + 2, 3)
    assert (grid[28:52, 2:34] == 255).all()
    isnet = grid[2:26, 70:102]
    dark = (isnet < 100).all(-1)
    assert dark.sum() == 2 * (8 + 12) - 4
    assert dark[8, 12:24].all()
    assert (isnet[~dark] == 255).all()


def test_an_image_beside_its_heatmap():
    image, relevance = np.full((4, 6, 1), 0.5), np.zeros((4, 6, 1))
    relevance[1, 2] = 3.0
    shown = drawing.beside(image, relevance)
    assert shown.shape == (4, 12, 3)
    assert (shown[:, :6] == 128).all()
    np.testing.assert_array_equal(shown[:, 6:], drawing.relevance_rgb(relevance))


def test_save_png_reads_back_exactly(tmp_path):
    picture = np.arange(4 * 5 * 3, dtype=np.uint8).reshape(4, 5, 3)
    path = tmp_path / "new" / "picture.png"
    drawing.save_png(picture, path)
    np.testing.assert_array_equal(np.asarray(Image.open(path)), picture)
    drawing.save_png(np.array([[0.0, 1.0]]), path)
    np.testing.assert_array_equal(np.asarray(Image.open(path)), [[0, 255]])
    assert os.listdir(path.parent) == ["picture.png"]


@pytest.mark.parametrize(
    "bad", [np.zeros((2, 2, 4)), np.full((2, 2), 3.0), np.full((2, 2), np.nan)]
)
def test_save_png_refuses_what_is_no_picture(tmp_path, bad):
    with pytest.raises(UserError, match="image"):
        drawing.save_png(bad, tmp_path / "picture.png")
    assert os.listdir(tmp_path) == []


def test_a_failed_write_leaves_the_old_file_alone(tmp_path, monkeypatch):
    path = tmp_path / "file"
    path.write_bytes(b"old")

    def fail(*_):
        raise OSError("no")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="no"):
        drawing.save_png(np.zeros((2, 2)), path)
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["file"]
