"""What the commands read from outside, wrong in every way: taken, or one error of ours."""

from __future__ import annotations

import contextlib
import io
import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

import junk
import numpy as np
import own_pictures as own
import pytest
import safetensors.numpy
from flax import nnx
from fuzzing import counts, fuzz, spoilt
from hypothesis import strategies as st
from rich.console import Console

from isnet_jax import ISNetConfig, UserError, models
from isnet_jax.commands import digits
from isnet_jax.commands.config_file import from_yaml
from isnet_jax.commands.digits import BiasedDigitsJob
from isnet_jax.commands.evaluate import Evaluate, run
from isnet_jax.commands.finished import finished_metrics
from isnet_jax.commands.main import main
from isnet_jax.data import FolderSource, OwnDataConfig, load_split, open_prepared, prepare_own
from isnet_jax.objective.calibration import calibrated
from isnet_jax.training.description import read_description

QUIET = Console(quiet=True)
SCALARS = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9)
    | st.sampled_from([-1, 0, 2**62, 10**400, "inf", "nan", "\x1b[31m", "a\nb", "small", "1e-3"])
)  # fmt: skip
JSON = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=5,
)


def changed(record: Any) -> st.SearchStrategy[Any]:
    """A record with one of its values another one or gone."""
    places = st.sampled_from([*junk.places(record)])
    return st.builds(junk.replaced, st.just(record), places, JSON) | st.builds(
        junk.without, st.just(record), places
    )


def printed(error: UserError) -> None:
    """Nothing in it acts on a terminal, and it is of one screen."""
    lines = str(error).split("\n")
    assert all(line.isprintable() for line in lines)
    assert len(lines) <= 24
    assert len(str(error)) < 10_000


# Options


WORDS = st.text(max_size=6) | st.sampled_from(
    [
        *("--epochs", "--batch-size", "--model", "--optimiser.learning-rate", "--isnet.variant"),
        *("--isnet.foreground-range", "--isnet.heatmap-weight", "--data.mark.kind", "--config"),
        *("--processes.coordinator", "--profile-steps", "--out", "--dtype", "--seed", "--", "-x"),
        *("1", "0", "-1", "inf", "nan", "1e400", "9" * 50, "small", "True", "dual", "--help-me"),
    ]
)


@counts(30, 5000)
def test_options(examples: int, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(digits, "run", lambda job, console: None)
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", "kept as the tests have it")

    def test(words: list[str]) -> None:
        told = io.StringIO()
        with contextlib.redirect_stderr(told), contextlib.redirect_stdout(told):
            code = 0
            try:
                main(["train", "biased-digits", *words])
            except SystemExit as stopped:
                code = stopped.code
        assert code in (0, 2)
        assert "Traceback" not in told.getvalue()

    fuzz(examples, st.lists(WORDS, max_size=4), test)


@counts(200, 5000)
def test_yaml(examples: int, tmp_path: Path):
    text = (
        b"epochs: 3\nmodel: small\nisnet: {variant: dual, foreground_range: [1.0, 25.0], box_rule: "
        b"{rule: ZBox, low: 0.0, high: 1.0}}\noptimiser: &a {name: sgd}\ndata: {mark: {size: 4}}\n"
    )
    pieces = st.lists(
        st.sampled_from([*"[]{}:,-&*!#|>\"'%@`\n \t", "&a ", "*a", "!!int ", "<<: ", "...", "1e9"])
        | st.text(max_size=3),
        max_size=12,
    ).map(lambda parts: "".join(parts).encode("utf-8", "surrogatepass"))

    def test(data: bytes) -> None:
        (tmp_path / "x.yaml").write_bytes(data)
        try:
            from_yaml(BiasedDigitsJob, tmp_path / "x.yaml")
        except UserError as error:
            printed(error)

    fuzz(examples, spoilt(text) | pieces, test)


# Records

MODEL = {
    "architecture": "small", "num_classes": 2, "class_names": ["a", "b"],
    "image_shape": [16, 16, 3], "options": {"dropout": 0.5},
}  # fmt: skip
SETTINGS = {
    "settings": {
        "kind": "decoy", "plain_epochs": 1, "content": "x",
        "data": {"source": "mnist-mini", "limit": 100, "folder": None},
    }
}  # fmt: skip
JUDGED = {"test": 0.5, "background_relevance": 0.1}
METRICS = {
    "isnet": JUDGED, "seconds": 5, "training_seconds": {"isnet": 2}, "date": "d", "machine": "m",
    "version": "0.1.0", "command": "isnet-jax",
}  # fmt: skip
CALIBRATION = {
    "foreground_range": [[1.0, 25.0]], "model": "small", "dtype": "float32", "settings": {"a": 1},
}  # fmt: skip

RECORDS = {
    "model.json": (MODEL, lambda folder: nnx.eval_shape(read_description(folder).create)),
    "run.json": (SETTINGS, lambda folder: run(Evaluate(folder, folder / "absent"), QUIET)),
    "metrics.json": (METRICS, lambda folder: finished_metrics(folder, ("isnet",), QUIET)),
    "calibration.json": (
        CALIBRATION,
        lambda folder: calibrated(ISNetConfig(), "small", "float32", folder / "calibration.json"),
    ),
}


@pytest.mark.parametrize("name", RECORDS)
@counts(100, 2500)
def test_records(examples: int, name: str, tmp_path: Path):
    record, read = RECORDS[name]
    (tmp_path / "report.html").write_text("")

    def test(data: bytes) -> None:
        (tmp_path / name).write_bytes(data)
        try:
            read(tmp_path)
        except UserError as error:
            printed(error)

    as_text = changed(record).map(lambda tree: json.dumps(tree).encode())
    fuzz(examples, as_text | spoilt(json.dumps(record).encode()), test)


# Weights


@counts(100, 5000)
def test_weights(examples: int, tmp_path: Path):
    model = models.create("small", num_classes=2, rngs=nnx.Rngs(0))
    path = tmp_path / "w.safetensors"
    models.save_weights(model, path)
    whole = path.read_bytes()
    length = int.from_bytes(whole[:8], "little")
    header = json.loads(whole[8 : 8 + length])

    def packed(tree: Any) -> bytes:
        text = json.dumps(tree).encode()
        return len(text).to_bytes(8, "little") + text + whole[8 + length :]

    def test(data: bytes) -> None:
        path.write_bytes(data)
        try:
            found = models.read_weights(path)
            models.number_of_classes(model, found)
            models.load_torch(model, found)
        except UserError as error:
            printed(error)

    small = safetensors.numpy.save({"fc.bias": np.zeros(2, np.float32)})
    fuzz(examples, changed(header).map(packed) | spoilt(whole) | spoilt(small), test)


# Prepared data


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("prepared")
    prepare_own(FolderSource(own.write_folder(root / "source")), root / "out", OwnDataConfig())
    return root / "out"


@counts(60, 2000)
def test_prepared_data(examples: int, prepared: Path):
    """Whatever is changed in a folder: what is read is what was written, or nothing."""
    files = sorted(path.name for path in prepared.iterdir())
    builder = open_prepared(prepared)
    expected = {name: load_split(builder, name) for name in builder.info.splits}

    def test(case: tuple[str, int, int, bytes]) -> None:
        name, place, taken, put = case
        with tempfile.TemporaryDirectory() as folder:
            copy = Path(shutil.copytree(prepared, Path(folder) / "copy"))
            data = (copy / name).read_bytes()
            place %= len(data)
            (copy / name).write_bytes(data[:place] + put + data[place + taken :])
            try:
                opened = open_prepared(copy)
                found = {split: load_split(opened, split) for split in opened.info.splits}
            except UserError as error:
                printed(error)
                return
        assert found.keys() == expected.keys()
        for split, samples in found.items():
            for field in ("images", "masks", "labels", "ids", "class_names"):
                left, right = (getattr(each, field) for each in (samples, expected[split]))
                assert np.array_equal(left, right), (name, field)

    places = st.tuples(
        st.sampled_from(files), st.integers(0, 10**6), st.integers(0, 4), st.binary(max_size=4)
    )
    fuzz(examples, places, test)
