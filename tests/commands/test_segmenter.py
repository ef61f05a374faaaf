"""Masks where there are none: a segmenter is trained, and draws them for `prepare`."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import own_pictures as own
import pytest

from isnet_jax.commands.main import main
from isnet_jax.commands.segmenter import Segmenter
from isnet_jax.data import load_split, open_prepared
from isnet_jax.data.custom.fitting import fitted, unpadded
from isnet_jax.evaluation.segmentation import confidence

SIDE = 16
SMALL = (
    "--epochs", 8, "--batch-size", 4, "--optimiser.learning-rate", 0.03, "--widths", 8, 16,
)  # fmt: skip


def run(*arguments: object) -> None:
    main([str(argument) for argument in arguments])


def pictures(root: Path, numbers: range, masked: bool = True) -> Path:
    """Bright rectangles before a dark ground."""
    for number in numbers:
        drawn = own.drawn(number, height=SIDE, width=SIDE)
        pixels = own.pixels(number, height=SIDE, width=SIDE) // 6
        pixels[drawn] += 200
        place = f"{own.CLASSES[number % 2]}/{number:02d}.png"
        own.write(root / "images" / place, pixels)
        if masked:
            own.write(root / "masks" / place, drawn)
    (root / "masks").mkdir(exist_ok=True)
    return root


@pytest.fixture(scope="module")
def room(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("segmenter")
    run("prepare", "folder", pictures(root / "drawn", range(48)), "--out", root / "data")
    run("train", "segmenter", root / "data", "--out", root / "run", *SMALL)
    return root


def test_it_finds_the_foreground(room: Path, capsys: pytest.CaptureFixture[str]):
    metrics = json.loads((room / "run" / "metrics.json").read_text())
    assert metrics["test"]["iou"] > 0.7
    assert metrics["test"]["iou"] <= metrics["test"]["dice"] <= 1
    run("train", "segmenter", room / "data", "--out", room / "run", *SMALL)
    run("evaluate", room / "run")
    shown = capsys.readouterr().out
    assert "is finished" in shown
    assert shown.count(f"{100 * metrics['test']['iou']:.1f} %") >= 2


@pytest.mark.parametrize("found", ["[1]", '{"test": {"dice": 1, "iou": 1}, "checksum": 0}'])
def test_changed_metrics_are_not_shown(room: Path, capsys, found: str):
    file = room / "run" / "metrics.json"
    whole = file.read_text()
    file.write_text(found)
    with pytest.raises(SystemExit, match="2"):
        run("train", "segmenter", room / "data", "--out", room / "run", *SMALL)
    assert "Delete it: the segmenter is judged again" in capsys.readouterr().err
    file.write_text(whole)


def test_masks_are_drawn_where_there_are_none(room: Path, tmp_path: Path, capsys):
    bare = pictures(tmp_path / "bare", range(30, 48), masked=False)
    command = ("prepare", "folder", bare, "--masks-by", room / "run", "--out", tmp_path / "data")
    run(*command, "--mask-confidence", 0.3)
    split = load_split(open_prepared(tmp_path / "data"), "train")
    assert split.has_mask is None
    numbers = [int(Path(name).stem) for name in split.ids]
    truth = np.stack([own.drawn(n, height=SIDE, width=SIDE) for n in numbers])
    assert ((split.masks[..., 0] > 0) == truth).mean() > 0.9
    run(*command, "--mask-confidence", 0.3)
    assert "found again" in capsys.readouterr().out
    # Nothing is sure enough: refused, or kept without a mask.
    sure = ("--mask-confidence", 1, "--out", tmp_path / "none")
    with pytest.raises(SystemExit, match="2"):
        run(*command[:-2], *sure)
    assert "the segmenter is sure of one at" in capsys.readouterr().err
    run(*command[:-2], *sure, "--allow-missing-masks")
    split = load_split(open_prepared(tmp_path / "none"), "train")
    assert split.has_mask is not None
    assert not split.has_mask.any()


def test_images_of_any_size_get_a_mask_of_theirs(room: Path, monkeypatch):
    """Here by a segmenter that takes what is bright."""
    maker = Segmenter(room / "run")
    monkeypatch.setattr(
        "isnet_jax.commands.segmenter.foreground", lambda model, x, batch_size: x[..., :1]
    )
    picture = np.zeros((40, 24, 3), np.uint8)
    picture[10:26, 6:18] = 255
    mask, sure = maker(picture)
    assert mask.shape == (40, 24)
    assert (mask == (picture[..., 0] > 0)).mean() > 0.95
    assert 0.7 < sure <= 1


def test_padding_is_undone():
    ramp = np.arange(40, dtype=np.uint16)[:, None].repeat(20, 1) * 100
    back = unpadded(fitted(ramp, (16, 16), "pad").astype(np.float32), (40, 20))
    assert np.abs(back - ramp)[4:-4].max() < 120


def test_confidence_is_the_expected_overlap():
    assert confidence(np.array([[0.9, 0.6], [0.2, 0.0]])) == pytest.approx(1.5 / 2.2)
    assert confidence(np.zeros((2, 2))) == 0


def test_what_is_refused(room: Path, tmp_path: Path, capsys):
    bare = pictures(tmp_path / "bare", range(18), masked=False)
    out = ("--out", tmp_path / "data")
    for options, message in (
        (("--masks-by", tmp_path), "holds no run"),
        (("--masks-by", room / "run", "--mask-confidence", 2), "mask_confidence is 2.0"),
    ):
        with pytest.raises(SystemExit, match="2"):
            run("prepare", "folder", bare, *out, *options)
        assert message in " ".join(capsys.readouterr().err.split())
    run("prepare", "folder", bare, *out, "--allow-missing-masks")
    with pytest.raises(SystemExit, match="2"):
        run("train", "segmenter", tmp_path / "data", "--out", tmp_path / "run")
    assert "the split train has no image with a mask" in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize("command", ["predict", "export", "explain"])
def test_what_is_for_classifiers(room: Path, tmp_path: Path, capsys, command: str):
    (image, *_) = (room / "drawn" / "images").rglob("*.png")
    places = {
        "predict": (room / "run", image),
        "export": (room / "run" / "segmenter",),
        "explain": (image, "--checkpoint", room / "run" / "segmenter"),
    }
    with pytest.raises(SystemExit, match="2"):
        run(command, *places[command], "--out", tmp_path / "out")
    said = capsys.readouterr().err.replace("\n", " ")
    assert "segmenter" in said
    assert "--masks-by RUN" in said
    assert not (tmp_path / "out").exists()
