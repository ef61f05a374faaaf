from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from isnet_jax.data import load_split
from isnet_jax.data.hard import Coloured, Decoy, Lungs, MadeSet, Textured, prepare_made
from isnet_jax.errors import UserError

TESTS = ("test_biased", "test_unbiased", "test_confounding", "test_unseen")
SMALL = {
    "textured": Textured(limit=100),
    "decoy": Decoy(limit=100),
    "coloured": Coloured(limit=100),
}


@pytest.fixture(params=SMALL)
def made(request: pytest.FixtureRequest) -> Textured | Decoy | Coloured:
    if request.param == "textured":
        pytest.importorskip("skimage")
    return SMALL[request.param]


def test_splits_are_stratified_and_disjoint(made: Textured):
    members = made.members()
    sizes = {"train": 7, "validation": 1} | dict.fromkeys(TESTS, 2)
    labels = made.objects.labels
    for name, per_class in sizes.items():
        assert np.bincount(labels[members[name]]).tolist() == [per_class] * 10
    assert len(set().union(*(members[n].tolist() for n in sizes))) == 100


def test_prepared_examples_are_those_that_are_drawn(made: Textured, tmp_path: Path):
    builder = prepare_made(made, tmp_path)
    assert tuple(builder.info.splits) == ("train", "validation", *TESTS)
    split = load_split(builder, "test_confounding")
    numbers = made.members()["test_confounding"].tolist()
    assert split.ids == tuple(f"{number:05d}" for number in numbers)
    for place, number in enumerate(numbers):
        image, mask, label = made.example("test_confounding", number)
        np.testing.assert_array_equal(split.images[place], image)
        np.testing.assert_array_equal(split.masks[place, ..., 0] > 0, mask)
        assert split.labels[place] == label
    again = prepare_made(made, tmp_path, lambda *_: pytest.fail("prepared twice"))
    assert again.data_path == builder.data_path
    assert prepare_made(replace(made, seed=1), tmp_path).data_path != builder.data_path


def test_the_tie(made: Textured):
    codes = {
        split: np.array([made.code(split, label, n) for n in range(500) for label in (3,)])
        for split in ("train", "test_biased", "test_unbiased", "test_confounding", "test_unseen")
    }
    assert (codes["train"] == 3).all()
    assert (codes["test_biased"] == 3).all()
    assert not (codes["test_confounding"] == 3).any()
    assert 20 < (codes["test_unbiased"] == 3).sum() < 90
    assert all(code is None for code in codes["test_unseen"])
    loose = replace(made, strength=0.95)
    ties = [loose.code("train", 3, n) == 3 for n in range(2000)]
    assert np.mean(ties) == pytest.approx(0.95, abs=0.02)


def test_only_backgrounds_differ_between_test_sets():
    pytest.importorskip("skimage")
    made = SMALL["textured"]
    for number in made.members()["test_biased"].tolist():
        shown = [made.example(split, number) for split in TESTS]
        mask = shown[0].mask
        for other in shown[1:]:
            np.testing.assert_array_equal(other.mask, mask)
            np.testing.assert_array_equal(other.image[mask], shown[0].image[mask])
        assert (shown[0].image != shown[3].image)[~mask].mean() > 0.5


def test_textured_backgrounds_are_crops_of_the_class_photograph():
    pytest.importorskip("skimage")
    from isnet_jax.data.hard.photographs import TIED, photograph

    made = SMALL["textured"]
    number = int(made.members()["train"][0])
    image, mask, label = made.example("train", number)
    picture = photograph(TIED[label], 8 * made.side)
    windows = np.lib.stride_tricks.sliding_window_view(picture[..., 0], (32, 32))
    assert (windows[:, :, ~mask] == image[..., 0][~mask]).all(-1).any()


def test_coarse_masks():
    exact, box = (Decoy(limit=100, outline=outline) for outline in ("exact", "box"))
    for number in range(20):
        mask, around = (made.example("train", number).mask for made in (exact, box))
        rows, columns = np.nonzero(mask)
        height, width = np.ptp(rows) + 1, np.ptp(columns) + 1
        assert around.sum() == height * width
        assert (around | mask).sum() == around.sum()
    wide = replace(box, mask_dilation=2).example("train", 0).mask
    assert wide.sum() > box.example("train", 0).mask.sum()


def test_objects_are_enlarged_with_the_canvas():
    small, large = Coloured(limit=100), Coloured(limit=100, canvas=64)
    for number in range(10):
        a, b = small.example("train", number), large.example("train", number)
        assert b.image.shape == (64, 64, 3)
        assert b.mask.sum() == 4 * a.mask.sum()


def test_the_decoy_patch_tells_the_class():
    made = SMALL["decoy"]
    for number in range(50):
        image, mask, label = made.example("train", number)
        corners = image[..., 0][np.ix_([0, -1], [0, -1])].ravel()
        assert sorted(corners.tolist()) == [0, 0, 0, 255 - 25 * label]
        assert not mask[np.ix_([0, -1], [0, -1])].any()


def test_the_colour_is_the_object_s():
    image, mask, _ = SMALL["coloured"].example("train", 0)
    assert not image[~mask].any()
    grey = SMALL["coloured"].example("test_unseen", 0).image
    assert (grey == grey[..., :1]).all()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"canvas": 20}, "canvas is 20"),
        ({"strength": 1.5}, "strength"),
        ({"outline": "boxes"}, "box"),
        ({"mask_dilation": -1}, "mask_dilation"),
        ({"test_fraction": 1.0}, "test_fraction"),
    ],
)
def test_options_out_of_range(options: dict, words: str):
    with pytest.raises(UserError, match=words):
        Decoy(**options)


class TestLungs:
    MADE = Lungs(train=40, validation=10, test=60)

    @pytest.fixture(autouse=True)
    def _outlines(self):
        pytest.importorskip("torchxrayvision")

    def test_pathology_is_in_the_lungs_and_the_hospital_outside(self):
        healthy, ill = (
            self.MADE.example("test_unseen", number).image.astype(float) for number in (50, 51)
        )
        assert healthy.shape == ill.shape == (64, 64, 3)
        for number in range(50, 70):
            shown = {split: self.MADE.example(split, number) for split in TESTS}
            mask = shown["test_biased"].mask
            assert 0.1 < mask.mean() < 0.6
            for example in shown.values():
                np.testing.assert_array_equal(example.mask, mask)

    def test_prevalence(self):
        def hospital(split: str, number: int) -> int:
            return self.MADE._hospital(split, number % 2, number)

        usual = np.mean([hospital("train", n) == n % 2 for n in range(1000)])
        assert usual == pytest.approx(0.98, abs=0.02)
        mixed = np.mean([hospital("test_unbiased", n) == n % 2 for n in range(1000)])
        assert mixed == pytest.approx(0.5, abs=0.05)
        assert all(
            hospital("test_confounding", n) == 1 - hospital("test_biased", n) for n in range(100)
        )
        assert {hospital("test_unseen", n) for n in range(100)} == {2}

    def test_it_is_prepared(self, tmp_path: Path):
        made: MadeSet = Lungs(train=4, validation=2, test=2)
        split = load_split(prepare_made(made, tmp_path), "train")
        assert split.class_names == ("healthy", "pneumonia")
        assert split.labels.tolist() == [0, 1, 0, 1]
