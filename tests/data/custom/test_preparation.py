"""Preparing own data: checks before anything is written, all or nothing, used again."""

import os
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import own_pictures as own
import pytest
from PIL import Image

from isnet_jax.data import (
    CocoSource,
    CsvSource,
    FolderSource,
    OwnDataConfig,
    PixelRules,
    Split,
    VocSource,
    load_split,
    open_prepared,
    open_records,
    prepare_own,
    train_iterator,
)
from isnet_jax.errors import UserError


@pytest.fixture
def source(tmp_path: Path) -> FolderSource:
    return FolderSource(own.write_folder(tmp_path / "source"))


def prepared(source, out: Path, **options) -> dict[str, Split]:
    builder = prepare_own(source, out, OwnDataConfig(**options)).builder
    return {name: load_split(builder, name) for name in builder.info.splits}


def by_number(splits: dict[str, Split]) -> Iterator[tuple[int, np.ndarray, np.ndarray, str]]:
    for split in splits.values():
        for i, name in enumerate(split.ids):
            label = split.class_names[int(split.labels[i])]
            yield int(Path(name).stem), split.images[i], split.masks[i, ..., 0], label


def files(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}


def left(tmp_path: Path) -> list[str]:
    """What a preparation has written, complete or not."""
    return [path.name for path in tmp_path.iterdir() if path.name != "source"]


def test_pixels_masks_and_classes_come_through(source: FolderSource, tmp_path: Path):
    splits = prepared(source, tmp_path / "out")
    assert {name: len(split) for name, split in splits.items()} == {
        "test": 2,
        "train": 9,
        "validation": 1,
    }
    found = list(by_number(splits))
    assert sorted(number for number, *_ in found) == list(range(12))
    for number, image, mask, label in found:
        assert np.array_equal(image, own.pixels(number))
        assert np.array_equal(mask > 0, own.drawn(number))
        assert label == own.CLASSES[number >= 6]


def test_every_source_can_be_prepared(tmp_path: Path):
    table = own.write_table(tmp_path / "csv", own.rows())
    coco = own.write_coco(tmp_path / "coco", own.coco())
    voc = own.write_voc(tmp_path / "voc")
    for number, source in enumerate((CsvSource(table), CocoSource(coco), VocSource(voc))):
        found = list(by_number(prepared(source, tmp_path / f"out{number}")))
        assert len(found) == 12
        for number, image, mask, label in found:
            assert np.array_equal(image, own.pixels(number))
            assert np.array_equal(mask > 0, own.drawn(number))
            assert label == own.CLASSES[number % 2]


def test_splits_of_the_source_are_kept_and_validation_is_drawn(tmp_path: Path):
    for number, split in enumerate(("train", "test", "test_far")):
        own.write_folder(tmp_path / "source" / split, 5, first=10 * number)
    splits = prepared(FolderSource(tmp_path / "source"), tmp_path / "out", validation_fraction=0.2)
    counts = {name: len(split) for name, split in splits.items()}
    assert counts == {"test": 10, "test_far": 10, "train": 8, "validation": 2}
    for name, split in splits.items():
        place = "train" if name == "validation" else name
        assert all(sample.startswith(f"{place}/") for sample in split.ids)


def test_the_seed_decides_the_splits(source: FolderSource, tmp_path: Path):
    ids = [
        prepared(source, tmp_path / str(n), seed=seed)["test"].ids
        for n, seed in enumerate((1, 1, 2, 3))
    ]
    assert ids[0] == ids[1]
    assert len(set(ids)) > 1


def test_used_again_until_something_changes(source: FolderSource, tmp_path: Path):
    out = tmp_path / "out"
    first = prepare_own(source, out, OwnDataConfig())
    written = files(out)
    again = prepare_own(source, out, OwnDataConfig(), lambda *_: pytest.fail("checked again"))
    assert (first.reused, again.reused) == (False, True)
    assert files(out) == written
    # The same content with another time of change is the same.
    image = source.root / "images" / "cat" / "00.png"
    os.utime(image, (1, 1))
    assert prepare_own(source, out, OwnDataConfig()).reused
    moved = shutil.copytree(source.root, tmp_path / "moved")
    assert prepare_own(FolderSource(moved), out, OwnDataConfig()).reused
    own.write(image, own.pixels(70))
    with pytest.raises(UserError, match=r"from something else:\n  changed: images/cat/00\.png\n"):
        prepare_own(source, out, OwnDataConfig())
    own.write(image, own.pixels(0))
    own.write(source.root / "masks" / "dog" / "06.png", own.drawn(8))
    with pytest.raises(UserError, match=r"changed: masks/dog/06\.png"):
        prepare_own(source, out, OwnDataConfig())
    own.write(source.root / "masks" / "dog" / "06.png", own.drawn(6))
    with pytest.raises(UserError, match="option seed: 0 there, 5 now"):
        prepare_own(source, out, OwnDataConfig(seed=5))
    for kind, array in (("images", own.pixels(71)), ("masks", own.drawn(0))):
        own.write(source.root / kind / "cat" / "71.png", array)
    with pytest.raises(UserError, match=r"new: images/cat/71.png\n  new: masks/cat/71.png"):
        prepare_own(source, out, OwnDataConfig())
    assert files(out) == written


def test_bad_files_are_listed_and_nothing_is_written(source: FolderSource, tmp_path: Path):
    images, masks = source.root / "images" / "cat", source.root / "masks" / "cat"
    own.write(images / "00.png", b"no picture")
    own.write(masks / "01.png", own.drawn(1, height=12))
    own.write(masks / "02.png", own.pixels(0)[..., 0])
    own.write(masks / "03.png", np.zeros((8, 8), bool))
    (masks / "04.png").unlink()
    with pytest.raises(UserError) as told:
        prepare_own(source, tmp_path / "out", OwnDataConfig())
    message = str(told.value)
    for line in (
        "5 files or entries cannot be used:",
        "images/cat/00.png: cannot be decoded",
        "masks/cat/01.png: is 8 x 12 pixels, but its image 8 x 8. Draw the mask",
        "masks/cat/02.png: is a mask with grey values",
        "masks/cat/03.png: is an empty mask: all its pixels are 0",
        "images/cat/04.png: has no mask. Draw one, or take images without a mask too",
        "leave them out with --skip-bad",
    ):
        assert line in message
    assert left(tmp_path) == []
    done = prepare_own(source, tmp_path / "out", OwnDataConfig(skip_bad=True))
    assert len(done.problems) == 5
    assert prepare_own(source, tmp_path / "out", OwnDataConfig(skip_bad=True)).reused
    with pytest.raises(UserError, match="5 files or entries cannot be used"):
        prepare_own(source, tmp_path / "out", OwnDataConfig())
    assert sum(split.num_examples for split in done.builder.info.splits.values()) == 7


def test_a_long_list_goes_into_a_file(source: FolderSource, tmp_path: Path):
    for mask in (source.root / "masks").rglob("*.png"):
        mask.unlink()
    with pytest.raises(UserError, match=r"and 4 more, all of them in .*out\.bad-files\.txt"):
        prepare_own(source, tmp_path / "out", OwnDataConfig())
    assert left(tmp_path) == ["out.bad-files.txt"]
    assert len((tmp_path / "out.bad-files.txt").read_text().splitlines()) == 12


def test_equal_pictures_are_refused(source: FolderSource, tmp_path: Path):
    images = source.root / "images"
    shutil.copy(images / "cat" / "00.png", images / "cat" / "01.png")
    shutil.copy(images / "cat" / "02.png", images / "dog" / "06.png")
    done = prepare_own(source, tmp_path / "out", OwnDataConfig(skip_bad=True))
    assert [problem.split(". ")[0] for problem in done.problems] == [
        "images/cat/01.png: is the same picture as images/cat/00.png",
        "images/cat/02.png: is the same picture as images/dog/06.png with another class or split",
        "images/dog/06.png: is the same picture as images/cat/02.png with another class or split",
    ]


def test_equal_pictures_in_other_encodings_are_refused(source: FolderSource, tmp_path: Path):
    folder = source.root / "images" / "cat"
    grey = own.pixels(50)[..., 0]
    own.write(folder / "00.png", grey)
    Image.fromarray(grey).convert("RGB").save(folder / "01.png", compress_level=1)
    (folder / "02.png").unlink()
    Image.fromarray(grey.astype(np.uint16) * 257).save(folder / "02.tif")
    with pytest.raises(UserError) as found:
        prepare_own(source, tmp_path / "out", OwnDataConfig())
    assert "images/cat/01.png: is the same picture as images/cat/00.png" in str(found.value)
    assert "images/cat/02.tif: is the same picture as images/cat/00.png" in str(found.value)


def test_partly_annotated_data(source: FolderSource, tmp_path: Path):
    for number in (0, 7):
        (source.root / "masks" / own.CLASSES[number >= 6] / f"{number:02d}.png").unlink()
    splits = prepared(source, tmp_path / "out", allow_missing_masks=True)
    for split in splits.values():
        assert split.has_mask is not None
        for i, name in enumerate(split.ids):
            missing = name.endswith(("/00.png", "/07.png"))
            assert split.has_mask[i] == (not missing)
            assert split.masks[i].any() == (not missing)
    batch = next(train_iterator(splits["train"], 4, seed=0))
    assert batch["has_mask"].dtype == bool
    assert batch["has_mask"].shape == (4,)
    whole = prepared(FolderSource(own.write_folder(tmp_path / "whole")), tmp_path / "out2")
    assert "has_mask" not in next(train_iterator(whole["train"], 4, seed=0))


def test_multi_label_data(tmp_path: Path):
    lines = [f"i/{n:02d}.png,m/{n:02d}.png,{n % 2},{int(n % 3 == 0)}" for n in range(12)]
    table = own.write_table(tmp_path / "t", "\n".join(["image,mask,fluid,mass", *lines]))
    splits = prepared(CsvSource(table), tmp_path / "out")
    for split in splits.values():
        assert split.class_names == ("fluid", "mass")
        assert split.labels.dtype == np.float32
        numbers = [int(Path(name).stem) for name in split.ids]
        assert split.labels.tolist() == [[n % 2, n % 3 == 0] for n in numbers]
    assert next(train_iterator(splits["train"], 4, seed=0))["label"].shape == (4, 2)


def test_grey_images_keep_their_bits(source: FolderSource, tmp_path: Path):
    wide = {}
    for path in (source.root / "images").rglob("*.png"):
        number = int(path.stem)
        values = np.random.default_rng(number).integers(0, 65536, (8, 8), dtype=np.uint16)
        wide[number] = values
        own.write(path, own.png(values))
    for split in prepared(source, tmp_path / "out").values():
        batch = split.batch(slice(None))
        for name, image in zip(split.ids, batch["image"], strict=True):
            expected = wide[int(Path(name).stem)].astype(np.float32) / 65535
            assert np.array_equal(image, np.repeat(expected[..., None], 3, axis=2))


def test_colour_and_grey_and_wide_grey_together_are_colour(source: FolderSource, tmp_path: Path):
    images = source.root / "images" / "cat"
    own.write(images / "00.png", own.pixels(0)[..., 0])
    own.write(images / "01.png", own.png(own.pixels(1)[..., 0].astype(np.uint16) * 257))
    for number, image, _, _ in by_number(prepared(source, tmp_path / "out")):
        grey = np.repeat(own.pixels(number)[..., :1], 3, axis=2)
        assert np.array_equal(image, grey if number < 2 else own.pixels(number))


def test_a_threshold_for_grey_masks(source: FolderSource, tmp_path: Path):
    for path in (source.root / "masks").rglob("*.png"):
        own.write(path, own.pixels(int(path.stem) + 50)[..., 0])
    cut = FolderSource(source.root, PixelRules(mask_threshold=100))
    for number, _, mask, _ in by_number(prepared(cut, tmp_path / "out")):
        assert np.array_equal(mask > 0, own.pixels(number + 50)[..., 0] >= 100)


def test_images_of_many_sizes_need_one(source: FolderSource, tmp_path: Path):
    for kind, array in (("images", own.pixels(0, height=20)), ("masks", own.drawn(0, height=20))):
        own.write(source.root / kind / "cat" / "00.png", array)
    with pytest.raises(UserError, match=r"2 sizes, from 8 x 8 to 20 x 8 .*--size HEIGHT WIDTH"):
        prepare_own(source, tmp_path / "out", OwnDataConfig())
    for fit in ("crop", "pad", "stretch"):
        splits = prepared(source, tmp_path / fit, size=(10, 6), fit=fit)
        assert all(split.images.shape[1:] == (10, 6, 3) for split in splits.values())
        assert all(set(np.unique(split.masks)) == {0, 255} for split in splits.values())


def test_a_mask_that_is_lost_by_resizing(source: FolderSource, tmp_path: Path):
    mask = np.zeros((8, 8), bool)
    mask[0, 0] = True
    own.write(source.root / "masks" / "cat" / "00.png", mask)
    with pytest.raises(UserError, match=r"images/cat/00.png: has no foreground left in 4 x 4"):
        prepare_own(source, tmp_path / "out", OwnDataConfig(size=(4, 4)))


def test_killed_preparing_leaves_nothing_that_looks_complete(source: FolderSource, tmp_path: Path):
    script = f"""
import os, signal
from pathlib import Path
from isnet_jax.data import FolderSource, OwnDataConfig, prepare_own
def kill(what, done, total):
    if what == "writing" and done == 7:
        os.kill(os.getpid(), signal.SIGKILL)
source = FolderSource(Path({str(source.root)!r}))
prepare_own(source, {str(tmp_path / "out")!r}, OwnDataConfig(), kill)
"""
    killed = subprocess.run([sys.executable, "-c", script], check=False)
    assert killed.returncode == -signal.SIGKILL
    assert [name.startswith(".out.incomplete-") for name in left(tmp_path)] == [True]
    assert len(list(by_number(prepared(source, tmp_path / "out")))) == 12


def test_a_file_that_changes_meanwhile_stops_it(source: FolderSource, tmp_path: Path):
    def change(what: str, done: int, total: int) -> None:
        if (what, done) == ("checking", total):
            own.write(source.root / "images" / "dog" / "08.png", own.pixels(80))

    with pytest.raises(UserError, match=r"dog/08.png changed while the data were being prepared"):
        prepare_own(source, tmp_path / "out", OwnDataConfig(), change)
    assert left(tmp_path) == []


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_failures_clean_up(source: FolderSource, tmp_path: Path, error: BaseException):
    def fail(what: str, done: int, total: int) -> None:
        if what == "writing":
            raise error

    with pytest.raises((UserError, KeyboardInterrupt)) as found:
        prepare_own(source, tmp_path / "out", OwnDataConfig(), fail)
    assert "No space left" in str(found.value) or isinstance(error, KeyboardInterrupt)
    assert left(tmp_path) == []


def test_the_faster_of_two_preparations_provides_the_data(source: FolderSource, tmp_path: Path):
    def other_process(what: str, done: int, total: int) -> None:
        if (what, done) == ("writing", 5):
            prepare_own(source, tmp_path / "out", OwnDataConfig())

    with pytest.raises(UserError, match=r"another preparation of .*out was faster"):
        prepare_own(source, tmp_path / "out", OwnDataConfig(), other_process)
    assert left(tmp_path) == ["out"]
    assert prepare_own(source, tmp_path / "out", OwnDataConfig()).reused


def test_progress_counts_to_the_end(source: FolderSource, tmp_path: Path):
    seen: list[tuple[str, int, int]] = []
    prepare_own(source, tmp_path / "out", OwnDataConfig(), lambda *step: seen.append(step))
    assert seen == [(what, n, 12) for what in ("checking", "writing") for n in range(1, 13)]


def test_too_few_samples(tmp_path: Path):
    for number, (count, message) in enumerate(
        ((1, "2 samples leave the split validation empty"), (0, "holds no usable sample"))
    ):
        root = own.write_folder(tmp_path / f"source{number}", count)
        (root / "images").mkdir(parents=True, exist_ok=True)
        with pytest.raises(UserError, match=message):
            prepare_own(FolderSource(root), tmp_path / "out", OwnDataConfig())
    root = own.write_folder(tmp_path / "one")
    shutil.rmtree(root / "images" / "dog")
    shutil.rmtree(root / "masks" / "dog")
    with pytest.raises(UserError, match=r"one class only: cat\. A classifier needs at least two"):
        prepare_own(FolderSource(root), tmp_path / "out", OwnDataConfig())
    assert not (tmp_path / "out").exists()


def test_classes_must_be_trained_on(tmp_path: Path):
    text = own.rows().replace("label", "label,split").replace("cat\n", "cat,train\n")
    table = own.write_table(tmp_path / "t", text.replace("dog\n", "dog,test\n"))
    with pytest.raises(UserError, match="no training sample is of the class 'dog'"):
        prepare_own(CsvSource(table), tmp_path / "out", OwnDataConfig())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": (3, 8)}, r"size is \(3, 8\)"),
        ({"fit": "squeeze"}, "unknown fit 'squeeze'"),
        ({"validation_fraction": 0.0}, "above 0 and together below 1"),
        ({"test_fraction": 0.95}, "above 0 and together below 1"),
        ({"seed": -1}, "seed is -1"),
    ],
)
def test_options_out_of_range(options: dict, message: str):
    with pytest.raises(UserError, match=message):
        OwnDataConfig(**options)


def test_opening_what_is_none_or_damaged(source: FolderSource, tmp_path: Path):
    with pytest.raises(UserError, match="is no folder: it holds no prepared data"):
        open_prepared(tmp_path / "out")
    with pytest.raises(UserError, match=r"has no preparation.json: it holds no prepared data"):
        open_prepared(tmp_path)
    out = tmp_path / "out"
    prepare_own(source, out, OwnDataConfig())
    for name in ("own_data-test.array_record-00000-of-00001", "metadata.json", "features.json"):
        hidden = (out / name).rename(tmp_path / name)
        with pytest.raises(UserError, match="Delete the folder and prepare them again"):
            open_prepared(out)
        hidden.rename(out / name)
    (out / "dataset_info.json").write_text("{")
    with pytest.raises(UserError, match="cannot be read"):
        open_prepared(out)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("tensorflow_datasets.core.features.features_dict.FeaturesDict", "foreign.Features"),
        ("tensorflow_datasets.core.features.image_feature.Image", "foreign.Image"),
        ("tensorflow_datasets.core.features.text_feature.Text", "foreign.Text"),
        ('"pythonClassName"', '"python_class_name"'),
        ('"featuresDict": {', '"type": "foreign.Features", "content": {}, "featuresDict": {'),
        ('"image": {\n                    "dtype"', '"jsonFeature": {"json": "{}"}, "x": {"dtype"'),
    ],
)
def test_features_of_other_modules_are_not_imported(
    source: FolderSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, old: str, new: str
):
    prepare_own(source, tmp_path / "out", OwnDataConfig())
    (tmp_path / "foreign.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    monkeypatch.syspath_prepend(tmp_path)
    features = tmp_path / "out" / "features.json"
    content = features.read_text()
    assert old in content
    features.write_text(content.replace(old, new))
    with pytest.raises(UserError, match=r"cannot be read \(.*features.json"):
        open_prepared(tmp_path / "out")
    assert not (tmp_path / "ran").exists()


def test_records_are_read_as_they_go(source: FolderSource, tmp_path: Path):
    builder = prepare_own(source, tmp_path / "out", OwnDataConfig()).builder
    iterators = [
        train_iterator(examples, 4, seed=1)
        for examples in (load_split(builder, "train"), open_records(builder, "train"))
    ]
    for _ in range(5):
        first, second = map(next, iterators)
        assert all(np.array_equal(first[key], second[key]) for key in first)
    iterators[1].close()


def test_a_full_disk_while_the_records_are_written(tmp_path: Path):
    """Their writer has an error of its own for it; nothing half-written is left."""
    source = FolderSource(own.write_folder(tmp_path / "source"))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1024, hard))
    try:
        with pytest.raises(UserError, match=r"cannot be written \(File too large\)\. Make room"):
            prepare_own(source, tmp_path / "out", OwnDataConfig())
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert [path.name for path in tmp_path.iterdir()] == ["source"]
    prepare_own(source, tmp_path / "out", OwnDataConfig())


def test_records_of_another_split(source: FolderSource, tmp_path: Path):
    """A test set that holds the training images would be judged well."""
    out = tmp_path / "out"
    prepare_own(source, out, OwnDataConfig())
    train, test = (next(out.glob(f"*-{split}.array_record-*")) for split in ("train", "test"))
    shutil.copy(train, test)
    with pytest.raises(UserError, match=r"'test' in .* has other samples than were written"):
        load_split(open_prepared(out), "test")
    assert len(load_split(open_prepared(out), "train"))


@pytest.mark.parametrize("name", ["features.json", "dataset_info.json", "*-test.array_record-*"])
def test_pipes_among_prepared_data(source: FolderSource, tmp_path: Path, name: str):
    prepare_own(source, tmp_path / "out", OwnDataConfig())
    (file,) = (tmp_path / "out").glob(name)
    file.unlink()
    os.mkfifo(file)
    with pytest.raises(UserError, match=rf"{file.name} is not a regular file"):
        open_prepared(tmp_path / "out")
