"""The recipes for public sets: the page's own commands, on small imitations of the downloads."""

from __future__ import annotations

import importlib.util
import re
import shlex
import sys
from pathlib import Path
from types import ModuleType
from typing import get_type_hints

import numpy as np
import own_pictures as own
import pytest
import tyro
from PIL import Image

from isnet_jax import UserError
from isnet_jax.commands import custom
from isnet_jax.commands.main import main
from isnet_jax.data import class_names, load_split, open_prepared

ROOT = Path(__file__).parents[2]
RECIPES = ROOT / "experiments" / "recipes"
SIDE = 16
# Options that are given twice count as given last.
SMALLER = {
    "prepare csv": ("--size", SIDE, SIDE),
    "train own-data": ("--model", "small", "--epochs", 1, "--plain-epochs", 0, "--batch-size", 4),
    "train segmenter": ("--epochs", 4, "--widths", 4, 8, "--batch-size", 4),
}


def commands(section: str) -> list[list[str]]:
    """The lines of the page's block below a heading."""
    page = (ROOT / "docs" / "how-to" / "recipes.md").read_text()
    (block,) = re.findall(rf"^## {section}\n.*?^```\n(.*?)^```", page, re.DOTALL | re.MULTILINE)
    return [shlex.split(line) for line in block.splitlines()]


@pytest.fixture
def recipe(monkeypatch: pytest.MonkeyPatch):
    """Loads a script of the recipes."""

    def load(name: str) -> ModuleType:
        path = RECIPES / f"{name}.py"
        spec = importlib.util.spec_from_file_location(f"recipe_{name}", path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        monkeypatch.syspath_prepend(RECIPES)
        monkeypatch.setitem(sys.modules, spec.name, module)
        spec.loader.exec_module(module)
        return module

    return load


@pytest.fixture(params=[False, pytest.param(True, marks=pytest.mark.slow)], ids=["laid", "trained"])
def follow(request: pytest.FixtureRequest, recipe, monkeypatch: pytest.MonkeyPatch):
    """Makes what a section of the page says, in the folder where we are, small.

    The quick tests only read the options of classifiers.
    """
    if not request.param:
        monkeypatch.setattr(custom, "run", lambda job, console: job.training_of("isnet"))

    def run(section: str) -> None:
        for program, *words in commands(section):
            if program == "python":
                script = recipe(Path(words[0]).stem)
                (kind,) = get_type_hints(script.main).keys() - {"return"}
                script.main(tyro.cli(get_type_hints(script.main)[kind], args=words[1:]))
                continue
            assert program == "isnet-jax"
            words = [word.replace("experiments", str(ROOT / "experiments")) for word in words]
            main([*words, *map(str, SMALLER[" ".join(words[:2])])])

    return run


def photograph(path: Path, number: int, height: int = SIDE, width: int = SIDE) -> None:
    pixels = own.pixels(number, height=height, width=width)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, quality=95)


def mask(number: int) -> np.ndarray:
    return own.drawn(number, height=SIDE, width=SIDE)


def splits(name: str) -> dict:
    builder = open_prepared(Path("datasets") / name)
    return {split: load_split(builder, split) for split in builder.info.splits}


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def write_pets() -> None:
    root = Path("downloads/pets")
    lists: dict[str, list[str]] = {"trainval": [], "test": []}
    for code, breed in enumerate(("beagle", "pug", "samoyed", "Bengal")):
        for n in range(7):
            number = 10 * code + n
            name = f"{breed}_{n}"
            photograph(root / "images" / f"{name}.jpg", number)
            trimap = np.where(mask(number), 1, 2).astype(np.uint8)
            own.write(root / "annotations" / "trimaps" / f"{name}.png", trimap)
            lists["trainval" if n < 4 else "test"].append(f"{name} {code + 1} 2 1")
    for name, lines in lists.items():
        (root / "annotations" / f"{name}.txt").write_text("#Image CLASS\n" + "\n".join(lines))


def test_pets(follow):
    write_pets()
    follow("Pets with a mark")
    found = splits("pets")
    assert class_names(open_prepared("datasets/pets")) == ("beagle", "pug", "samoyed")
    assert {name: len(split) for name, split in found.items()} == {
        "train": 11, "validation": 1, "test_biased": 9, "test_unbiased": 9, "test_confounding": 9
    }  # fmt: skip
    sides = [found[f"test_{kind}"] for kind in ("biased", "unbiased", "confounding")]
    for biased, plain, confounding in zip(*(side.images for side in sides), strict=True):
        assert (biased == 255).all(-1).sum() > (plain == 255).all(-1).sum()
        assert (biased != confounding).any()
    foreground = sides[0].masks[..., 0] > 0
    assert (sides[0].images == sides[1].images)[foreground].all()
    own_marks, others = (side.images != sides[1].images for side in (sides[0], sides[2]))
    assert own_marks.any((1, 2, 3)).all()
    assert others.any((1, 2, 3)).all()


def test_a_breed_that_is_not_there(recipe):
    write_pets()
    script = recipe("pets")
    with pytest.raises(UserError, match="did you mean 'pug'"):
        script.main(script.Pets(Path("downloads/pets"), Path("out"), ("pugg", "beagle")))


def test_waterbirds(follow):
    root = Path("downloads/CUB_200_2011")
    images, divided = [], []
    for number in range(24):
        name = ("001.Black_footed_Albatross", "002.Ovenbird")[number % 2] + f"/{number:02d}"
        photograph(root / "images" / f"{name}.jpg", number)
        shades = np.where(mask(number), 204, 51).astype(np.uint8)
        own.write(root / "segmentations" / f"{name}.png", shades)
        images.append(f"{number} {name}.jpg")
        divided.append(f"{number} {int(number < 16)}")
    (root / "images.txt").write_text("\n".join(images))
    (root / "train_test_split.txt").write_text("\n".join(divided))
    for place, colour in (("land", (0, 90, 0)), ("water", (0, 0, 200))):
        for number in range(5):
            ground = np.full((20, 30, 3), colour, np.uint8) + np.uint8(number)
            own.write(Path("downloads/places", place, f"{number}.png"), ground)
    follow("Waterbirds")
    found = splits("waterbirds")
    for kind, tied in (("test_biased", True), ("test_confounding", False)):
        split = found[kind]
        water = split.images[..., 2].astype(int) > split.images[..., 1]
        outside = split.masks[..., 0] == 0
        on_water = np.array([w[o].all() for w, o in zip(water, outside, strict=True)])
        birds = np.array([split.class_names[label] for label in split.labels])
        assert ((birds == "waterbird") == (on_water == tied)).all()


def write_lungs() -> None:
    root = Path("downloads/tuberculosis")
    for number in range(24):
        name = f"CHNCXR_{number:04d}_{number % 2}"
        dark = own.pixels(number, height=SIDE, width=SIDE)[..., 0] // 4
        dark[mask(number)] += 150
        own.write(root / "ChinaSet_AllFiles" / "CXR_png" / f"{name}.png", dark)
        if number % 8:
            lungs = root / "ChinaSet_AllFiles" / "mask" / f"{name}_mask.png"
            own.write(lungs, mask(number))
    for number in range(6):
        name = f"MCUCXR_{number:04d}_{number % 2}.png"
        place = root / "MontgomerySet"
        own.write(place / "CXR_png" / name, own.pixels(50 + number, height=SIDE, width=SIDE))
        own.write(place / "ManualMask" / "leftMask" / name, mask(number))
        own.write(place / "ManualMask" / "rightMask" / name, mask(number)[:, ::-1])


def test_x_rays_and_a_segmenter_for_those_without_masks(follow):
    """Tuberculosis, then CheXpert, whose masks a network of the former draws."""
    write_lungs()
    follow("Tuberculosis")
    found = splits("tuberculosis")
    assert {*found} == {"train", "validation", "test_shenzhen", "test_montgomery"}
    (first, *_) = found["test_montgomery"].masks
    assert (first[..., 0] > 0).sum() == (mask(0) | mask(0)[:, ::-1]).sum()
    assert not found["train"].has_mask.all()

    root = Path("downloads/CheXpert-v1.0-small")
    columns = ["Path", "Sex", "Frontal/Lateral", "Atelectasis", "Cardiomegaly", "Consolidation",
               "Edema", "Pleural Effusion"]  # fmt: skip
    for table, kind, count in (("train", "train", 40), ("valid", "valid", 12)):
        lines = [",".join(columns)]
        for number in range(count):
            view = "Lateral" if number % 10 == 9 else "Frontal"
            place = f"{kind}/patient{number // 2:05d}/study1/view{number % 2}.jpg"
            photograph(root / place, 100 + 100 * (kind == "valid") + number)
            values = [f"{float((number >> bit) % 2)}" for bit in range(4)]
            values.append("-1.0" if number == 5 else "" if number % 3 else "1.0")
            lines.append(",".join([f"CheXpert-v1.0-small/{place}", "Female", view, *values]))
        (root / f"{table}.csv").write_text("\n".join(lines))
    follow("CheXpert")
    found = splits("chexpert")
    patients = {name: {image.split("/")[1] for image in split.ids} for name, split in found.items()}
    assert not patients["train"] & patients["validation"]
    assert sum(map(len, found.values())) == 35 + 10
    assert found["train"].labels.shape[1] == 5


def test_covid(follow):
    root = Path("downloads/Lung Segmentation Data")
    number = 0
    for split, count in (("Train", 4), ("Val", 2), ("Test", 3)):
        for kind in ("COVID-19", "Non-COVID", "Normal"):
            for _ in range(count):
                place, name = root / split / kind, f"{kind.lower()}_{number}.png"
                own.write(place / "images" / name, own.pixels(number, height=SIDE, width=SIDE))
                own.write(place / "lung masks" / name, mask(number))
                number += 1
    follow("COVID-19")
    found = splits("covid")
    assert {name: len(split) for name, split in found.items()} == {
        "train": 12, "validation": 6, "test": 9
    }  # fmt: skip
    assert set(found["test"].class_names) == {"covid", "normal", "pneumonia"}


def test_a_download_that_is_not_whole(recipe):
    for name, kind in (("covid", "Covid"), ("chexpert", "CheXpert"), ("tuberculosis", None)):
        script = recipe(name)
        options = getattr(script, kind or "Tuberculosis")(Path("absent"))
        with pytest.raises(UserError, match=r"absent lacks .* Unpack the download there"):
            script.main(options)
