"""`isnet-jax prepare` and `train own-data`, from picture files to the report."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import own_pictures as own
import pytest
from rich.console import Console

from isnet_jax.commands import custom
from isnet_jax.commands.main import main
from isnet_jax.errors import UserError
from isnet_jax.training import ModelDescription, load_network
from isnet_jax.training.description import read_description, write_description

SMALL = ("--model", "small", "--epochs", "1", "--batch-size", "6")


def picture(number: int, code: int) -> np.ndarray:
    """Noise whose foreground has the colour of the class."""
    pixels = own.pixels(number, height=16, width=16) // 3
    pixels[own.drawn(number, height=16, width=16), code] = 255
    return pixels


def images(root: Path, count: int = 18) -> Path:
    for number in range(count):
        code = number % 2
        place = f"{own.CLASSES[code]}/{number:02d}.png"
        own.write(root / "images" / place, picture(number, code))
        own.write(root / "masks" / place, own.drawn(number, height=16, width=16))
    return root


def run(*arguments: object) -> None:
    main([str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("own")
    run("prepare", "folder", images(root / "pictures"), "--out", root / "data")
    return root / "data"


@pytest.fixture(scope="module")
def finished(prepared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "run"
    turned = ("--augmentation.max-rotation", 10, "--augmentation.flip-horizontal", True)
    run("train", "own-data", prepared, "--out", out, "--plain-epochs", 1, *SMALL, *turned)
    return out


def test_both_networks_are_judged_on_the_test_set(finished: Path):
    metrics = json.loads((finished / "metrics.json").read_text())
    for name in ("plain", "isnet"):
        judged = dict(metrics[name])
        statistics = judged.pop("statistics")["test"]
        interventions = judged.pop("interventions") | judged.pop("explanations")
        assert set(judged) == {"test", "worst_group", "background_relevance"}
        assert all(0 <= value <= 1 for value in (*judged.values(), *interventions.values()))
        assert statistics["accuracy"]["value"] == judged["test"]
        assert set(statistics["classes"]) == {"cat", "dog"}
    assert set(metrics["comparisons"]["plain"]["test"]["classes"]) == {"cat", "dog"}
    assert (finished / "isnet" / "best").is_dir()


def test_the_report_speaks_of_own_data(finished: Path):
    page = (finished / "report.html").read_text()
    assert "Test set" in page
    assert "What the decisions rest on" in page
    for word in ("confounding", "three test sets", "carry a mark"):
        assert word not in page


def test_a_finished_run_is_shown_and_judged_again(finished: Path, prepared: Path, capsys):
    turned = ("--augmentation.max-rotation", 10, "--augmentation.flip-horizontal", True)
    run("train", "own-data", prepared, "--out", finished, "--plain-epochs", 1, *SMALL, *turned)
    assert "is finished" in capsys.readouterr().out
    run("evaluate", finished)
    metrics = json.loads((finished / "metrics.json").read_text())
    assert f"{100 * metrics['isnet']['test']:.1f} %" in capsys.readouterr().out


def test_an_image_can_be_explained(finished: Path, prepared: Path, tmp_path: Path, capsys):
    image = prepared.parent / "pictures" / "images" / "cat" / "00.png"
    out = tmp_path / "heatmap.png"
    run("explain", image, "--checkpoint", finished / "isnet", "--out", out)
    assert out.exists()
    assert "predicted" in capsys.readouterr().out


def test_other_data_are_noticed(finished: Path, prepared: Path):
    record = prepared / "preparation.json"
    before = record.read_text()
    record.write_text(before.replace('"fit": "crop"', '"fit": "stretch"'))
    try:
        with pytest.raises(UserError, match="was prepared anew since"):
            custom.opened(finished, Console(quiet=True))
        with pytest.raises(SystemExit):
            run("train", "own-data", prepared, "--out", finished, "--plain-epochs", 1, *SMALL)
    finally:
        record.write_text(before)


def test_multi_label_data_of_which_some_have_no_mask(tmp_path: Path):
    lines = ["image,mask,red,green"]
    for number in range(18):
        both = number % 3 == 0
        pixels = picture(number, number % 2)
        pixels[12:, 12:, 1 - number % 2] = 255 if both else 0
        own.write(tmp_path / f"{number:02d}.png", pixels)
        own.write(tmp_path / f"m{number:02d}.png", own.drawn(number, height=16, width=16))
        mask = "" if number % 4 == 3 else f"m{number:02d}.png"
        red, green = int(both or not number % 2), int(both or number % 2)
        lines.append(f"{number:02d}.png,{mask},{red},{green}")
    (tmp_path / "data.csv").write_text("\n".join(lines))
    source = ("csv", tmp_path / "data.csv", "--allow-missing-masks")
    run("prepare", *source, "--out", tmp_path / "data")
    run("train", "own-data", tmp_path / "data", "--out", tmp_path / "run", *SMALL)
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert "plain" not in metrics
    judged = dict(metrics["isnet"])
    assert judged.pop("statistics")["test"]["auc_pairs"] is None
    interventions = judged.pop("interventions") | judged.pop("explanations")
    assert all(0 <= value <= 1 for value in (*judged.values(), *interventions.values()))


def test_no_prepared_data(tmp_path: Path, capsys):
    with pytest.raises(SystemExit) as stopped:
        run("train", "own-data", tmp_path, "--out", tmp_path / "run")
    assert stopped.value.code == 2
    assert "it holds no prepared data. Prepare some with `isnet-jax prepare" in " ".join(
        capsys.readouterr().err.split()
    )


@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_data_that_lack_a_split_are_refused_before_training(
    prepared: Path, tmp_path: Path, split: str, capsys
):
    data = Path(shutil.copytree(prepared, tmp_path / "data"))
    info = json.loads((data / "dataset_info.json").read_text())
    info["splits"] = [each for each in info["splits"] if each["name"] != split]
    (data / "dataset_info.json").write_text(json.dumps(info))
    record = json.loads((data / "preparation.json").read_text())
    del record["digests"]
    (data / "preparation.json").write_text(json.dumps(record))
    with pytest.raises(SystemExit, match="2"):
        run("train", "own-data", data, "--out", tmp_path / "run", *SMALL)
    assert f"expected {split} too" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("prepare", "foldr"), "did you mean 'folder'"),
        (("prepare", "folder", "/absent"), "/absent does not exist; expected a folder with images"),
        (("prepare", "csv", "/absent.csv"), "/absent.csv is missing; expected a CSV table"),
        (("prepare", "coco", "/absent.json"), "/absent.json is missing"),
        (("prepare", "voc", "/absent"), "/absent does not exist"),
        (("prepare", "folder", ".", "--fit", "squeeze"), "invalid choice 'squeeze'"),
        (("prepare", "folder", ".", "--mask-threshold", "0"), "mask_threshold is 0"),
        (("train", "own-data", "x", "--model", "resnet81"), "did you mean 'resnet18'"),
        (("compare", "--against", "x"), "expected at least one run on each side"),
        (("compare", "/absent", "--against", "x"), "/absent holds no run"),
        (("train", "own-data", "x", "--plain-epochs", "-1"), "plain_epochs is -1"),
        (("train", "own-data", "x", "--dtype", "float8"), "invalid choice 'float8'"),
        (
            ("train", "own-data", "x", "--model", "small", "--remat", "True"),
            "no option 'remat'. Those have it: densenet121",
        ),
    ],
)
def test_bad_options(capsys, arguments: tuple[str, ...], message: str):
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    assert stopped.value.code == 2
    shown = " ".join(capsys.readouterr().err.replace("│", " ").split())
    assert message in shown
    assert "Traceback" not in shown


def test_a_deleted_data_file_costs_nothing_once_it_is_back(prepared: Path, tmp_path: Path, capsys):
    data, out = Path(shutil.copytree(prepared, tmp_path / "data")), tmp_path / "run"
    run("train", "own-data", data, "--out", out, *SMALL)
    metrics = json.loads((out / "metrics.json").read_text())
    (out / "metrics.json").unlink()
    (file,) = data.rglob("*train*array_record*")
    file.rename(tmp_path / "elsewhere")
    before = sorted(out.rglob("*"))
    with pytest.raises(SystemExit, match="2"):
        run("train", "own-data", data, "--out", out, *SMALL)
    assert f"missing from the prepared data in {data}: {file.name}" in capsys.readouterr().err
    assert sorted(out.rglob("*")) == before
    (tmp_path / "elsewhere").rename(file)
    run("train", "own-data", data, "--out", out, *SMALL)
    assert json.loads((out / "metrics.json").read_text())["isnet"] == metrics["isnet"]


def test_the_config_of_a_run_gives_its_options(finished: Path, tmp_path: Path):
    run("train", "own-data", "--out", tmp_path / "b", "--config", finished / "config.yaml")
    old, new = (json.loads((p / "metrics.json").read_text()) for p in (finished, tmp_path / "b"))
    assert (old["plain"], old["isnet"]) == (new["plain"], new["isnet"])


def test_the_precision_of_a_run_is_that_of_its_networks(prepared: Path, tmp_path: Path):
    out = tmp_path / "run"
    run("train", "own-data", prepared, "--out", out, "--dtype", "bfloat16", *SMALL)
    network: Any = load_network(out / "isnet")[0]
    assert network.dtype == jnp.bfloat16
    assert network.head.kernel[...].dtype == jnp.float32
    (out / "metrics.json").unlink()  # Interrupted while it was judged.
    run("train", "own-data", prepared, "--out", out, "--dtype", "bfloat16", *SMALL)
    run("evaluate", out)
    image = prepared.parent / "pictures" / "images" / "cat" / "00.png"
    run("explain", image, "--checkpoint", out / "isnet", "--out", tmp_path / "heatmap.png")
    assert (tmp_path / "heatmap.png").exists()
    with pytest.raises(SystemExit, match="2"):  # another run
        run("train", "own-data", prepared, "--out", out, *SMALL)


def test_networks_are_made_for_the_images():
    transformer = ModelDescription("vit_s_16", 2, ("a", "b"), (32, 32, 3))
    assert transformer.create()(jnp.zeros((1, 32, 32, 3))).shape == (1, 2)
    with pytest.raises(UserError, match="did you mean 'resnet18'"):
        ModelDescription("resnet81", 2, ("a", "b"), (32, 32, 3)).create()


def test_calibrated_ranges_are_trained_with(prepared: Path, tmp_path: Path):
    file, out = tmp_path / "calibration.json", tmp_path / "run"
    precision = ("--dtype", "bfloat16", "--model", "small", "--batch-size", 6)
    run("calibrate", "own-data", prepared, "--out", file, "--epochs", 2, *precision)
    given = (prepared, "--out", out, "--epochs", 1, "--calibration", file)
    run("train", "own-data", *given, *precision)
    used = json.loads((out / "run.json").read_text())["settings"]["isnet"]["foreground_range"]
    assert used == json.loads(file.read_text())["foreground_range"]
    with pytest.raises(SystemExit):
        run("train", "own-data", *given, "--model", "small", "--batch-size", 6)


def test_the_options_of_a_network_survive_its_description(tmp_path: Path):
    job = custom.OwnDataJob(data=tmp_path, model="resnet18", dtype="bfloat16", remat=True)
    description = ModelDescription("resnet18", 2, ("a", "b"), (16, 16, 3), job.model_options)
    write_description(tmp_path, description)
    network: Any = read_description(tmp_path).create()
    assert (network.dtype, network.remat) == (jnp.bfloat16, True)
    with pytest.raises(UserError, match=r"holds another network.*'remat': True"):
        write_description(tmp_path, dataclasses.replace(description, options={}))


def test_the_description_of_a_network_without_options(tmp_path: Path):
    fields = dataclasses.asdict(ModelDescription("small", 2, ("a", "b"), (16, 16, 3)))
    del fields["options"]
    (tmp_path / "model.json").write_text(json.dumps(fields))
    assert read_description(tmp_path).options == {}


def test_dtypes_and_tuples_among_the_options_of_a_network(tmp_path: Path):
    options = {"dtype": jnp.bfloat16, "normalisation": ((0.5,) * 3, (0.2,) * 3)}
    description = ModelDescription("small", 2, ("a", "b"), (16, 16, 3), options)
    write_description(tmp_path, description)
    write_description(tmp_path, description)
    network: Any = read_description(tmp_path).create()
    assert network.dtype == jnp.bfloat16
    assert network.normalisation is not None
    with pytest.raises(UserError, match="expected values of JSON"):
        dataclasses.replace(description, options={"normalisation": object()})
