"""Masks that a program of the user's makes: what it is given, what it may do wrong."""

from __future__ import annotations

import shlex
import sys
import time
from pathlib import Path

import numpy as np
import own_pictures as own
import pytest
from PIL import Image

from isnet_jax import UserError
from isnet_jax.commands.main import main
from isnet_jax.data import CsvSource, OwnDataConfig, PixelRules, load_split, prepare_own
from isnet_jax.data.custom.readers import Rejected
from isnet_jax.data.custom.readers.commanded import ByCommand
from isnet_jax.data.custom.readers.made_masks import MaskedSource, NoMask
from isnet_jax.data.custom.readers.pictures import decode_image
from isnet_jax.data.custom.readers.samples import Record

# Copies the masks that lie elsewhere by the image's name; says how often it was called.
TOOL = """
import pathlib, shutil, sys
image, mask = map(pathlib.Path, sys.argv[1:])
with open("calls", "a") as calls:
    calls.write(image.name + "\\n")
shutil.copy(image.parents[1] / "m" / image.name, mask)
"""


def command(code: str, tmp_path: Path, *more: str) -> str:
    (tmp_path / "a tool.py").write_text(code)
    return shlex.join([sys.executable, str(tmp_path / "a tool.py"), *more, "{image}", "{mask}"])


def made(code: str, tmp_path: Path, seconds: float = 20.0) -> np.ndarray:
    image = own.write(tmp_path / "i" / "00.png", own.pixels(0))
    maker = ByCommand(command(code, tmp_path), seconds)
    return maker.make(image, own.pixels(0), PixelRules())


def test_each_image_without_a_mask_gets_one(tmp_path: Path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    lines = own.rows().replace("m/00.png", "").replace("m/05.png", "")
    table = own.write_table(tmp_path, lines)
    tool = command(TOOL, tmp_path)
    options = ("prepare", "csv", str(table), "--masks-command", tool, "--out", "data")
    main(options)
    assert sorted(Path("calls").read_text().split()) == ["00.png", "05.png"]
    maker = MaskedSource(CsvSource(table), ByCommand(tool), False)
    prepared = prepare_own(maker, "data", OwnDataConfig())
    assert prepared.reused
    for name in prepared.builder.info.splits:
        split = load_split(prepared.builder, name)
        for image, mask in zip(split.ids, split.masks, strict=True):
            expected = own.drawn(int(Path(image).stem))
            np.testing.assert_array_equal(mask[..., 0] > 0, expected)
    with pytest.raises(SystemExit, match="2"):
        main((*options[:4], tool + " more", *options[5:]))
    assert "was prepared from something else" in " ".join(capsys.readouterr().err.split())


def test_records_are_given_as_files(tmp_path: Path):
    record = Record("one", lambda: b"")
    code = (
        "import sys; from PIL import Image; "
        "Image.open(sys.argv[1]).convert('L').point(lambda v: 255 * (v > 99)).save(sys.argv[2])"
    )
    pixels = np.zeros((8, 8), np.uint8)
    pixels[2:4] = 200
    found = ByCommand(command(code, tmp_path)).make(record, pixels, PixelRules())
    np.testing.assert_array_equal(found, pixels > 0)


@pytest.mark.parametrize("orientation", [1, 3, 6, 9])
def test_pictures_that_are_stored_turned_are_given_upright(tmp_path: Path, orientation: int):
    """Pillow, as most tools, shows them as they are stored."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    pixels = np.zeros((8, 8), np.uint8)
    pixels[1:3, 2:7] = 200
    stored = {3: np.rot90(pixels, 2), 6: np.rot90(pixels)}.get(orientation, pixels)
    image = tmp_path / "cat.png"
    Image.fromarray(stored).save(image, exif=exif)
    code = (
        "import sys; from PIL import Image; assert sys.argv[1].endswith('cat.png'); "
        "Image.open(sys.argv[1]).convert('L').point(lambda v: 255 * (v > 99)).save(sys.argv[2])"
    )
    upright = decode_image(image.read_bytes(), ".png", PixelRules())
    np.testing.assert_array_equal(upright, pixels)
    found = ByCommand(command(code, tmp_path)).make(image, upright, PixelRules())
    np.testing.assert_array_equal(found, pixels > 0)


def test_no_mask_is_no_error_where_masks_may_be_missing(tmp_path: Path):
    with pytest.raises(NoMask, match="the masks' command wrote none"):
        made("", tmp_path)
    table = own.write_table(tmp_path, own.rows().replace("m/00.png", ""))
    for keep in (True, False):
        maker = MaskedSource(CsvSource(table), ByCommand(command("", tmp_path)), keep)
        config = OwnDataConfig(allow_missing_masks=keep)
        if not keep:
            with pytest.raises(UserError, match=r"i/00.png: has no mask, and the masks' command"):
                prepare_own(maker, tmp_path / "out", config)
            continue
        builder = prepare_own(maker, tmp_path / "kept", config).builder
        splits = [load_split(builder, name) for name in builder.info.splits]
        assert sum(len(split) - np.sum(split.has_mask) for split in splits) == 1


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("import sys; raise SystemExit(f'no {sys.argv[2]}, {object()}')", r"no mask\.png,$"),
        ("raise SystemExit('out of \\x1b[31m film.')", r"exit code 1: out of \x1b\[31m film$"),
        ("import os; os.kill(os.getpid(), 9)", "ended by signal 9: it said nothing"),
        ("import sys; sys.stderr.write('x' * 10**6); sys.exit(3)", r"exit code 3: x{400}$"),
        ("import sys; open(sys.argv[2], 'w')", r"got a mask .* that is empty \(0 bytes\)"),
        ("import sys; open(sys.argv[2], 'w').write('no')", "that cannot be decoded"),
        ("import os, sys; os.mkfifo(sys.argv[2])", "that is not a regular file"),
        ("import os, sys; os.symlink('/dev/zero', sys.argv[2])", "that is not a regular file"),
        ("import shutil, sys; shutil.copy(*sys.argv[1:])", "that is a mask with colours"),
    ],
)
def test_what_a_program_does_wrong(code: str, message: str, tmp_path: Path):
    with pytest.raises(Rejected, match=message):
        made(code, tmp_path)


def test_a_program_that_does_not_end_is_ended_with_its_children(tmp_path: Path):
    late = tmp_path / "late"
    child = f"import time; time.sleep(1); open({str(late)!r}, 'w')"
    code = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}]); import time"
    with pytest.raises(Rejected, match=r"took more than 0\.5 seconds"):
        made(code + "; time.sleep(60)", tmp_path, 0.5)
    time.sleep(1.5)
    assert not late.exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("tool {image}", r"of which {mask} is missing"),
        ("", r"of which {image} and {mask} is missing"),
        ("{image} {mask}", "is missing"),
        ("tool '{image} {mask}", "No closing quotation"),
        ("no-such-program {image} {mask}", "there is no program 'no-such-program'"),
    ],
)
def test_what_is_no_command(words: str, message: str):
    with pytest.raises(UserError, match=message):
        ByCommand(words)


def test_time_and_one_maker_only(tmp_path: Path, capsys):
    with pytest.raises(UserError, match="mask_seconds is 0"):
        ByCommand("true {image} {mask}", 0)
    source = own.write_folder(tmp_path / "source")
    both = ("--masks-by", "run", "--masks-command", "true {image} {mask}")
    with pytest.raises(SystemExit, match="2"):
        main(("prepare", "folder", str(source), *both, "--out", str(tmp_path / "out")))
    assert "expected one of them" in " ".join(capsys.readouterr().err.split())
