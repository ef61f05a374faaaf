"""Bounding boxes as coarse masks: of COCO, VOC and tables."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import own_pictures as own
import pytest

from isnet_jax import UserError
from isnet_jax.data import CocoSource, CsvSource, VocSource
from isnet_jax.data.custom.readers import Contents, Listing, Rejected

BOX = (1, 2, 4, 7)  # left, top, right, bottom


def boxed(*corners: tuple[int, int, int, int]) -> np.ndarray:
    mask = np.zeros((own.SIDE, own.SIDE), bool)
    for left, top, right, bottom in corners or (BOX,):
        mask[top:bottom, left:right] = True
    return mask


def first(listing: Listing):
    assert not listing.problems
    return listing.samples[0].annotation.read(own.SIDE, own.SIDE, Contents())


def xml(*objects: tuple[str, tuple[int, int, int, int]]) -> bytes:
    """VOC counts pixels from 1, and the last ones are inside."""
    entries = "".join(
        f"<object><name>{name}</name><bndbox><xmin>{left + 1}</xmin><ymin>{top + 1}</ymin>"
        f"<xmax>{right}</xmax><ymax>{bottom}</ymax></bndbox></object>"
        for name, (left, top, right, bottom) in objects
    )
    return f"<annotation>{entries}</annotation>".encode()


def sized(height: object, width: object) -> bytes:
    size = f"<size><height>{height}</height><width>{width}</width></size>"
    return xml(("dog", BOX)).replace(b"<annotation>", f"<annotation>{size}".encode())


def voc(root: Path, *objects: tuple[str, tuple[int, int, int, int]]) -> VocSource:
    own.write(root / "JPEGImages" / "a.png", own.pixels(0))
    own.write(root / "Annotations" / "a.xml", xml(*objects))
    return VocSource(root, boxes=True)


def test_coco(tmp_path: Path):
    content = own.coco(1)
    left, top, right, bottom = BOX
    content["annotations"][0] |= {"bbox": [left, top, right - left, bottom - top]}
    del content["annotations"][0]["segmentation"]
    file = own.write_coco(tmp_path, content, 1)
    found = first(CocoSource(file, boxes=True).listing())
    np.testing.assert_array_equal(found.mask, boxed())
    (problem,) = CocoSource(file).listing().problems
    assert "draw masks from the boxes: --boxes" in str(problem)


@pytest.mark.parametrize(
    ("sides", "wrong"),
    [
        ([1, 2, 3], "has no bbox of four numbers"),
        ([1, 2, 0, 3], "has a box without an inside"),
        ([1, 2, "x", 3], "expected four numbers"),
        ([1, float("nan"), 2, 3], "expected four numbers"),
        (["1", "2", "3", "4"], "'1', '2', '3', '4', expected four numbers"),
        ([True, 1, 2, 3], "has the bbox True, 1, 2, 3, expected four numbers"),
        ([10**400, 1, 2, 3], "has the bbox 10000000000000000..., 1, 2, 3, expected four numbers"),
        ([1, 2, 50, 3], "outside of its image"),
        ([0.2, 0.2, 0.4, 0.4], "coordinates of at most 0.6, as shares of the image are"),
        (None, "has no bbox"),
    ],
)
def test_boxes_of_coco_that_are_none(tmp_path: Path, sides: object, wrong: str):
    content = own.coco(1)
    content["annotations"][0]["bbox"] = sides
    listing = CocoSource(own.write_coco(tmp_path, content, 1), boxes=True).listing()
    assert wrong in " ".join(map(str, listing.problems))


def test_voc(tmp_path: Path):
    found = first(voc(tmp_path, ("dog", BOX), ("dog", (6, 0, 8, 1))).listing())
    assert found.labels == ("dog",)
    np.testing.assert_array_equal(found.mask, boxed(BOX, (6, 0, 8, 1)))


@pytest.mark.parametrize("size", [(own.SIDE, own.SIDE), (f" {own.SIDE}.0", own.SIDE), (0, 0)])
def test_sizes_of_voc(tmp_path: Path, size: tuple[object, object]):
    source = voc(tmp_path)
    (tmp_path / "Annotations" / "a.xml").write_bytes(sized(*size))
    np.testing.assert_array_equal(first(source.listing()).mask, boxed())


def test_the_largest_of_several_classes(tmp_path: Path):
    voc(tmp_path, ("dog", BOX), ("cat", (6, 0, 8, 1)))
    source = VocSource(tmp_path, label="largest", boxes=True)
    found = first(source.listing())
    assert found.labels == ("dog",)
    np.testing.assert_array_equal(found.mask, boxed())
    assert first(VocSource(tmp_path, categories=("cow",), boxes=True).listing()) is None


@pytest.mark.parametrize(
    ("data", "wrong"),
    [
        (b"<annotation>", "is not XML"),
        (b"<annotation/>", "names no object"),
        (xml(("unicorn", BOX)), "names the class 'unicorn'"),
        (xml(("dog", (4, 2, 1, 7))), "has a box without an inside"),
        (xml(("dog", (1, 2, 40, 7))), "outside of its image"),
        (xml(("dog", BOX)).replace(b">4<", b">1_0<"), "has the box '2', '3', '1_0', '7'"),
        (xml(("dog", BOX)).replace(b">4<", b">nan<"), "'nan', '7', expected four numbers"),
        (xml(("dog", (-0.8, -0.8, 0.75, 0.75))), "at most 0.75, as shares of the image are"),
        (sized(8, "x"), "has the size '8', 'x', expected two numbers"),
        (sized(16, 9), "is 8 x 8 pixels, but its annotations are for 9 x 16"),
        (xml(("dog", BOX)).replace(b"<name>", b"<name>cat</name><name>"), "two of name"),
        (xml(("dog", BOX)).replace(b"<bndbox>", b"<bndbox/><bndbox>"), "two of bndbox"),
        (b"<a><object><name>dog</name></object></a>", "has the box None"),
    ],
)
def test_bad_boxes_of_voc(tmp_path: Path, data: bytes, wrong: str):
    source = voc(tmp_path)
    (tmp_path / "Annotations" / "a.xml").write_bytes(data)
    (sample,) = source.listing().samples
    with pytest.raises(Exception, match=wrong) as caught:
        sample.annotation.read(own.SIDE, own.SIDE, Contents())
    assert type(caught.value).__name__ == "Rejected"


def test_tables(tmp_path: Path):
    text = "image,xmin,ymin,xmax,ymax,label\ni/00.png,1,2,4,7,cat\ni/01.png,,,,,dog\n"
    listing = CsvSource(own.write_table(tmp_path, text, 2)).listing()
    np.testing.assert_array_equal(first(listing).mask, boxed())
    assert listing.samples[1].annotation.read(own.SIDE, own.SIDE, Contents()).mask is None
    for header in ("image,xmin,ymax,label\n", "image,mask,xmin,ymin,xmax,ymax,label\n"):
        with pytest.raises(UserError, match="either mask, or all of xmin, ymin, xmax, ymax"):
            CsvSource(own.write_table(tmp_path, header, 0)).listing()
    bad = "image,xmin,ymin,xmax,ymax,label\ni/00.png,1,2,,7,cat\n"
    (problem,) = CsvSource(own.write_table(tmp_path, bad, 1)).listing().problems
    assert "expected four numbers" in str(problem)
    shares = "image,xmin,ymin,xmax,ymax,label\ni/00.png,0,0,1,1,cat\n"
    (sample,) = CsvSource(own.write_table(tmp_path, shares, 1)).listing().samples
    with pytest.raises(Rejected, match="at most 1, as shares of the image are; expected pixels"):
        sample.annotation.read(own.SIDE, own.SIDE, Contents())


def test_tables_that_tell_the_size_of_their_images(tmp_path: Path):
    text = "image,width,height,xmin,ymin,xmax,ymax,label\ni/00.png,{},8,1,2,4,7,cat\n"
    for width, fits in ((8, True), ("", True), (16, False), ("x", False)):
        listing = CsvSource(own.write_table(tmp_path, text.format(width))).listing()
        if width == "x":
            assert "has the size '8', 'x', expected two numbers" in str(listing.problems[0])
        elif fits:
            assert first(listing).mask.any()
        else:
            with pytest.raises(Rejected, match="is 8 x 8 pixels, but its annotations are for 16 x"):
                first(listing)
