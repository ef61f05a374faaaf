"""Names: one Unicode form, none that stands for no value, no two that look alike."""

import json
import re
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


def test_names_of_a_mac_in_headers_and_options(tmp_path: Path):
    text = f"image,{DECOMPOSED},dog,age\ni/00.png,1,0,7\ni/01.png,0,1,8\n"
    for columns in ((COMPOSED, "dog"), (DECOMPOSED, "dog")):
        source = CsvSource(own.write_table(tmp_path, text), label_columns=columns)
        listing = source.listing()
        assert listing.class_names == (COMPOSED, "dog")
        assert listing.samples[0].annotation.read(8, 8, Contents()).labels == (COMPOSED,)
    content = own.coco()
    content["categories"][0]["name"] = COMPOSED
    coco = CocoSource(own.write_coco(tmp_path, content), categories=(DECOMPOSED,))
    assert coco.listing().class_names == (COMPOSED,)
    own.write_voc(tmp_path)
    (tmp_path / "class_names.txt").write_text(f"{COMPOSED}\ndog\n")
    assert VocSource(tmp_path, categories=(DECOMPOSED,)).listing().class_names == (COMPOSED,)


def test_names_of_a_mac_beside_others_in_voc(tmp_path: Path):
    own.write(tmp_path / "JPEGImages" / f"{COMPOSED}.png", own.pixels(0))
    own.write(tmp_path / "SegmentationClass" / f"{DECOMPOSED}.png", own.numbered(own.drawn(0), 1))
    assert len(VocSource(tmp_path).listing().samples) == 1


@pytest.mark.parametrize(
    ("first", "second"),
    [
        *(("cat", "Cat"), ("a_b", "a b"), ("a-b", "a  b"), ("cat", "\uff43\uff41\uff54")),
        *(("COVID\u201319", "COVID-19"), ("covid 19", "covid19"), ("pottedplant", "potted plant")),
        *(("Crohn's", "Crohn\u2019s"), ("cat", "\u0441\u0430t"), ("cat", "'cat'"), ("cat.", "cat")),
        *(("St. Bernard", "St Bernard"), ("class_01", "class 1")),
        *(("1", "1.0"), ("1", "01"), ("1", "\uff11"), ("+7", "7."), ("-1", "-1.00")),
    ],
)
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


def test_what_is_written_alike_and_means_something_else(tmp_path: Path):
    labels = [
        "1 1",
        "11",
        "v1.1",
        "v1.10",
        "v11",
        "2.5 mm",
        "25 mm",
        "AB+",
        "AB-",
        "x",
        "\u00b5m",
        "mm",
    ]
    lines = [f"i/{number:02d}.png,{label}" for number, label in enumerate(labels)]
    table = own.write_table(tmp_path, "\n".join(["image,label", *lines]), len(labels))
    assert len(CsvSource(table).listing().class_names) == len(labels)


@pytest.mark.parametrize(
    ("column", "label", "message"),
    [
        ("label", "cat|dog", r"line 4: has the label 'cat\|dog', with the mark between several"),
        ("label", '"cat, dog"', r"the class 'cat, dog' is made of the classes 'cat' and 'dog'"),
        ("label", "cat;dog", r"the class 'cat;dog' is made of the classes 'cat' and 'dog'"),
        ("labels", '"cat,dog"', r"the class 'cat,dog' is made of the classes 'cat' and 'dog'"),
        ("labels", "cow;cat", r"line 4: has the labels 'cow;cat'. Write each class once, separat"),
        ("labels", "\"['cat', 'cow']\"", r"line 4: has the labels .*Write each class once, separ"),
    ],
)
def test_several_classes_in_one_name(tmp_path: Path, column: str, label: str, message: str):
    text = f"image,{column}\ni/00.png,cat\ni/01.png,dog\ni/02.png,{label}\n"
    source = CsvSource(own.write_table(tmp_path, text))
    if "made of" in message:
        with pytest.raises(UserError, match=message):
            source.listing()
    else:
        assert re.search(message, told(source))


def test_quotes_behind_blanks(tmp_path: Path):
    table = own.write_table(tmp_path, 'image,label\ni/00.png,cat\ni/01.png, "dog"\n')
    with pytest.raises(UserError, match=r'line 3: a cell has quotes that are no part of it: "dog"'):
        CsvSource(table).listing()


def test_numbers_are_classes_and_names_of_files(tmp_path: Path):
    labels = [*map(str, range(-1, 11)), "1.1", "1.10", "100"]
    for number in range(len(labels)):
        own.write(tmp_path / f"{number}.0.png", own.pixels(20 + number))
    lines = [f"{number}.0.png,{label}" for number, label in enumerate(labels)]
    lines += ["i/01.png,1", "i/1.png,1", "i/1.0.png,1"]
    table = own.write_table(tmp_path, "\n".join(["image,label", *lines]))
    listing = CsvSource(table).listing()
    assert not listing.problems
    assert listing.class_names == tuple(sorted(labels))


def test_columns_that_are_written_otherwise(tmp_path: Path):
    for column in ("Split", "SPLIT ", "\uff53\uff50\uff4c\uff49\uff54", "Mask", "x_min", "Labels"):
        table = own.write_table(tmp_path, f"image,label,{column}\ni/00.png,cat,test\n", 1)
        with pytest.raises(UserError, match=r"the column '.*' is not read; expected '[a-z]+'\. Re"):
            CsvSource(table).listing()
    table = own.write_table(tmp_path, "image,Mask,none\ni/00.png,1,0\ni/01.png,0,1\n", 2)
    listing = CsvSource(table, label_columns=("Mask", "none")).listing()
    assert listing.class_names == ("Mask", "none")


@pytest.mark.parametrize(
    ("column", "values", "meant"),
    [
        ("set", ("train", "test"), "split"),
        ("phase", ("Training", "val"), "split"),
        ("mask_path", ("m/00.png", "m/01.png"), "mask"),
        ("fold", ("1", "2"), None),
        ("from", ("train", "station"), None),
        ("thumbnail", ("m/00.png", "none"), None),
    ],
)
def test_columns_that_are_called_otherwise(tmp_path: Path, column: str, values, meant):
    lines = [f"i/{n:02d}.png,cat{n % 2},{values[n % 2]}" for n in range(4)]
    source = CsvSource(own.write_table(tmp_path, "\n".join([f"image,label,{column}", *lines]), 4))
    if meant is None:
        assert len(source.listing().samples) == 4
    else:
        with pytest.raises(UserError, match=f"'{column}' is not read, .* Call it {meant}, or"):
            source.listing()


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        ("masks", "Masks", "the folder 'Masks' is not read; expected 'masks'. Rename it"),
        ("images", "IMAGES", "the folder 'IMAGES' is not read; expected 'images'"),
        ("other", "Test", "holds both images/ and Test/"),
        ("other", "val", "holds both images/ and val/"),
    ],
)
def test_folders_that_are_written_otherwise(tmp_path: Path, before: str, after: str, message: str):
    own.write_folder(tmp_path)
    (tmp_path / "other").mkdir()
    (tmp_path / before).rename(tmp_path / after)
    with pytest.raises(UserError, match=message):
        FolderSource(tmp_path).listing()


def test_folders_of_splits_that_are_written_otherwise(tmp_path: Path):
    for split in ("train", "test"):
        own.write_folder(tmp_path / split)
    (tmp_path / "test" / "masks").rename(tmp_path / "test" / "Masks")
    with pytest.raises(UserError, match=r"test: the folder 'Masks' is not read"):
        FolderSource(tmp_path).listing()


def test_files_of_voc_that_are_written_otherwise(tmp_path: Path):
    own.write_voc(tmp_path)
    (tmp_path / "annotations").mkdir()  # Not read without boxes.
    assert not VocSource(tmp_path).listing().problems
    (tmp_path / "class_names.txt").rename(tmp_path / "Class-Names.txt")
    with pytest.raises(UserError, match=r"'Class-Names.txt' is not read; expected 'class_names.t"):
        VocSource(tmp_path).listing()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("cat\n\ndog\n", "line 2 is blank; expected the name of the class number 2"),
        ("\ncat\ndog\n", "line 1 is blank"),
        ("\n", "line 1 is blank"),
        ("background\ncat\ndog\n", "line 1 is 'background', which has no line"),
        ("__ignore__\n_background_\ncat\ndog\n", "line 1 is '__ignore__', which has no line"),
        ("0: Background\ncat\ndog\n", "line 1 is '0: Background', which has no line"),
        ("0 background\n1 cat\n2 dog\n", "line 1 is '0 background', which has no line"),
        ('["cat",\n"dog"]', "of a list or dictionary of a program"),
        ("2 cat\n1 dog\n", "line 1 is '2 cat', of another number"),
        ("0: cat\n1: dog\n", "line 1 is '0: cat', of another number"),
        ("cat\n# not mine\ndog\n", "line 2 is a comment: '# not mine'"),
    ],
)
def test_lines_that_would_shift_the_classes_behind_them(tmp_path: Path, text: str, message: str):
    own.write_voc(tmp_path)
    (tmp_path / "class_names.txt").write_text(text)
    with pytest.raises(UserError, match=message):
        VocSource(tmp_path).listing()


def test_lines_that_begin_with_numbers(tmp_path: Path):
    own.write_voc(tmp_path)
    for text in (
        "2 doors\n4 doors\n",
        "0 fingers\n1 fingers\n",
        "1 cat\n2 dog\n",
        "7 cat\n9 dog\n",
    ):
        (tmp_path / "class_names.txt").write_text(text)
        assert VocSource(tmp_path).listing().class_names == tuple(text.splitlines())


@pytest.mark.parametrize("text", ["cat\r\ndog\r\n\r\n", "cat\rdog", "\ufeffcat \n dog\n\n"])
def test_lines_of_other_systems(tmp_path: Path, text: str):
    own.write_voc(tmp_path)
    (tmp_path / "class_names.txt").write_bytes(text.encode())
    assert VocSource(tmp_path).listing().class_names == ("cat", "dog")


@pytest.mark.parametrize("label", ["NaN", "<NA>", "#N/A", "NA", "n/a", "NULL", "#REF!"])
@pytest.mark.parametrize("column", ["label", "labels"])
def test_missing_values_are_no_class(tmp_path: Path, label: str, column: str):
    text = f"image,{column}\ni/00.png,cat\ni/01.png,{label}\n"
    listing = CsvSource(own.write_table(tmp_path, text)).listing()
    assert listing.class_names == ("cat",)
    assert f"line 3: has the label {label!r}, which tables hold where" in str(listing.problems[0])


@pytest.mark.parametrize("name", ["nan", "NA"])
def test_missing_values_are_no_class_of_other_sources(tmp_path: Path, name: str):
    own.write_folder(tmp_path)
    for kind in ("images", "masks"):
        (tmp_path / kind / "cat").rename(tmp_path / kind / name)
    content = own.coco()
    content["categories"][0]["name"] = name
    own.write_voc(tmp_path / "voc")
    (tmp_path / "voc" / "class_names.txt").write_text(f"{name}\ndog\n")
    coco = CocoSource(own.write_coco(tmp_path / "coco", content))
    table = CsvSource(own.write_table(tmp_path, f"image,{name},dog\ni/00.png,1,0\n"))
    for source in (FolderSource(tmp_path), coco, VocSource(tmp_path / "voc"), table):
        with pytest.raises(UserError, match=f"a class is called '{name}', which tables hold where"):
            source.listing()


@pytest.mark.parametrize(
    ("written", "meant"), [("Train", "train"), ("VAL", "validation"), ("Testing", "test")]
)
def test_rows_whose_split_is_refused_are_named(tmp_path: Path, written: str, meant: str):
    text = f"image,label,split\ni/00.png,a,{written}\ni/01.png,b,validation\n"
    found = told(CsvSource(own.write_table(tmp_path, text)))
    assert f"line 2: has the split {written!r}. Write {meant}." in found


def test_blanks_around_paths(tmp_path: Path):
    text = "image , mask, label\n i/00.png, m/00.png , cat\ni/01.png\u00a0, m/01.png,dog\n"
    own.write(tmp_path / " i" / "02.png", own.pixels(9))
    listing = CsvSource(own.write_table(tmp_path, f"{text} i/02.png,,dog\n")).listing()
    assert [sample.id for sample in listing.samples] == ["i/00.png", "i/01.png", " i/02.png"]
    assert all(path.is_file() for sample in listing.samples for path in sample.annotation.files)
    content = own.coco(1)
    content["images"][0]["file_name"] = " i/00.png"
    assert CocoSource(own.write_coco(tmp_path, content)).listing().samples[0].id == "i/00.png"
    assert "leads out" in told(CsvSource(own.write_table(tmp_path, "image,label\n ../x,a\n")))


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
