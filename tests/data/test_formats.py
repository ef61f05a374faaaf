"""No file that is opened as a picture starts a program."""

import ast
from pathlib import Path

import own_pictures as own
import pytest
from PIL import EpsImagePlugin, Image

import isnet_jax
from isnet_jax.data import FolderSource, OwnDataConfig, open_prepared, open_records, prepare_own
from isnet_jax.data.custom.picture import read_image
from isnet_jax.data.custom.readers.samples import Rejected
from isnet_jax.errors import UserError

EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 16 16\n%%EndComments\nshowpage\n"


@pytest.fixture(autouse=True)
def no_ghostscript(monkeypatch: pytest.MonkeyPatch):
    def started(*_, **__):
        pytest.fail("Ghostscript was started")

    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", started)


def test_every_reader_of_pictures_names_its_formats():
    opened = 0
    for path in Path(isnet_jax.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "Image.open":
                opened += 1
                assert "formats" in [word.arg for word in node.keywords], (path, node.lineno)
    assert opened


def test_an_eps_with_the_name_of_a_png(tmp_path: Path):
    photo = tmp_path / "photo.png"
    photo.write_bytes(EPS)
    with pytest.raises(Rejected, match="cannot be decoded"):
        read_image(photo, (16, 16), 3, None)


def test_an_eps_in_a_prepared_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    source = FolderSource(own.write_folder(tmp_path / "source"))
    prepare_own(source, tmp_path / "out", OwnDataConfig())
    records = open_records(open_prepared(tmp_path / "out"), "train")
    record = records._source[0] | {"image": EPS}
    monkeypatch.setattr(records, "_source", [record])
    with pytest.raises(UserError, match="cannot be read"):
        records[0]


def test_a_record_of_too_many_pixels(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    source = FolderSource(own.write_folder(tmp_path / "source"))
    prepare_own(source, tmp_path / "out", OwnDataConfig())
    records = open_records(open_prepared(tmp_path / "out"), "train")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1)
    with pytest.raises(UserError, match="cannot be read"):
        records[0]
