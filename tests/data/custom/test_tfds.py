"""Data sets of TFDS: builders with the features of known sets, and of one's own."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import own_pictures as own
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from isnet_jax import UserError
from isnet_jax.commands.main import main
from isnet_jax.data import OwnDataConfig, PixelRules, TfdsSource, load_split, prepare_own

SIDE = 8
FEATURES: dict[str, Any] = {
    "OxfordIiitPet": {
        "image": tfds.features.Image(encoding_format="jpeg"),
        "label": tfds.features.ClassLabel(names=["beagle", "sphynx", "pug"]),
        "species": tfds.features.ClassLabel(names=["Cat", "Dog"]),
        "file_name": tfds.features.Text(),
        "segmentation_mask": tfds.features.Image(shape=(None, None, 1), use_colormap=True),
        "head_bbox": tfds.features.BBoxFeature(),
    },
    "CaltechBirds2011": {
        "image": tfds.features.Image(),
        "image/filename": tfds.features.Text(),
        "label": tfds.features.ClassLabel(names=["001.Albatross", "002.Bunting"]),
        "label_name": tfds.features.Text(),
        "bbox": tfds.features.BBoxFeature(),
        "segmentation_mask": tfds.features.Image(shape=(None, None, 1)),
    },
    "MyFilms": {
        "image": tfds.features.Image(shape=(None, None, 1), dtype=np.uint16, encoding_format="png"),
        "finding": tfds.features.Sequence(tfds.features.ClassLabel(names=["mass", "fluid"])),
        "lungs": tfds.features.Tensor(shape=(SIDE, SIDE), dtype=np.bool_),
    },
}


def example(kind: str, number: int) -> dict[str, Any]:
    drawn, pixels = own.drawn(number), own.pixels(number)
    if kind == "OxfordIiitPet":
        jpeg = io.BytesIO()
        Image.fromarray(pixels).save(jpeg, "JPEG")
        trimap = np.where(drawn, 1, 2).astype(np.uint8)
        trimap[0] = 3
        return {
            "image": io.BytesIO(jpeg.getvalue()),
            "label": number % 2,
            "species": 1,
            "file_name": f"{number}.jpg",
            "segmentation_mask": io.BytesIO(own.png(trimap)),
            "head_bbox": tfds.features.BBox(0.0, 0.0, 0.0, 0.0),
        }
    if kind == "CaltechBirds2011":
        levels = np.where(drawn, 204, 51).astype(np.uint8)
        return {
            "image": io.BytesIO(own.png(pixels)),
            "image/filename": str(number),
            "label": number % 2,
            "label_name": "",
            "bbox": tfds.features.BBox(0.0, 0.0, 1.0, 1.0),
            "segmentation_mask": io.BytesIO(own.png(levels)),
        }
    return {
        "image": io.BytesIO(own.png(pixels[..., 0].astype(np.uint16) * 200)),
        "finding": [0, 1] if number % 3 == 0 else [number % 2],
        "lungs": drawn,
    }


SPLITS = {
    "OxfordIiitPet": {"train": range(12), "test": range(12, 16)},
    "CaltechBirds2011": {"train": range(12), "test": range(12, 16)},
    "MyFilms": {"hospital_a": range(10), "hospital_b": range(10, 20)},
}


class Made(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """Examples of the kind that its name says."""

    VERSION = tfds.core.Version("1.0.0")
    code_path = None

    def _info(self):
        features = tfds.features.FeaturesDict(FEATURES[type(self).__name__])
        return tfds.core.DatasetInfo(builder=self, features=features)

    def _split_generators(self, dl_manager):
        splits = SPLITS[type(self).__name__]
        return {name: self._generate_examples(numbers) for name, numbers in splits.items()}

    def _generate_examples(self, numbers):
        for number in numbers:
            yield number, example(type(self).__name__, number)


class OxfordIiitPet(Made, skip_registration=True):
    pass


class CaltechBirds2011(Made, skip_registration=True):
    pass


class MyFilms(Made, skip_registration=True):
    pass


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """TFDS's data_dir, with the three sets prepared."""
    folder = tmp_path_factory.mktemp("tfds")
    for kind in (OxfordIiitPet, CaltechBirds2011, MyFilms):
        kind(data_dir=str(folder), file_format="array_record").download_and_prepare()
    return folder


@pytest.mark.parametrize("name", ["oxford_iiit_pet", "caltech_birds2011"])
def test_the_features_are_those_of_the_known_sets(name: str, tmp_path: Path):
    real = tfds.builder(name, data_dir=str(tmp_path)).info.features
    (kind,) = (k for k in (OxfordIiitPet, CaltechBirds2011) if k.name == name)
    assert {k: type(v) for k, v in real.items()} == {
        k: type(v) for k, v in FEATURES[kind.__name__].items()
    }


def masks(split: Any) -> dict[int, np.ndarray]:
    """By the number of the example, which the first sample's place in its split is."""
    return {number: mask[..., 0] > 0 for number, mask in enumerate(split.masks)}


def test_pets_have_their_border_and_birds_what_most_drew(place: Path, tmp_path: Path):
    pets = TfdsSource("oxford_iiit_pet:1.0.0", place)
    built = prepare_own(pets, tmp_path / "pets", OwnDataConfig()).builder
    split = load_split(built, "test")
    assert split.class_names == ("beagle", "sphynx")  # those that occur
    assert sorted(split.ids) == [f"test/{n:07d}" for n in range(4)]
    assert all(mask[0].all() and mask[1:].sum() == 12 for mask in masks(split).values())
    birds = TfdsSource("caltech_birds2011:1.0.0", place)
    built = prepare_own(birds, tmp_path / "birds", OwnDataConfig()).builder
    assert all(mask.sum() == 12 for mask in masks(load_split(built, "test")).values())
    again = prepare_own(birds, tmp_path / "birds", OwnDataConfig())
    assert again.reused


def test_options_say_what_is_foreground(place: Path, tmp_path: Path):
    inside = TfdsSource("oxford_iiit_pet:1.0.0", place, foreground=(1,))
    built = prepare_own(inside, tmp_path / "pets", OwnDataConfig()).builder
    assert all(not mask[0].any() for mask in masks(load_split(built, "test")).values())
    rules = PixelRules(mask_threshold=20)
    broad = TfdsSource("caltech_birds2011:1.0.0", place, rules=rules)
    built = prepare_own(broad, tmp_path / "birds", OwnDataConfig()).builder
    assert all(mask.all() for mask in masks(load_split(built, "test")).values())
    none = TfdsSource("oxford_iiit_pet:1.0.0", place, foreground=(9,))
    with pytest.raises(UserError, match=r"holds none of the values \(9,\), but 1, 2, 3"):
        prepare_own(none, tmp_path / "none", OwnDataConfig())


def test_a_set_of_one_s_own(place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """16-bit grey, several classes, a mask that is an array, and splits of other names."""
    main(
        ["prepare", "tfds", "my_films", "--data-dir", str(place), "--label", "finding", "--mask",
         "lungs", "--out", str(tmp_path / "films"), "--white", "51200"]
    )  # fmt: skip
    assert "2 classes: mass, fluid" in " ".join(capsys.readouterr().out.split())
    built = prepare_own(
        TfdsSource("my_films", place, label="finding", mask="lungs",
                   rules=PixelRules(white=51200)),
        tmp_path / "films",
        OwnDataConfig(),
    ).builder  # fmt: skip
    split = load_split(built, "train")
    assert split.images.dtype == np.uint16
    assert split.labels.shape[1] == 2
    # TFDS shuffles: the example is known by its picture.
    shades = [np.rint(own.pixels(n)[..., 0] * (200 * 65535 / 51200)) for n in range(20)]
    (number,) = (n for n in range(20) if (split.images[0, ..., 0] == shades[n]).all())
    np.testing.assert_array_equal(split.masks[0, ..., 0] > 0, own.drawn(number))
    assert split.labels[0].tolist() == ([1, 1] if number % 3 == 0 else [1 - number % 2, number % 2])


def test_splits_are_what_their_names_mean(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    named = {"Training": range(4), "val": range(4, 6), "test": range(6, 8), "extra": range(8, 9)}
    monkeypatch.setitem(SPLITS, "CaltechBirds2011", named)
    CaltechBirds2011(data_dir=str(tmp_path), file_format="array_record").download_and_prepare()
    samples = TfdsSource("caltech_birds2011:1.0.0", tmp_path).listing().samples
    found = [(sample.id.split("/")[0], sample.split) for sample in samples]
    expected = {("Training", "train"): 4, ("val", "validation"): 2, ("test", "test"): 2}
    assert {pair: found.count(pair) for pair in found} == expected


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "oxford_iit_pets"}, "TFDS knows no data set 'oxford_iit_pets'"),
        ({"label": "lable"}, "unknown feature 'lable'; did you mean 'label'"),
        ({"mask": "msk"}, "Correct --mask"),
        ({"image": "file_name"}, "the feature 'file_name' is Text; expected Image"),
        ({"label": "head_bbox"}, "'head_bbox' is BBoxFeature; expected ClassLabel"),
        ({"imports": ("no_such_module",)}, "needs the module 'no_such_module'"),
    ],
)
def test_what_is_refused(place: Path, options: dict[str, Any], message: str):
    options = {"name": "oxford_iiit_pet:1.0.0", "folder": place} | options
    with pytest.raises(UserError, match=message):
        TfdsSource(**options).listing()
