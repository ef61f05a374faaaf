"""What commands are given around their options: terminals, home folders, devices, odd places."""

from __future__ import annotations

import io
import json
import os
import sys
from pathlib import Path

import jax
import pytest
import yaml

from isnet_jax.commands import custom, predict, surroundings
from isnet_jax.commands.main import exit_codes, main
from isnet_jax.errors import UserError
from isnet_jax.objective.calibration import calibrated
from isnet_jax.objective.config import ISNetConfig
from isnet_jax.training import FineTuneConfig, load_network
from isnet_jax.training.serial import read_json


class Started(Exception):  # noqa: N818
    """Carries the options that would have been run with."""


def options(monkeypatch: pytest.MonkeyPatch, module, *arguments: object):
    def started(options, console):
        raise Started(options)

    monkeypatch.setattr(module, "run", started)
    with pytest.raises(Started) as found:
        main([*map(str, arguments)])
    return found.value.args[0]


def failed(capsys, *arguments: object) -> str:
    with pytest.raises(SystemExit, match="2"):
        main([*map(str, arguments)])
    return capsys.readouterr().err


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_a_terminal_that_is_not_utf8_gets_escapes(encoding: str, monkeypatch):
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stderr", io.TextIOWrapper(raw, encoding))
    with pytest.raises(SystemExit, match="2"):
        main(["evaluate", "/absent/\U0001f431"])
    sys.stderr.flush()
    assert rb"/absent/\U0001f431 holds no run" in raw.getvalue()


def test_colons_in_names_stay_as_they_are(capsys):
    assert "/absent/a:x:b/:cat: holds no run" in failed(capsys, "evaluate", "/absent/a:x:b/:cat:")


def test_the_home_folder_in_every_path_option(tmp_path: Path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    given = options(monkeypatch, predict, "predict", "~/run", "~/a.png", "b.png", "--out=~/p.csv")
    assert (given.run, given.out) == (tmp_path / "run", tmp_path / "p.csv")
    assert given.images == (tmp_path / "a.png", Path("b.png"))
    (tmp_path / "c.yaml").write_text("data: ~/data\nfine_tune: {weights: ~/w.pth}\nout: plain")
    job = options(monkeypatch, custom, "train", "own-data", "--config", "~/c.yaml")
    assert (job.data, job.fine_tune.weights) == (tmp_path / "data", tmp_path / "w.pth")
    assert job.out == Path("plain")


def test_the_home_folder_of_nobody(capsys):
    assert "home folder of no user" in failed(capsys, "evaluate", "~nobody-of-this-name/run")


def test_names_that_are_not_utf8_are_refused_before_any_work(capsys, tmp_path: Path):
    name = os.fsdecode(os.fsencode(tmp_path) + b"/o\xff")
    for command in (("prepare", "folder", tmp_path), ("train", "own-data", tmp_path)):
        shown = failed(capsys, *command, "--out", name)
        assert r"/o\udcff, a name that is not UTF-8" in shown
    assert "not UTF-8" in failed(capsys, "evaluate", name)


@pytest.mark.parametrize(
    "error", [AssertionError(), RuntimeError("Unable to initialize backend 'nonsense'\nmore")]
)
def test_devices_that_are_not_there(error: Exception, monkeypatch):
    def none():
        raise error

    monkeypatch.setattr(jax, "devices", none)
    monkeypatch.setenv("JAX_PLATFORMS", "nonsense")
    with pytest.raises(UserError, match=r"JAX_PLATFORMS='nonsense' \(.*\)\. Unset it"):
        surroundings.require_devices()


def test_a_working_directory_that_is_gone(capsys, tmp_path: Path, monkeypatch):
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    assert "the working directory is gone" in failed(capsys, "evaluate", "run")


def test_links_that_loop(tmp_path: Path):
    (tmp_path / "isnet").symlink_to("isnet")
    with pytest.raises(UserError, match="holds no network"):
        load_network(tmp_path / "isnet")


def test_places_of_another_kind_end_with_one_sentence(capsys, tmp_path: Path):
    for action in (
        lambda: tmp_path.read_bytes(),
        lambda: Path(tmp_path, "x" * 300).exists(),
        lambda: tmp_path.mkdir(),
    ):
        with pytest.raises(SystemExit, match="2"), exit_codes():
            action()
        assert f"error: {tmp_path}" in capsys.readouterr().err
    with pytest.raises(FileNotFoundError), exit_codes():
        (tmp_path / "absent").read_bytes()


@pytest.mark.parametrize(
    "arguments",
    [
        ("train", "own-data", "D", "--config", "PIPE.yaml"),
        ("train", "own-data", "D", "--config", "DEVICE.yaml"),
        ("inspect", "--model", "small", "--weights", "PIPE.safetensors"),
        ("inspect", "--model", "small", "--weights", "DEVICE.safetensors"),
        ("inspect", "--model", "small", "--classes", "PIPE"),
        ("inspect", "--model", "small", "--classes", "DEVICE"),
    ],
)
def test_pipes_and_devices_are_not_read(capsys, tmp_path: Path, monkeypatch, arguments):
    """They might never end."""
    monkeypatch.chdir(tmp_path)
    for name in ("PIPE.yaml", "PIPE.safetensors", "PIPE"):
        os.mkfifo(name)
        Path(name.replace("PIPE", "DEVICE")).symlink_to("/dev/zero")
    assert "regular file" in failed(capsys, *arguments)


@pytest.mark.parametrize(
    "read",
    [
        lambda file: read_json(file, "Remedy."),
        lambda file: calibrated(ISNetConfig(), "small", "float32", file),
        lambda file: FineTuneConfig(file).fingerprint(),
    ],
)
def test_records_that_are_pipes(tmp_path: Path, read):
    os.mkfifo(tmp_path / "x")
    with pytest.raises(UserError, match=r"x .*not a regular file"):
        read(tmp_path / "x")


@pytest.mark.parametrize("option", ["out", "data", "groups"])
def test_names_that_no_file_can_have(capsys, tmp_path: Path, option: str):
    given = {"data": "x", option: "a\0b"}
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(given))
    shown = failed(capsys, "train", "own-data", "--config", tmp_path / "c.yaml")
    assert rf"{option} is a\x00b, which has a NUL" in shown


@pytest.mark.parametrize("classes", [0, 100_001, 10**12])
def test_weights_of_no_number_of_classes(capsys, tmp_path: Path, classes: int):
    """An array of no values may have any shape."""
    entry = {"dtype": "F32", "shape": [classes, 0], "data_offsets": [0, 0]}
    header = json.dumps({"fc.weight": entry, "n" * 10_000: entry}).encode()
    file = tmp_path / "w.safetensors"
    file.write_bytes(len(header).to_bytes(8, "little") + header)
    shown = failed(capsys, "inspect", "--model", "small", "--weights", file)
    assert f"has {classes:,} classes; expected 1 to 100,000" in shown
    shown = failed(capsys, "inspect", "--model", "resnet18", "--weights", file)
    assert len(shown) < 1000
