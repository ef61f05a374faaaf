"""Names: one Unicode form, none that stands for no value, no two that look alike."""

import json
import unicodedata
from pathlib import Path

import own_pictures as own
import pytest

from isnet_jax.data import CocoSource, CsvSource, FolderSource, VocSource
from isnet_jax.data.custom.readers import Contents, Source
from isnet_jax.errors import UserError

COMPOSED, DECOMPOSED = (unicodedata.normalize(form, "café") for form in ("NFC", "NFD"))


def told(source: Source) -> str:
    return "\n".join(map(str, source.listing().problems))


def test_names_of_a_mac_beside_others_in_folders(tmp_path: Path):
    own.write_folder(tmp_path)
    images, masks = tmp_path / "images", tmp_path / "masks"
    (images / "cat" / "00.png").rename(images / "cat" / f"{COMPOSED}.png")
    (masks / "cat" / "00.png").rename(masks / "cat" / f"{DECOMPOSED}.png")
    (images / "dog").rename(images / DECOMPOSED)
    (masks / "dog").rename(masks / COMPOSED)
    listing = FolderSource(tmp_path).listing()
    assert not listing.problems
    assert listing.class_names == (COMPOSED, "cat")
    assert all(len(sample.annotation.files) == 1 for sample in listing.samples)
    own.write(images / "cat" / f"{DECOMPOSED}.png", own.pixels(99))
    assert "has a duplicate name" in told(FolderSource(tmp_path))


def test_names_of_a_mac_beside_others_in_tables(tmp_path: Path):
    text = own.rows(2) + f"{DECOMPOSED}.png,,{COMPOSED}\ni/03.png,,{DECOMPOSED}\n"
    table = own.write_table(tmp_path, text)
    own.write(tmp_path / f"{COMPOSED}.png", own.pixels(50))
    listing = CsvSource(table).listing()
    assert listing.class_names == (COMPOSED, "cat", "dog")
    assert listing.samples[2].annotation.read(8, 8, Contents()).labels == (COMPOSED,)
    assert listing.samples[2].image.exists()


def test_names_of_a_mac_beside_others_in_voc(tmp_path: Path):
    own.write(tmp_path / "JPEGImages" / f"{COMPOSED}.png", own.pixels(0))
    own.write(tmp_path / "SegmentationClass" / f"{DECOMPOSED}.png", own.numbered(own.drawn(0), 1))
    assert len(VocSource(tmp_path).listing().samples) == 1


@pytest.mark.parametrize(("first", "second"), [("cat", "Cat"), ("a_b", "a b"), ("a-b", "a  b")])
def test_classes_that_differ_only_in_how_they_are_written(tmp_path: Path, first: str, second: str):
    text = f"image,label\ni/00.png,{first}\ni/01.png,{second}\n"
    with pytest.raises(UserError, match="differ only in how they are written"):
        CsvSource(own.write_table(tmp_path, text)).listing()
    for name in (first, second):
        own.write(tmp_path / "f" / "images" / name / "1.png", own.pixels(0))
    with pytest.raises(UserError, match="differ only in how they are written"):
        FolderSource(tmp_path / "f").listing()
    (tmp_path / "class_names.txt").write_text(f"{first}\n{second}\n")
    for folder in ("JPEGImages", "SegmentationClass"):
        (tmp_path / folder).mkdir()
    with pytest.raises(UserError, match="differ only in how they are written"):
        VocSource(tmp_path).listing()


def test_letters_are_classes(tmp_path: Path):
    text = "image,label\ni/00.png,a\ni/01.png,A\n"
    assert CsvSource(own.write_table(tmp_path, text)).listing().class_names == ("A", "a")


@pytest.mark.parametrize("label", ["nan", "NaN", "<NA>", "#N/A"])
@pytest.mark.parametrize("column", ["label", "labels"])
def test_missing_values_are_no_class(tmp_path: Path, label: str, column: str):
    text = f"image,{column}\ni/00.png,cat\ni/01.png,{label}\n"
    listing = CsvSource(own.write_table(tmp_path, text)).listing()
    assert listing.class_names == ("cat",)
    assert f"line 3: has the label {label!r}, which tables hold where" in str(listing.problems[0])


@pytest.mark.parametrize(
    ("written", "meant"), [("Train", "train"), ("VAL", "validation"), ("Testing", "test")]
)
def test_rows_whose_split_is_refused_are_named(tmp_path: Path, written: str, meant: str):
    text = f"image,label,split\ni/00.png,a,{written}\ni/01.png,b,validation\n"
    found = told(CsvSource(own.write_table(tmp_path, text)))
    assert f"line 2: has the split {written!r}. Write {meant}." in found


@pytest.mark.parametrize("path", ["C:\\data\\x.png", "C:/data/x.png", "\\\\server\\x.png"])
def test_paths_of_windows(tmp_path: Path, path: str):
    table = own.write_table(tmp_path, f"image,label\n{path},cat\n")
    assert "is a path on a Windows disk. Give a path below" in told(CsvSource(table))


class TestCategories:
    @pytest.mark.parametrize("name", ["cat", "animals", "CAT"])
    @pytest.mark.parametrize("label", ["only", "all"])
    def test_unused_ones_are_dropped(self, tmp_path: Path, name: str, label):
        content = own.coco()
        content["categories"].insert(0, {"id": 0, "name": name, "supercategory": "none"})
        (tmp_path / "a.json").write_text(json.dumps(content))
        listing = CocoSource(tmp_path / "a.json", label=label).listing()
        assert listing.class_names == own.CLASSES

    def test_used_ones_must_differ(self, tmp_path: Path):
        content = own.coco()
        content["categories"][1]["name"] = content["categories"][0]["name"].upper()
        (tmp_path / "a.json").write_text(json.dumps(content))
        with pytest.raises(UserError, match="differ only in how they are written"):
            CocoSource(tmp_path / "a.json").listing()

    def test_whole_floats_are_ids_and_sizes(self, tmp_path: Path):
        content = own.coco()
        for entry in content["images"]:
            entry.update(id=float(entry["id"]), height=float(own.SIDE), width=float(own.SIDE))
        for entry in content["annotations"]:
            entry["category_id"] = float(entry["category_id"])
        (tmp_path / "a.json").write_text(json.dumps(content))
        listing = CocoSource(tmp_path / "a.json").listing()
        assert not listing.problems
        assert len(listing.samples) == 12
        content["images"][0]["id"] = 0.5
        (tmp_path / "a.json").write_text(json.dumps(content))
        assert "has no id" in told(CocoSource(tmp_path / "a.json"))
