"""SECURITY.md's promise: no file that is opened runs code, starts programs, reaches the network."""

from __future__ import annotations

import contextlib
import json
import pickle
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import own_pictures as own
import pytest
from dicom_film import film
from flax import nnx
from rich.console import Console
from tiny_training import SMALL

from isnet_jax import ISNetConfig, UserError, models
from isnet_jax.commands.config_file import from_yaml
from isnet_jax.commands.digits import BiasedDigitsJob
from isnet_jax.commands.evaluate import Evaluate, run
from isnet_jax.data import (
    CocoSource,
    CsvSource,
    FolderSource,
    OwnDataConfig,
    VocSource,
    load_split,
    open_prepared,
    prepare_own,
)
from isnet_jax.data.custom.picture import read_image
from isnet_jax.data.custom.readers.samples import Rejected
from isnet_jax.objective.calibration import calibrated
from isnet_jax.training import load_network, rerun
from isnet_jax.training.description import write_description

FORBIDDEN = (
    "subprocess.Popen", "os.system", "os.exec", "os.fork", "os.forkpty", "os.posix_spawn",
    "os.spawn", "os.startfile", "pty.spawn", "socket.connect", "socket.bind", "socket.sendto",
    "socket.getaddrinfo", "socket.gethostbyname", "urllib.Request", "pickle.find_class",
)  # fmt: skip
_seen: list[str] | None = None


def _hook(event: str, arguments: tuple) -> None:
    if _seen is not None and event in FORBIDDEN:
        _seen.append(f"{event} {arguments!r:.200}")


sys.addaudithook(_hook)


@contextlib.contextmanager
def watched(folder: Path) -> Iterator[None]:
    """Nothing forbidden is asked of Python, and what the hostile files would make is not there."""
    global _seen
    _seen = []
    try:
        yield
    finally:
        seen, _seen = _seen, None
    assert not seen
    assert not (folder / "made").exists()


class Program:
    """Unpickled, it makes a folder."""

    def __init__(self, folder: Path):
        self.made = folder / "made"

    def __reduce__(self):
        import os

        return os.mkdir, (str(self.made),)


EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\n(made) (w) file\nshowpage\n"
SVG = b'<?xml version="1.0"?><svg><image href="http://localhost:1/x.png"/></svg>'
PDF = b"%PDF-1.7\n1 0 obj<</OpenAction<</S/Launch/F(touch made)>>>>endobj\n"


def refused(open_it: Callable[[], object]) -> None:
    with pytest.raises((UserError, Rejected)):
        open_it()


def test_pictures(tmp_path: Path):
    good = own.write(tmp_path / "good.png", own.pixels(0))
    (tmp_path / "good.dcm").write_bytes(film())
    with watched(tmp_path):
        read_image(good, (8, 8), 3, None)
        read_image(tmp_path / "good.dcm", (8, 8), 1, "stretch")
        for data in (EPS, SVG, PDF, pickle.dumps(Program(tmp_path)), b"#!/bin/sh\ntouch made\n"):
            for suffix in (".png", ".jpg", ".tif", ".dcm", ".eps"):
                path = own.write(tmp_path / f"hostile{suffix}", data)
                refused(lambda path=path: read_image(path, (8, 8), 3, None))


def test_sources(tmp_path: Path):
    """Tables with formulas, annotations with addresses, and a good one of each kind."""
    table = own.write_table(tmp_path / "table", own.rows())
    hostile = own.rows().replace("cat", "=cmd('/c calc')!A0").replace("dog", "@SUM(1+1)")
    other = own.write_table(tmp_path / "hostile", hostile)
    piped = own.write_table(tmp_path / "piped", own.rows().replace("cat", "=cmd|'/c calc'!A0"))
    coco = own.write_coco(tmp_path / "coco", own.coco())
    content = own.coco()
    content["images"][0] |= {"file_name": "http://localhost:1/x.png", "coco_url": "file:///etc"}
    remote = own.write_coco(tmp_path / "remote", content)
    sources = {
        "folder": FolderSource(own.write_folder(tmp_path / "folder")),
        "table": CsvSource(table),
        "other": CsvSource(other),
        "coco": CocoSource(coco),
        "voc": VocSource(own.write_voc(tmp_path / "voc")),
    }
    with watched(tmp_path):
        for name, source in sources.items():
            prepare_own(source, tmp_path / "out" / name, OwnDataConfig())
        for source in (CocoSource(remote), CsvSource(piped)):
            refused(lambda s=source: prepare_own(s, tmp_path / "out" / "r", OwnDataConfig()))


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("prepared")
    prepare_own(FolderSource(own.write_folder(root / "source")), root / "out", OwnDataConfig())
    return root / "out"


@pytest.mark.parametrize(
    "name", ["prep_helper.Feature", "os.system", "tensorflow_datasets.core.features.Video"]
)
def test_prepared_data(prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str):
    data = Path(shutil.copytree(prepared, tmp_path / "data"))
    features = data / "features.json"
    kind = json.loads(features.read_text())["pythonClassName"]
    features.write_text(features.read_text().replace(kind, name, 1))
    (tmp_path / "prep_helper.py").write_text(f"import os; os.mkdir({str(tmp_path / 'made')!r})")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.chdir(tmp_path)
    with watched(tmp_path):
        load_split(open_prepared(prepared), "train")
        refused(lambda: open_prepared(data))


def test_options(tmp_path: Path):
    file = tmp_path / "x.yaml"
    with watched(tmp_path):
        for tag in (
            "python/object/apply:os.mkdir [made]",
            "python/name:os.system ''",
            "python/module:prep_helper ''",
            "python/object/new:os.system [touch made]",
        ):
            file.write_text(f"epochs: !!{tag}")
            refused(lambda: from_yaml(BiasedDigitsJob, file))


def test_weights(tmp_path: Path):
    network = models.create("small", num_classes=2, rngs=nnx.Rngs(0))
    models.save_weights(network, tmp_path / "w.safetensors")
    with watched(tmp_path):
        models.load_weights(network, tmp_path / "w.safetensors")
        for name in ("w.pth", "w.bin", "w.safetensors", "w.npz"):
            (tmp_path / name).write_bytes(pickle.dumps({"fc.bias": Program(tmp_path)}))
            refused(lambda name=name: models.load_weights(network, tmp_path / name))


def test_runs(tmp_path: Path):
    """Records with programs in place of values, and a dump with pickled arrays."""
    write_description(tmp_path / "isnet", SMALL)
    np.savez(tmp_path / "nonfinite-step-1.npz", facts=np.array([Program(tmp_path)], dtype=object))
    shutil.copy(tmp_path / "nonfinite-step-1.npz", tmp_path / "calibration.json")
    settings = {"data": str(tmp_path), "content": "x", "plain_epochs": 0, "kind": "os.system"}
    (tmp_path / "run.json").write_text(json.dumps({"settings": settings}))
    with watched(tmp_path):
        refused(lambda: load_network(tmp_path / "isnet"))
        refused(lambda: rerun(tmp_path / "nonfinite-step-1.npz"))
        refused(
            lambda: calibrated(ISNetConfig(), "small", "float32", tmp_path / "calibration.json")
        )
        refused(lambda: run(Evaluate(tmp_path, tmp_path), Console(quiet=True)))


def test_the_watch_sees_what_is_forbidden(tmp_path: Path):
    with pytest.raises(AssertionError, match=r"pickle\.find_class"), watched(tmp_path):
        pickle.loads(pickle.dumps(Path("x")))
