"""The four readers: what they list, and what they say about bad sources."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import own_pictures as own
import pytest

from isnet_jax.data import CocoSource, CsvSource, FolderSource, VocSource
from isnet_jax.data.custom.readers import Annotated, Contents, Listing, Rejected, Sample, Source
from isnet_jax.errors import UserError


def read(sample: Sample) -> Annotated:
    found = sample.annotation.read(own.SIDE, own.SIDE, Contents())
    assert found is not None
    return found


def told(source: Source) -> str:
    """All problems, line by line."""
    return "\n".join(map(str, source.listing().problems))


def right(listing: Listing, count: int) -> bool:
    """Whether every sample has the mask of its number."""
    numbers = [int(Path(sample.id).stem) for sample in listing.samples]
    return sorted(numbers) == list(range(count)) and all(
        np.array_equal(read(sample).mask, own.drawn(number))
        for sample, number in zip(listing.samples, numbers, strict=True)
    )


class TestFolder:
    def test_images_and_masks_by_class(self, tmp_path: Path):
        listing = FolderSource(own.write_folder(tmp_path)).listing()
        assert not listing.problems
        assert listing.class_names == ("cat", "dog")
        assert right(listing, 12)
        assert {(s.id.split("/")[1], *read(s).labels) for s in listing.samples} == {
            ("cat", "cat"),
            ("dog", "dog"),
        }

    def test_splits_are_folders(self, tmp_path: Path):
        for number, split in enumerate(("train", "test", "test_hospital2")):
            own.write_folder(tmp_path / split, 2, first=4 * number)
        samples = FolderSource(tmp_path).listing().samples
        assert {sample.split for sample in samples} == {"train", "test", "test_hospital2"}
        assert all(sample.id.startswith(f"{sample.split}/") for sample in samples)

    def test_suffixes_may_differ_and_hidden_files_do_not_count(self, tmp_path: Path):
        own.write_folder(tmp_path)
        masks = tmp_path / "masks" / "cat"
        (masks / "00.png").rename(masks / "00.PNG")
        own.write(tmp_path / "images" / "cat" / "._00.png", b"x")
        own.write(tmp_path / "images" / ".DS_Store", b"x")
        listing = FolderSource(tmp_path).listing()
        assert not listing.problems
        assert right(listing, 12)

    def test_problems_are_listed(self, tmp_path: Path):
        own.write_folder(tmp_path)
        cat = tmp_path / "images" / "cat"
        own.write(cat / "00.jpg", b"x")
        (cat / "x.png").mkdir()
        own.write(cat / "notes.txt", b"x")
        own.write(cat.parent / "loose.png", b"x")
        (cat.parent / "cow").mkdir()
        (cat / "05.png").unlink()
        own.write(tmp_path / "masks" / "dog" / "11.bmp", b"x")
        (cat / "a\nb\x1b.txt").write_text("x")
        found = told(FolderSource(tmp_path))
        for line in (
            "images/cat/00.jpg: has a duplicate name: 00.jpg and 00.png",
            "images/cat/x.png: is a folder, expected images only",
            "images/cat/notes.txt: is no image by its name",
            "images/loose.png: lies directly in images/",
            "images/cow: has no images",
            "masks/cat/05.png: is a mask without an image",
            "masks/dog/11.bmp: has a duplicate name: 11.bmp and 11.png are masks",
            r"images/cat/a\nb\x1b.txt: is no image",
        ):
            assert line in found
        assert len(found.splitlines()) == 8

    def test_names_that_are_not_utf8(self, tmp_path: Path):
        own.write_folder(tmp_path)
        os.mkdir(os.fsencode(tmp_path / "images") + b"/\xff")
        Path(os.fsdecode(os.fsencode(tmp_path / "images" / "cat") + b"/\xfe.png")).write_bytes(b"x")
        found = told(FolderSource(tmp_path))
        assert r"images/\udcff: has a name that is not UTF-8" in found
        assert r"images/cat/\udcfe.png: has a name that is not UTF-8" in found

    def test_links_are_followed_but_never_round(self, tmp_path: Path):
        own.write_folder(tmp_path / "elsewhere")
        (tmp_path / "data").mkdir()
        (tmp_path / "data" / "images").symlink_to(tmp_path / "elsewhere" / "images")
        (tmp_path / "data" / "masks").symlink_to(tmp_path / "elsewhere" / "masks")
        loop = tmp_path / "elsewhere" / "images" / "cat" / "loop"
        loop.symlink_to(loop.parent)
        listing = FolderSource(tmp_path / "data").listing()
        assert right(listing, 12)
        assert [str(p) for p in listing.problems] == [
            "images/cat/loop: is a folder, expected images only. Move or remove it."
        ]

    @pytest.mark.parametrize(
        ("folders", "message"),
        [
            ((), "has no folder images/. Expected images/CLASS/x.png"),
            (("train", "test"), "has no folder images/"),
            (("images/cat", "train/images"), "holds both images/ and train/"),
            (("train/images", "val/images"), "unknown split 'val'"),
            (("train/images",), "splits train; expected at least train and test"),
            (("train/images", "test"), "test/images does not exist"),
        ],
    )
    def test_other_layouts(self, tmp_path: Path, folders: tuple[str, ...], message: str):
        for folder in folders:
            (tmp_path / folder).mkdir(parents=True)
        with pytest.raises(UserError, match=message):
            FolderSource(tmp_path).listing()

    def test_no_folder(self, tmp_path: Path):
        with pytest.raises(UserError, match="does not exist; expected a folder with images"):
            FolderSource(tmp_path / "absent").listing()
        (tmp_path / "loop").symlink_to("loop")
        with pytest.raises(UserError, match="is not a folder"):
            FolderSource(tmp_path / "loop").listing()


class TestTable:
    def test_one_class_a_row(self, tmp_path: Path):
        listing = CsvSource(own.write_table(tmp_path, own.rows())).listing()
        assert not listing.problems
        assert not listing.multi_label
        assert listing.class_names == ("cat", "dog")
        assert right(listing, 12)
        assert [read(sample).labels for sample in listing.samples[:2]] == [("cat",), ("dog",)]

    def test_several_classes_in_one_column(self, tmp_path: Path):
        text = "image,labels\ni/00.png,fluid|mass\ni/01.png,\ni/02.png, mass \n"
        listing = CsvSource(own.write_table(tmp_path, text)).listing()
        assert listing.multi_label
        assert listing.class_names == ("fluid", "mass")
        labels = [read(sample) for sample in listing.samples]
        assert [found.labels for found in labels] == [("fluid", "mass"), (), ("mass",)]
        assert all(found.mask is None for found in labels)

    def test_a_column_for_each_class(self, tmp_path: Path):
        text = "image,age,fluid,mass\ni/00.png,61,1,0\ni/01.png,5,0.0,1.0\n"
        table = own.write_table(tmp_path, text)
        listing = CsvSource(table, label_columns=("fluid", "mass")).listing()
        assert listing.class_names == ("fluid", "mass")
        assert [read(s).labels for s in listing.samples] == [("fluid",), ("mass",)]
        found = told(CsvSource(table))
        assert "data.csv line 2: has '61' in the column 'age', expected 0 or 1" in found
        assert "--label-columns" in found

    @pytest.mark.parametrize("change", ["bom", "crlf", "quotes", "cr", "blank lines", "no end"])
    def test_what_spreadsheets_write(self, tmp_path: Path, change: str):
        text = {
            "bom": "\ufeff" + own.rows(),
            "crlf": own.rows().replace("\n", "\r\n"),
            "cr": own.rows().replace("\n", "\r"),
            "quotes": own.rows().replace("cat", '"cat"'),
            "blank lines": own.rows().replace("\n", "\n\n,,\n"),
            "no end": own.rows().rstrip(),
        }[change]
        listing = CsvSource(own.write_table(tmp_path, text)).listing()
        assert not listing.problems
        assert listing.class_names == ("cat", "dog")
        assert right(listing, 12)

    def test_unicode(self, tmp_path: Path):
        own.write(tmp_path / "ä, ö.png", own.pixels(50))
        table = own.write_table(tmp_path, own.rows() + '"ä, ö.png",m/00.png,größer\n')
        listing = CsvSource(table).listing()
        assert listing.samples[-1].id == "ä, ö.png"
        assert listing.class_names == ("cat", "dog", "größer")

    def test_splits(self, tmp_path: Path):
        text = "image,mask,label,split\ni/00.png,,a,train\ni/01.png,,b,test_far\ni/02.png,,b,dev\n"
        source = CsvSource(own.write_table(tmp_path, text))
        assert [sample.split for sample in source.listing().samples] == ["train", "test_far"]
        assert "line 4: has the split 'dev'. Write train, validation, test" in told(source)

    @pytest.mark.parametrize(
        ("row", "message"),
        [
            ("../x.png,,cat", "line 14: '../x.png' leads out of"),
            ("i/../../x.png,,cat", "leads out of"),
            ("/etc/passwd,,cat", "'/etc/passwd' leads out of"),
            (".,,cat", "leads out of"),
            ("i/05.png,,cat", "names the image of line 7 again"),
            ("i/./05.png,,cat", "names the image of line 7 again"),
            ("i\\05.png,,cat", "Write paths with / instead of backslashes"),
            ('"i/\t.png",,cat', "control characters"),
            (",,cat", "is an empty path"),
            ("new.png,new.png,cat", "names one file as image and as mask"),
            ("new.png,,", "has no label"),
            ("new.png,,c\x1ft", r"has a label with invisible characters: 'c\x1ft'"),
            ("new.png,cat", "has 2 cells, but the header 3"),
            ("new.png,,a,b", "has 4 cells, but the header 3"),
        ],
    )
    def test_bad_rows(self, tmp_path: Path, row: str, message: str):
        source = CsvSource(own.write_table(tmp_path, own.rows() + row + "\n"))
        assert message in told(source)
        assert len(source.listing().samples) == 12

    @pytest.mark.parametrize(
        ("data", "message"),
        [
            (b"", r"is empty \(0 bytes\)"),
            (b"\n\n", "has no rows"),
            (b"image,label\xff\n", "line 1 holds the byte 0xff"),
            (b"image,label\ni\0,cat\n", "holds a NUL byte in line 2"),
            ("image,label\n".encode("utf-16"), "is not UTF-8"),
            ("image,label\n".encode("utf-16-le"), "NUL byte in line 1"),
            (b'image,label\n"a"b,c\n', "line 2: not a CSV table"),
            (b'image,label\n"a,c\n', "not a CSV table"),
            (b"image,label\n" + b"x" * 200_000 + b",c\n", "not a CSV table"),
            (b"image;label\na;b\n", "not separated by commas"),
            (b"file,label\na,b\n", "has no column 'image'; its columns are 'file', 'label'"),
            (b"image,image,label\n", "two columns 'image'"),
            (b"image,mask,label\x1e\n", "name has invisible characters"),
            (b"image,,label\n", "column 2 has no name"),
            (b"image,mask\na,b\n", "has no labels"),
            (b"image,label,labels\n", "both columns 'label' and 'labels'"),
            (b"image,label,split\ni/00.png,a,train\n", "splits train; expected at least"),
        ],
    )
    def test_tables_that_are_none(self, tmp_path: Path, data: bytes, message: str):
        table = own.write_table(tmp_path, "")
        table.write_bytes(data)
        with pytest.raises(UserError, match=message):
            CsvSource(table).listing()

    def test_no_table(self, tmp_path: Path):
        with pytest.raises(UserError, match="is missing; expected a CSV table"):
            CsvSource(tmp_path / "absent.csv").listing()
        with pytest.raises(UserError, match="is a folder, expected a file"):
            CsvSource(tmp_path).listing()

    def test_label_columns_that_are_none(self, tmp_path: Path):
        table = own.write_table(tmp_path, own.rows())
        with pytest.raises(UserError, match="has no column 'cow'"):
            CsvSource(table, label_columns=("cow",)).listing()
        with pytest.raises(UserError, match="names 'mask', which holds no label"):
            CsvSource(table, label_columns=("mask",)).listing()


class TestCoco:
    def test_polygons_become_masks_and_categories_classes(self, tmp_path: Path):
        listing = CocoSource(own.write_coco(tmp_path, own.coco())).listing()
        assert not listing.problems
        assert listing.class_names == ("cat", "dog")
        assert right(listing, 12)
        assert [read(s).labels for s in listing.samples[:2]] == [("cat",), ("dog",)]

    def test_several_categories_in_an_image(self, tmp_path: Path):
        content = own.coco()
        small = {"image_id": 0, "category_id": 8, "segmentation": [[6, 6, 8, 6, 8, 8, 6, 8]]}
        content["annotations"].append(small)
        file = own.write_coco(tmp_path, content)
        assert "shows objects of 2 classes: cat, dog" in told(CocoSource(file))
        first = CocoSource(file, label="largest").listing().samples[0]
        assert read(first).labels == ("cat",)
        assert np.array_equal(read(first).mask, own.drawn(0))
        first = CocoSource(file, label="all").listing().samples[0]
        assert read(first).labels == ("cat", "dog")
        assert read(first).mask.sum() == own.drawn(0).sum() + 4
        listing = CocoSource(file, categories=("dog",)).listing()
        assert len(listing.samples) == 7
        assert read(listing.samples[0]).mask.sum() == 4
        assert not listing.problems

    def test_what_overlaps_covers_no_more(self, tmp_path: Path):
        content = own.coco(2)
        wide = {"image_id": 0, "category_id": 8, "segmentation": [[0, 0, 8, 0, 8, 2, 0, 2]]}
        content["annotations"] += [content["annotations"][0], wide]
        first = CocoSource(own.write_coco(tmp_path, content), label="largest").listing().samples[0]
        assert read(first).labels == ("dog",)
        assert read(first).mask.sum() == 16 > own.drawn(0).sum()

    def test_masks_are_refused_for_images_of_another_size(self, tmp_path: Path):
        listing = CocoSource(own.write_coco(tmp_path, own.coco())).listing()
        with pytest.raises(Rejected, match="is 9 x 8 pixels, but its annotations are for 8 x 8"):
            listing.samples[0].annotation.read(8, 9, Contents())

    @pytest.mark.parametrize(
        ("part", "number", "change", "message"),
        [
            ("images", 3, {"file_name": "../x.png"}, "images[3]: '../x.png' leads out of"),
            ("images", 3, {"file_name": "/etc/passwd"}, "leads out of"),
            ("images", 3, {"file_name": None}, "images[3]: has no file_name"),
            ("images", 3, {"file_name": "i/02.png"}, "images[3]: names i/02.png again"),
            ("images", 3, {"id": 2}, "has the id 2 of another image"),
            ("images", 3, {"id": None}, "images[3]: has no id"),
            ("images", 3, {"id": 99}, "images[3]: (i/03.png) has no annotation"),
            ("images", 3, {"id": 99}, "annotations[3]: belongs to an image 3 that is not listed"),
            ("images", 3, {"height": 0}, "has no height and width"),
            ("images", 3, {"width": True}, "has no height and width"),
            ("annotations", 3, {"image_id": []}, "annotations[3]: has no image_id"),
            ("annotations", 3, {"category_id": 9}, "has the unknown category_id 9"),
            (
                "annotations",
                3,
                {"segmentation": []},
                "annotations[3]) has a segment that",
            ),
            ("annotations", 3, {"segmentation": [[0, 0, 99, 0, 9, 9]]}, "x = 99, outside"),
        ],
    )
    def test_bad_entries(self, tmp_path: Path, part: str, number: int, change: dict, message: str):
        content = own.coco()
        content[part][number] |= change
        source = CocoSource(own.write_coco(tmp_path, content))
        assert message in told(source)
        assert len(source.listing().samples) == 11

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("", "is empty"),
            ("{", "is not JSON"),
            ("[" * 100_000, "is not JSON"),
            ("[]", "has no list 'images'"),
            ('{"images": [], "annotations": {}}', "has no list 'annotations'"),
            ("[" + "9" * 5000 + "]", "is not JSON"),
            ('{"images": [], "images": []}', "an object has 'images' twice"),
        ],
    )
    def test_files_that_are_none(self, tmp_path: Path, text: str, message: str):
        (tmp_path / "coco.json").write_text(text)
        with pytest.raises(UserError, match=message):
            CocoSource(tmp_path / "coco.json").listing()

    @pytest.mark.parametrize(
        ("categories", "message"),
        [
            ([{"id": 7}], r"categories\[0\] has no name"),
            ([{"name": "x"}], r"categories\[0\] has no id"),
            ([{"id": 7, "name": "x"}, {"id": 7, "name": "y"}], "repeats the id or name"),
            ([7], r"categories\[0\] has no id"),
        ],
    )
    def test_bad_categories(self, tmp_path: Path, categories: Any, message: str):
        file = own.write_coco(tmp_path, own.coco() | {"categories": categories})
        with pytest.raises(UserError, match=message):
            CocoSource(file).listing()

    def test_an_unknown_category_and_rule(self, tmp_path: Path):
        file = own.write_coco(tmp_path, own.coco())
        with pytest.raises(UserError, match="unknown category 'dgo'; did you mean 'dog'"):
            CocoSource(file, categories=("dgo",)).listing()
        with pytest.raises(UserError, match="unknown rule for labels 'every'"):
            CocoSource(file, label="every")  # pyright: ignore


class TestVoc:
    def test_class_masks(self, tmp_path: Path):
        listing = VocSource(own.write_voc(tmp_path)).listing()
        assert not listing.problems
        assert listing.class_names == ("cat", "dog")
        assert right(listing, 12)
        assert [read(s).labels for s in listing.samples[:2]] == [("cat",), ("dog",)]

    def two_classes(self, root: Path) -> Path:
        """A cat, a smaller dog and void pixels in image 00."""
        own.write_voc(root)
        numbers = own.drawn(0).astype(np.uint8)
        numbers[6:8, 6:8], numbers[0] = 2, 255
        own.write(root / "SegmentationClass" / "00.png", own.png(numbers))
        return root

    def test_several_classes_in_an_image(self, tmp_path: Path):
        root = self.two_classes(tmp_path)
        with pytest.raises(Rejected, match="objects of 2 classes: cat, dog"):
            read(VocSource(root).listing().samples[0])
        largest = read(VocSource(root, label="largest").listing().samples[0])
        assert largest.labels == ("cat",)
        assert np.array_equal(largest.mask, own.drawn(0))
        everything = read(VocSource(root, label="all").listing().samples[0])
        assert everything.labels == ("cat", "dog")
        assert everything.mask.sum() == 16
        dogs = VocSource(root, categories=("dog",)).listing()
        assert read(dogs.samples[0]).mask.sum() == 4
        assert dogs.samples[2].annotation.read(8, 8, Contents()) is None

    def test_the_largest_instance(self, tmp_path: Path):
        root = self.two_classes(tmp_path)
        for number in range(12):
            instances = own.drawn(number).astype(np.uint8)
            if number == 0:
                instances[6:8, 6:8] = 3
                instances[1] *= 2
            own.write(root / "SegmentationObject" / f"{number:02d}.png", own.png(instances))
        source = VocSource(root, largest_instance=True)
        found = read(source.listing().samples[0])
        assert found.labels == ("cat",)
        expected = own.drawn(0)
        expected[1] = False
        assert np.array_equal(found.mask, expected)
        (root / "SegmentationObject" / "03.png").unlink()
        assert "SegmentationClass/03.png: has no mask of instances" in told(source)
        own.write(root / "SegmentationObject" / "00.png", own.png(np.ones((8, 8), np.uint8)))
        with pytest.raises(Rejected, match="an instance 1 that lies on several classes"):
            read(source.listing().samples[0])

    def test_bad_masks(self, tmp_path: Path):
        root = own.write_voc(tmp_path)
        masks = root / "SegmentationClass"
        own.write(masks / "00.png", own.numbered(own.drawn(0), 3))
        own.write(masks / "01.png", own.numbered(own.drawn(0), 0))
        own.write(masks / "02.png", own.png(own.pixels(0)))
        own.write(masks / "99.png", own.numbered(own.drawn(0), 1))
        listing = VocSource(root).listing()
        assert "SegmentationClass/99.png: is a mask without an image" in told(VocSource(root))
        for number, message in enumerate(
            ("class number 3, but there are 2 classes", "is an empty mask", "expected a palette")
        ):
            with pytest.raises(Rejected, match=message):
                read(listing.samples[number])

    def test_vocs_own_classes_and_bad_names(self, tmp_path: Path):
        root = own.write_voc(tmp_path)
        (root / "class_names.txt").unlink()
        assert read(VocSource(root).listing().samples[0]).labels == ("aeroplane",)
        (root / "class_names.txt").write_text("cat\ncat\n")
        with pytest.raises(UserError, match="must hold the name of each class once"):
            VocSource(root).listing()

    def test_other_layouts(self, tmp_path: Path):
        with pytest.raises(UserError, match="JPEGImages does not exist; expected the images"):
            VocSource(tmp_path).listing()


def test_contents_notice_a_change(tmp_path: Path):
    file = own.write(tmp_path / "x", b"first")
    first = Contents()
    first.read(file)
    assert Contents(first.digests).read(file) == b"first"
    file.write_bytes(b"other")
    with pytest.raises(UserError, match="changed while the data were being prepared"):
        Contents(first.digests).read(file)
