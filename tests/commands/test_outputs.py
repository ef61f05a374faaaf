"""Outputs: never over what is read or is not ours, checked before any work, no name twice."""

from __future__ import annotations

import os
import re
import stat
from pathlib import Path

import numpy as np
import pytest
from flax import nnx
from PIL import Image

from isnet_jax import UserError, models
from isnet_jax.commands.images import pictures_of
from isnet_jax.commands.main import main
from isnet_jax.files import check_outputs, write_atomically
from isnet_jax.report.card import is_card
from isnet_jax.report.heatmaps import is_ours, save_png


@pytest.fixture
def explain(tmp_path: Path) -> tuple[object, ...]:
    """The command for a network of random weights, but for its --out, and its images."""
    models.save_weights(
        models.create("small", num_classes=3, rngs=nnx.Rngs(0)), tmp_path / "w.safetensors"
    )
    (tmp_path / "images").mkdir()
    for name in ("a.png", "b.png"):
        Image.new("RGB", (16, 16), 90).save(tmp_path / "images" / name)
    network = ("--model", "small", "--image-size", 16, "--weights", tmp_path / "w.safetensors")
    return ("explain", tmp_path / "images", *network)


@pytest.fixture
def no_compute(monkeypatch: pytest.MonkeyPatch) -> None:
    for command in ("explain", "predict"):
        monkeypatch.setattr(f"isnet_jax.commands.{command}.explain_classes", None)


def failed(capsys, *arguments: object) -> str:
    with pytest.raises(SystemExit, match="2"):
        main([*map(str, arguments)])
    return capsys.readouterr().err


def bytes_of(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_what_is_read_is_not_overwritten(tmp_path: Path):
    read, other = tmp_path / "a", tmp_path / "b"
    read.write_text("")
    other.hardlink_to(read)
    (tmp_path / "c").symlink_to(read)
    for output in (read, other, tmp_path / "c", tmp_path / "x" / ".." / "a"):
        (tmp_path / "x").mkdir(exist_ok=True)
        with pytest.raises(UserError, match=r"reads it.*Choose another --out"):
            check_outputs([output], inputs=[read])
    with pytest.raises(UserError, match=r"reads it.*another --heatmaps"):
        check_outputs([tmp_path / "new"], "--heatmaps", inputs=[tmp_path / "x" / ".." / "new"])
    check_outputs([tmp_path / "new"], inputs=[read])
    assert not (tmp_path / "new").exists()


def test_files_are_as_private_as_the_user_wants(tmp_path: Path):
    before = os.umask(0o077)
    try:
        write_atomically(tmp_path / "private", "a")
        os.umask(0o002)
        write_atomically(tmp_path / "shared", "a")
    finally:
        os.umask(before)
    found = {path.name: stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()}
    assert found == {"private": 0o600, "shared": 0o664}


def test_what_cannot_be_written_is_found(tmp_path: Path):
    (tmp_path / "file").write_text("")
    for output, problem in [
        (tmp_path, "it is a folder"),
        (tmp_path / "file" / "x", "File exists|Not a directory"),
        (tmp_path / ("n" * 250), "too long"),
    ]:
        with pytest.raises(UserError, match=problem):
            check_outputs([tmp_path / "fine", output])
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("out", ["images/a.png", "images", "w.safetensors/a.png"])
@pytest.mark.usefixtures("no_compute")
def test_explain_keeps_its_images(capsys, explain, tmp_path: Path, out: str):
    before = bytes_of(tmp_path)
    assert "Choose another --out" in failed(capsys, *explain, "--out", tmp_path / out)
    assert bytes_of(tmp_path) == before


def test_only_pictures_of_ours_are_replaced(capsys, explain, tmp_path: Path):
    main([*map(str, explain), "--out", str(tmp_path / "h")])
    main([*map(str, explain), "--out", str(tmp_path / "h")])
    Image.new("RGB", (16, 16)).save(tmp_path / "h" / "b.png")
    before = bytes_of(tmp_path)
    shown = failed(capsys, *explain, "--out", tmp_path / "h")
    assert re.search(r"h/b\.png \(a file is there that this command did not write\)", shown)
    assert bytes_of(tmp_path) == before


def test_a_calibration_replaces_nothing_but_a_calibration(capsys, tmp_path: Path, monkeypatch):
    monkeypatch.setattr("isnet_jax.commands.calibrate.open_prepared", None)
    command = ("calibrate", "own-data", tmp_path, "--out", tmp_path / "run.json")
    for text in ('{"settings": {}}', "[]", "5", "mine", "[" * 100_000):
        (tmp_path / "run.json").write_text(text)
        assert "a file is there that this command did not write" in failed(capsys, *command)
        assert (tmp_path / "run.json").read_text() == text
    (tmp_path / "run.json").write_text('{"foreground_range": []}')
    with pytest.raises(TypeError, match="NoneType"):  # Beyond the check, to read the data.
        main([*map(str, command)])


def test_our_pictures_and_cards_are_known(tmp_path: Path):
    save_png(np.zeros((4, 4, 3), np.uint8), tmp_path / "ours.png")
    assert is_ours(tmp_path / "ours.png")
    Image.new("L", (4, 4)).save(tmp_path / "other.png")
    (tmp_path / "README.md").write_text("# Notes\n")
    for name in ("other.png", "README.md", "absent"):
        assert not is_ours(tmp_path / name)
        assert not is_card(tmp_path / name)


@pytest.mark.parametrize(
    ("files", "names"),
    [
        (["a.png", "b.png"], ["a", "b"]),
        (["a.png", "x/a.bmp", "b.png"], ["0000-a", "0001-a", "b"]),
        (["a.png", "x/A.png"], ["0000-a", "0001-A"]),
        (["0.bmp", "0.png", "0000-0.png"], ["0000-0", "0001-0", "0002-0000-0"]),
    ],
)
def test_no_two_pictures_get_one_name(files: list[str], names: list[str]):
    found = pictures_of([Path(file) for file in files], Path("h"))
    assert found == [Path("h") / f"{name}.png" for name in names]
    assert len({os.path.normcase(path) for path in found}) == len(files)
