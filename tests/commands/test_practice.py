"""From pretrained weights to a network in use: train, evaluate, predict, export."""

from __future__ import annotations

import csv
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import own_pictures as own
import pytest
from flax import nnx
from PIL import Image

from isnet_jax import models
from isnet_jax.commands.main import main
from isnet_jax.data import load_split, open_prepared
from isnet_jax.evaluation import predict
from isnet_jax.training import load_network

OPTIONS = ("--model", "small", "--epochs", 1, "--batch-size", 6, "--freeze", 1)


def run(*arguments: object) -> None:
    main([str(argument) for argument in arguments])


def said(capsys: pytest.CaptureFixture[str]) -> str:
    return " ".join("".join(capsys.readouterr()).split())


def failed(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    with pytest.raises(SystemExit, match="2"):
        run(*arguments)
    return said(capsys)


@pytest.fixture(scope="module")
def room(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """pictures/, prepared data/, weights.safetensors, and a finished run/."""
    root = tmp_path_factory.mktemp("practice")
    for number in range(18):
        code = number % 2
        pixels = own.pixels(number, height=16, width=16) // 3
        pixels[own.drawn(number, height=16, width=16), code] = 255
        place = f"{own.CLASSES[code]}/{number:02d}.png"
        own.write(root / "pictures" / "images" / place, pixels)
        own.write(root / "pictures" / "masks" / place, own.drawn(number, height=16, width=16))
    run("prepare", "folder", root / "pictures", "--out", root / "data")
    pretrained = models.create("small", num_classes=7, rngs=nnx.Rngs(5))
    models.save_weights(pretrained, root / "weights.safetensors")
    run(
        "train", "own-data", root / "data", "--out", root / "run", *OPTIONS,
        "--weights", root / "weights.safetensors",
    )  # fmt: skip
    return root


@pytest.fixture(scope="module")
def logits(room: Path) -> np.ndarray:
    """Of all pictures, in the order of their names."""
    network, _ = load_network(room / "run" / "isnet")
    files = sorted((room / "pictures" / "images").rglob("*.png"))
    images = np.stack([np.asarray(Image.open(file), np.float32) / 255 for file in files])
    return predict(network, images)


def table(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_a_training_starts_from_weights(room: Path):
    network, description = load_network(room / "run" / "isnet")
    stored = models.read_weights(room / "weights.safetensors")
    kernel = np.asarray(models.torch_names(network)["conv1.weight"][...])
    np.testing.assert_array_equal(kernel.transpose(3, 2, 0, 1), stored["conv1.weight"])
    assert description.options == {"normalisation": "imagenet"}


def test_the_log_says_that_the_head_is_new(room: Path, tmp_path: Path, capsys):
    start = ("--weights", room / "weights.safetensors", "--normalisation", "none")
    run("train", "own-data", room / "data", "--out", tmp_path / "run", *OPTIONS, *start)
    shown = said(capsys)
    assert "weights.safetensors; new: fc.bias, fc.weight" in shown
    assert load_network(tmp_path / "run" / "isnet")[1].options == {}


def test_weights_are_known_by_their_content(room: Path, tmp_path: Path, capsys):
    copy = Path(shutil.copy(room / "weights.safetensors", tmp_path / "copy.safetensors"))
    again = ("train", "own-data", room / "data", "--out", room / "run", *OPTIONS)
    run(*again, "--weights", copy)
    assert "is finished" in said(capsys)
    models.save_weights(models.create("small", num_classes=7, rngs=nnx.Rngs(6)), copy)
    assert "it differs in: weights:" in failed(capsys, *again, "--weights", copy)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--weights", "absent.safetensors"), "absent.safetensors cannot be read"),
        (("--freeze", "9"), "has 3 stages before its head"),
        (("--model", "compact"), "does not fit the model"),
        (("--head", "load"), "wrong shape"),
    ],
)
def test_what_does_not_fit_is_said_before_anything_is_written(
    room: Path, tmp_path: Path, capsys, options, message
):
    start = () if "--weights" in options else ("--weights", room / "weights.safetensors")
    command = ("train", "own-data", room / "data", "--out", tmp_path / "run", *OPTIONS, *start)
    assert message in failed(capsys, *command, *options)
    assert not (tmp_path / "run").exists()


def test_prepared_data_may_move(room: Path, tmp_path: Path, capsys):
    """They are known by what they were prepared from, not by their place or times."""
    copy = Path(shutil.copytree(room / "run", tmp_path / "run"))
    moved = Path(shutil.move(room / "data", tmp_path / "elsewhere"))
    try:
        assert "now: --data FOLDER" in failed(capsys, "evaluate", copy)
        run("evaluate", copy, "--data", moved)
        metrics = json.loads((copy / "metrics.json").read_text())
        assert f"{100 * metrics['isnet']['test']:.1f} %" in said(capsys)
        (copy / "metrics.json").unlink()
        start = ("--weights", room / "weights.safetensors")
        run("train", "own-data", moved, "--out", copy, *OPTIONS, *start)
        assert json.loads((copy / "metrics.json").read_text())["isnet"] == metrics["isnet"]
    finally:
        shutil.move(moved, room / "data")
    for file in (room / "pictures").rglob("*.png"):
        file.touch()
    run("prepare", "folder", room / "pictures", "--out", tmp_path / "again")
    said(capsys)
    run("evaluate", copy, "--data", tmp_path / "again")
    assert "is not what" not in said(capsys)


def test_a_run_is_judged_on_other_data(room: Path, tmp_path: Path, capsys):
    others = own.write_folder(tmp_path / "others", per_class=9, first=100)
    run("prepare", "folder", others, "--out", tmp_path / "b", "--size", 16, 16)
    said(capsys)
    run("evaluate", room / "run", "--data", tmp_path / "b")
    assert "is not what" in said(capsys)
    run("prepare", "folder", others, "--out", tmp_path / "c")
    shown = failed(capsys, "evaluate", room / "run", "--data", tmp_path / "c")
    assert "images of 8 x 8 pixels" in shown
    assert "--size 16 16" in shown
    for kind in ("images", "masks"):
        (others / kind / "cat").rename(others / kind / "cow")
    run("prepare", "folder", others, "--out", tmp_path / "d", "--size", 16, 16)
    shown = failed(capsys, "evaluate", room / "run", "--data", tmp_path / "d")
    assert "has the classes cow, dog; the networks know cat, dog" in shown


def test_data_of_another_task_are_refused(room: Path, tmp_path: Path, capsys):
    text = own.rows().replace("label", "labels")
    run(
        "prepare", "csv", own.write_table(tmp_path, text), "--out", tmp_path / "b", "--size", 16, 16
    )
    shown = failed(capsys, "evaluate", room / "run", "--data", tmp_path / "b").replace("\n", " ")
    assert "(multi-label); the networks expect one class in each image" in shown


def test_predictions_of_folders_and_files(room: Path, tmp_path: Path, capsys, logits):
    out = tmp_path / "p" / "predictions.csv"
    pictures = tmp_path / "heatmaps"
    run(
        "predict", room / "run", room / "pictures" / "images", "--out", out, "--batch-size", 4,
        "--heatmaps", pictures,
    )  # fmt: skip
    rows = table(out)
    assert list(rows[0]) == ["image", "predicted", "probability", "p_cat", "p_dog", "problem"]
    shares = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    found = np.array([[float(row["p_cat"]), float(row["p_dog"])] for row in rows])
    np.testing.assert_allclose(found, shares, atol=2e-6)
    assert [row["predicted"] for row in rows] == [own.CLASSES[c] for c in logits.argmax(1)]
    assert all(float(row["probability"]) == max(found[n]) for n, row in enumerate(rows))
    assert len(list(pictures.iterdir())) == 18
    with Image.open(pictures / "00.png") as picture:
        assert picture.size == (32, 16)
    # By the folder of the network, one file, without heatmaps: the same.
    run("predict", room / "run" / "isnet", rows[0]["image"], "--out", tmp_path / "one.csv")
    (one,) = table(tmp_path / "one.csv")
    assert one == rows[0]


def test_files_that_cannot_be_read_do_not_cost_the_others(room: Path, tmp_path: Path, capsys):
    own.write(tmp_path / "i" / "a.png", own.pixels(0, height=30, width=20))
    own.write(tmp_path / "i" / "b.png", b"nothing")
    own.write(tmp_path / "i" / "c.png", own.pixels(1, height=16, width=16))
    shown = failed(capsys, "predict", room / "run", tmp_path / "i", "--out", tmp_path / "p.csv")
    assert "1 of 3 images cannot be read" in shown
    first, bad, last = table(tmp_path / "p.csv")
    assert first["predicted"]
    assert last["predicted"]
    assert (bad["predicted"], bad["p_cat"]) == ("", "")
    assert "cannot be decoded" in bad["problem"]


@pytest.mark.parametrize(
    ("option", "place"),
    [
        ("--heatmaps", "i"),
        ("--out", "i/a.png"),
        ("--out", "run.json"),
        ("--heatmaps", "file"),
        ("--heatmaps", "h"),
    ],
)
def test_predict_finds_before_what_it_cannot_or_shall_not_write(
    room: Path, tmp_path: Path, capsys, monkeypatch, option: str, place: str
):
    monkeypatch.setattr("isnet_jax.commands.predict.read_batches", None)
    own.write(tmp_path / "i" / "a.png", own.pixels(0, height=16, width=16))
    own.write(tmp_path / "i" / ("n" * 245 + ".png"), own.pixels(0, height=16, width=16))
    (tmp_path / "file").write_text("")
    command = ("predict", room / "run", tmp_path / "i", "--out", tmp_path / "p.csv")
    where = room / "run" / place if place == "run.json" else tmp_path / place
    before = where.read_bytes() if where.is_file() else b""
    shown = failed(capsys, *command, option, where)
    assert f"Choose another {option}" in shown
    assert (where.read_bytes() if where.is_file() else b"") == before


def test_grey_networks_see_grey(tmp_path: Path):
    """What `prepare` made of the training images, `predict` makes of others."""
    for number in range(12):
        place = f"{own.CLASSES[number % 2]}/{number}.png"
        grey = (own.pixels(number)[..., 0] // 2 + 100 * (number % 2)).astype(np.uint16) * 64
        own.write(tmp_path / "g" / "images" / place, grey)
        own.write(tmp_path / "g" / "masks" / place, own.drawn(number))
    options = ("--white", 16384, "--fit", "stretch")
    run("prepare", "folder", tmp_path / "g", "--out", tmp_path / "data", *options)
    small = ("--model", "small", "--epochs", 1, "--batch-size", 4)
    run("train", "own-data", tmp_path / "data", "--out", tmp_path / "run", *small)
    split = load_split(open_prepared(tmp_path / "data"), "test")
    network, _ = load_network(tmp_path / "run" / "isnet")
    expected = predict(network, split.batch(slice(None))["image"])
    run("predict", tmp_path / "run", *(tmp_path / "g" / i for i in split.ids), "--out",
        tmp_path / "p.csv")  # fmt: skip
    shares = np.exp(expected) / np.exp(expected).sum(1, keepdims=True)
    found = [float(row["p_dog"]) for row in table(tmp_path / "p.csv")]
    np.testing.assert_allclose(found, shares[:, 1], atol=2e-6)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("predict", "absent", "x.png"), "absent holds no run"),
        (("predict", "RUN"), "Missing from isnet-jax predict: image files"),
        (("predict", "RUN", "EMPTY"), "holds no image files"),
        (("predict", "RUN", "x.png", "--batch-size", "0"), "batch_size is 0"),
        (("predict", "RUN", "x.png", "--network", "plain"), "holds no network"),
        (("predict", "RUN/isnet", "x.png", "--network", "plain"), "is the network 'isnet'"),
        (("export", "absent"), "absent holds no run"),
        (("evaluate", "RUN", "--data", "EMPTY"), "holds no prepared data"),
    ],
)
def test_what_is_refused(room: Path, tmp_path: Path, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    named = [a.replace("RUN", str(room / "run")).replace("EMPTY", "empty") for a in arguments]
    assert message in failed(capsys, *named)


PROGRAM = """
import sys
sys.modules["isnet_jax"] = None  # importing it would fail
import numpy as np
from jax import export
network = export.deserialize(open(sys.argv[1], "rb").read())
images = np.load(sys.argv[2])
parts = [np.asarray(network.call(part)) for part in (images[:3], images[3:])]
np.save(sys.argv[3], np.concatenate(parts))
"""


def test_an_export_runs_without_this_package(room: Path, tmp_path: Path, logits):
    run("export", room / "run", "--out", tmp_path / "out")
    files = sorted((room / "pictures" / "images").rglob("*.png"))
    images = np.stack([np.asarray(Image.open(file), np.float32) / 255 for file in files])
    np.save(tmp_path / "images.npy", images)
    program, result = tmp_path / "out" / "network.stablehlo", tmp_path / "logits.npy"
    command = [sys.executable, "-c", PROGRAM, program, tmp_path / "images.npy", result]
    subprocess.run(command, check=True, cwd=tmp_path)
    np.testing.assert_allclose(np.load(result), logits, atol=1e-5)
    # The weights are those of the network, in torchvision's names.
    other = models.create("small", num_classes=2, normalisation="imagenet", rngs=nnx.Rngs(1))
    models.load_weights(other, tmp_path / "out" / "weights.safetensors")
    np.testing.assert_allclose(predict(other, images), logits, atol=1e-6)
    assert (tmp_path / "out" / "classes.txt").read_text() == "cat\ndog\n"


def test_the_model_card_says_what_is_known(room: Path, tmp_path: Path):
    run("export", room / "run", "--out", tmp_path)
    card = (tmp_path / "README.md").read_text()
    metrics = json.loads((room / "run" / "metrics.json").read_text())
    assert "# ISNet: small" in card
    assert "| train | 12 |" in card.replace(str(metrics["images"]["train"]), "12")
    accuracy = f"{100 * metrics['isnet']['test']:.1f}"
    assert re.search(rf"\| test \| {accuracy}.% \| .* to .*% \|", card)
    for word in ("imagenet", "SHA-256", "cat, dog", "Known limits", "another image"):
        assert word in card


@pytest.mark.parametrize("name", ["README.md", "classes.txt"])
def test_an_export_takes_no_files_of_others(room: Path, tmp_path: Path, capsys, name: str):
    (tmp_path / name).write_text("mine")
    assert f"{name} (a file is there" in failed(capsys, "export", room / "run", "--out", tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [name]
    (tmp_path / name).unlink()
    run("export", room / "run", "--out", tmp_path)
    (tmp_path / "weights.safetensors").unlink()
    run("export", room / "run", "--out", tmp_path)
    assert (tmp_path / "weights.safetensors").exists()


def test_the_model_card_takes_no_numbers_of_changed_metrics(room: Path, tmp_path: Path, capsys):
    copy = Path(shutil.copytree(room / "run", tmp_path / "run"))
    whole = json.loads((copy / "metrics.json").read_text())
    changed = whole | {"isnet": whole["isnet"] | {"test": 0.123}}
    for number, metrics in enumerate((changed, [1], {"isnet": 5})):
        (copy / "metrics.json").write_text(json.dumps(metrics))
        run("export", copy, "--out", tmp_path / str(number))
        assert "The model card has no numbers." in said(capsys)
        card = (tmp_path / str(number) / "README.md").read_text()
        assert "its metrics were changed" in card
        assert "12.3" not in card


def test_the_report_shows_decisions_and_the_worst_heatmaps(room: Path):
    page = (room / "run" / "report.html").read_text()
    for word in ("What is taken for what", "ROC curves", "Where most lies on the background"):
        assert word in page
    assert page.count("mean heatmap of ISNet, class ") == 2
