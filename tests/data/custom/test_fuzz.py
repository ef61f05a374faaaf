"""Malformed folders, tables and annotations: an error of ours, or exactly the right data.

With `test_fuzz_pictures.py` the slow version makes 10,000 of them:
`pytest -m slow tests/data/custom`.
"""

from __future__ import annotations

import contextlib
import csv
import io
import json
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import own_pictures as own
import pytest
from fuzzing import counts, fuzz, spoilt
from hypothesis import strategies as st
from own_damage import DAMAGE, MASK_DAMAGE, copied, prepared, same_picture, samples

damages = st.lists(
    st.tuples(
        st.sampled_from(["images", "masks"]),
        st.integers(0, 11),
        st.sampled_from([*DAMAGE, *MASK_DAMAGE]),
        st.integers(0, 10_000),
    ),
    min_size=1,
    max_size=3,
    unique_by=lambda damage: damage[:2],
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return own.write_folder(tmp_path_factory.mktemp("folder"))


@counts(120, 1500)
def test_folders(examples: int, folder: Path):
    def test(case: tuple[list[tuple[str, int, str, int]], bool, bool]) -> None:
        done, skip, partly = case
        with copied(folder) as source:
            spoilt = set()
            for kind, number, damage, value in done:
                name = own.CLASSES[number >= 6]
                if damage in MASK_DAMAGE:
                    kind = "masks"
                action, fatal = {**DAMAGE, **MASK_DAMAGE}[damage]
                path = source / kind / name / f"{number:02d}.png"
                if not path.is_file():
                    continue
                action(path, value)
                if fatal:
                    spoilt.add((kind, f"images/{name}/{number:02d}.png"))
            out = source.parent / "out"
            flags = ["--skip-bad"] * skip + ["--allow-missing-masks"] * partly
            splits = prepared(out, "folder", source, *flags)
            if splits is None:
                return
            assert skip or partly or not spoilt, spoilt
            for name, image, mask, label in samples(splits):
                assert ("images", name) not in spoilt
                assert mask is None or ("masks", name) not in spoilt
                assert name.split("/")[1] == label
                path = source / name
                assert same_picture(path, image), name
                if mask is not None:
                    drawn = source / "masks" / label / path.name
                    assert same_picture(drawn, np.repeat(mask[..., None], 3, 2) * np.uint8(255))

    fuzz(examples, st.tuples(damages, st.booleans(), st.booleans()), test)


CELLS = st.one_of(
    st.sampled_from(
        [
            *("", " ", "cat", "dog", "0", "1", "1.0", "-1", "nan", "train", "test", "|", "a|b"),
            *("../x.png", "i", ".", "/etc/passwd", "i/../../x.png", "i\\00.png", "i/01.png/"),
            *("i/00.png", "i/99.png", "m/00.png", "i/./01.png", "i//02.png", "loop.png", "~/x.png"),
            *("i/00.png\x00", "a\tb", '"', "'", "ü", "\u202e", "\x1b[31m", "=1+1", "x" * 200_000),
            *("cat|dog", "cat|cat"),
        ]
    ),
    st.text(max_size=8),
)
HEADERS = st.sampled_from(
    [["image", "mask", "label"]] * 6
    + [["image", "mask", "labels"], ["image", "mask", "label", "split"], ["image", "label"]]
    + [["image", "mask", "cat", "dog"], ["image", "mask"], ["mask", "label"], ["image", "image"]]
    + [["image", "mask", "label", "labels"], ["image", "mask", "label", ""], ["image;mask;label"]]
)


@st.composite
def tables(draw: st.DrawFn) -> tuple[bytes, bool, bool]:
    """A good table with some cells, then some bytes, changed."""
    header = list(draw(HEADERS))
    lines = []
    for n in range(12):
        good = {"image": f"i/{n:02d}.png", "mask": f"m/{n:02d}.png", "label": own.CLASSES[n % 2]}
        good |= {"labels": "cat|dog"[: 3 if n % 2 else 7], "split": "test" if n < 4 else "train"}
        lines.append([good.get(name, str(n % 2)) for name in header])
    for _ in range(draw(st.integers(0, 3))):
        line = lines[draw(st.integers(0, 11))]
        line[draw(st.integers(0, len(line) - 1))] = draw(CELLS)
    if draw(st.integers(0, 5)) == 0:
        lines.append(draw(st.lists(CELLS, max_size=6)))
    text = io.StringIO()
    end = draw(st.sampled_from(["\n", "\r\n", "\r"]))
    csv.writer(text, lineterminator=end).writerows([header, *lines])
    encoding = draw(st.sampled_from(["utf-8"] * 6 + ["utf-8-sig", "utf-16", "latin-1"]))
    data = bytearray(text.getvalue().encode(encoding, "replace"))
    for _ in range(draw(st.sampled_from([0, 0, 0, 1, 3]))):
        place = draw(st.integers(0, len(data)))
        data[place : place + draw(st.integers(0, 2))] = draw(st.binary(max_size=2))
    return bytes(data), draw(st.booleans()), draw(st.booleans())


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("table")
    own.write_table(root, "")
    (root / "loop.png").symlink_to("loop.png")
    own.write(root.parent / "x.png", own.pixels(77))
    return root


@counts(120, 1500)
def test_tables(examples: int, table: Path):
    def test(case: tuple[bytes, bool, bool]) -> None:
        data, skip, partly = case
        with tempfile.TemporaryDirectory() as place:
            file, out = Path(place) / "data.csv", Path(place) / "out"
            file.write_bytes(data)
            flags = ["--skip-bad"] * skip + ["--allow-missing-masks"] * partly
            splits = prepared(out, "csv", file, "--images", table, *flags)
            if splits is None:
                return
            text = data.decode("utf-8-sig")
            for split in splits.values():
                for i, name in enumerate(split.ids):
                    lines = [
                        line for line in re.split(r"[\r\n]+", text) if name.split("/")[-1] in line
                    ]
                    assert lines, name
                    assert same_picture(table / name, split.images[i])
                    if split.labels.ndim == 1:
                        label = split.class_names[int(split.labels[i])]
                        assert any(label.strip() in line for line in lines) or '"' in text
                    known = split.has_mask is None or split.has_mask[i]
                    assert known or partly
                    mask = np.repeat(split.masks[i], 3, 2)
                    drawings = [m for m in sorted((table / "m").iterdir()) if same_picture(m, mask)]
                    assert drawings if known else not mask.any()

    fuzz(examples, tables(), test)


JUNK = st.one_of(
    st.sampled_from(
        [
            *(None, True, False, -1, 0, 0.5, 1e308, 10**400, float("nan"), float("inf")),
            *("", "x", "../x.png", "/etc/passwd", "i", "i/01.png", "i/99.png", "a\x00b", "\ud800"),
            *([], {}, [[]], [[1, 2]], [[1, 2, 3, 4, 5, 6]], [[-90, 2, 3, 4, 5, 6]], [["1"] * 6]),
            *([0] * 6, 7, 8, 100_000_000),
            *({"counts": counts} for counts in ([-1, 65], "oooo")),
            *(
                {"counts": counts, "size": [8, 8]}
                for counts in ([64], [3, 61], [-1, 65], [10**30], "P2", "oooo", 64, None)
            ),
            {"counts": [3, 61], "size": [61, 3]},
        ]
    ),
    st.text(max_size=3),
    st.integers(),
)


def _places(node: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    items = node.items() if isinstance(node, dict) else enumerate(node)
    for key, value in items:
        yield (*path, key)
        if isinstance(value, dict | list):
            yield from _places(value, (*path, key))


PLACES = sorted(_places(own.coco()), key=str)


@pytest.fixture(scope="module")
def annotated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("coco")
    own.write_coco(root, own.coco())
    return root


@counts(80, 1000)
def test_annotations(examples: int, annotated: Path):
    changes = st.lists(
        st.tuples(st.sampled_from(PLACES), st.sampled_from(["set", "delete", "double"]), JUNK),
        min_size=1,
        max_size=3,
    )

    def test(case: tuple[list[Any], bytes, int, bool, str]) -> None:
        changed, inserted, where, skip, label = case
        content = own.coco()
        for path, action, value in changed:
            with contextlib.suppress(KeyError, IndexError, TypeError, AttributeError):
                node: Any = content
                for key in path[:-1]:
                    node = node[key]
                if action == "delete":
                    del node[path[-1]]
                elif action == "double":
                    node.append(node[path[-1]])
                else:
                    node[path[-1]] = value
        text = json.dumps(content).encode()
        place = where % len(text)
        with tempfile.TemporaryDirectory() as folder:
            file, out = Path(folder) / "coco.json", Path(folder) / "out"
            file.write_bytes(text[:place] + inserted + text[place:])
            flags = ["--label", label, *(["--skip-bad"] * skip)]
            splits = prepared(out, "coco", file, "--images", annotated, *flags)
            for split in (splits or {}).values():
                for i, name in enumerate(split.ids):
                    assert same_picture(annotated / name, split.images[i])
                    assert split.masks[i].any()
                    assert name.startswith("i/")

    strategy = st.tuples(
        changes,
        st.sampled_from([b""] * 5 + [b"\x00", b"\xff", b"[" * 100_000, b"9" * 5000]),
        st.integers(0, 10_000),
        st.booleans(),
        st.sampled_from(["only", "largest", "all"]),
    )
    fuzz(examples, strategy, test)


BOX = (
    "<annotation><object><name>{}</name><bndbox><xmin>{}</xmin><ymin>{}</ymin><xmax>{}</xmax>"
    "<ymax>{}</ymax></bndbox></object></annotation>"
)


@pytest.fixture(scope="module")
def voc(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = own.write_voc(tmp_path_factory.mktemp("voc"))
    for number in range(12):
        left, top, *_, bottom = own.rectangle(number)
        text = BOX.format(own.CLASSES[number % 2], left + 1, top + 1, left + 3, bottom)
        own.write(root / "Annotations" / f"{number:02d}.xml", text.encode())
    return root


@counts(60, 2500)
def test_numbers_and_boxes(examples: int, voc: Path):
    """Of VOC: pictures, masks of numbers, names of the classes, XML."""

    def test(case: tuple[list[tuple[str, int, str, int]], bytes, bytes, bool, bool]) -> None:
        done, names, box, boxes, skip = case
        with copied(voc) as source:
            fatal = set()
            for kind, number, damage, value in done:
                kind = "masks" if damage in MASK_DAMAGE else kind
                folder = "JPEGImages" if kind == "images" else "SegmentationClass"
                path = source / folder / f"{number:02d}.png"
                if path.is_file():
                    action, always = {**DAMAGE, **MASK_DAMAGE}[damage]
                    action(path, value)
                    if always and (kind == "images" or not boxes):
                        fatal.add(f"JPEGImages/{number:02d}.png")
            (source / "class_names.txt").write_bytes(names)
            (source / "Annotations" / "03.xml").write_bytes(box)
            out = source.parent / "out"
            splits = prepared(out, "voc", source, *["--skip-bad"] * skip, *["--boxes"] * boxes)
            for name, image, mask, label in samples(splits or {}):
                number = int(Path(name).stem)
                assert name not in fatal
                assert same_picture(source / name, image)
                if boxes and number == 3:
                    continue  # Another box may be a box.
                assert np.array_equal(mask, own.drawn(number))
                if names == b"cat\ndog\n":
                    assert label == own.CLASSES[number % 2]

    damaged = st.lists(
        st.tuples(
            st.sampled_from(["images", "masks"]),
            st.integers(0, 11),
            st.sampled_from([*DAMAGE, *MASK_DAMAGE]),
            st.integers(0, 10_000),
        ),
        max_size=2,
        unique_by=lambda damage: damage[:2],
    )
    whole, box = b"cat\ndog\n", BOX.format("dog", 2, 3, 4, 6).encode()
    strategy = st.tuples(
        damaged,
        st.just(whole) | spoilt(whole),
        st.just(box) | spoilt(box),
        st.booleans(),
        st.booleans(),
    )
    fuzz(examples, strategy, test)
