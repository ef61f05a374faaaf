"""The main job through the command line: what it writes, what it refuses, what it does again."""

import contextlib
import dataclasses
import io
import json
import platform
import re
import shutil
import subprocess
import sys
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from isnet_jax import ISNetConfig, UserError
from isnet_jax.commands import digits, run_folder, train
from isnet_jax.commands.main import main
from isnet_jax.data import Augmentation, BiasedDigitsConfig
from isnet_jax.training import load_network

OPTIONS = ["--data.limit", "200", "--epochs", "2", "--plain-epochs", "1", "--batch-size", "32"]


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("datasets")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, data_dir: Path) -> tuple[Path, str]:
    """The folder of a run of the main job, made by its command, and what that printed."""
    out = tmp_path_factory.mktemp("runs") / "a long name" / ("x" * 80)
    told = io.StringIO()
    with contextlib.redirect_stdout(told):
        main(command(out, data_dir, "--parallel", "pmap"))
    return out, told.getvalue()


@pytest.fixture(scope="module")
def finished(made: tuple[Path, str]) -> Path:
    return made[0]


def command(out: Path, data_dir: Path, *more: str) -> list[str]:
    places = ["--out", str(out), "--data-dir", str(data_dir)]
    return ["train", "biased-digits", *places, *OPTIONS, *more]


def contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_metrics(finished: Path):
    metrics = json.loads((finished / "metrics.json").read_text())
    for network in ("plain", "isnet"):
        judged = dict(metrics[network])
        statistics = judged.pop("statistics")
        interventions = judged.pop("interventions") | judged.pop("explanations")
        assert set(judged) == {
            "biased", "unbiased", "confounding", "worst_group", "background_relevance",
        }  # fmt: skip
        assert all(0 <= value <= 1 for value in (*judged.values(), *interventions.values()))
        assert {name: of["accuracy"]["value"] for name, of in statistics.items()} == {
            name: judged[name] for name in ("biased", "unbiased", "confounding")
        }
    assert metrics["seconds"] >= sum(metrics["training_seconds"].values()) > 0
    assert {"date", "machine", "version", "command"} <= set(metrics)


def test_report_is_self_contained(finished: Path):
    page = (finished / "report.html").read_text()
    assert "<table" in page
    assert "<svg" in page or "data:image/png" in page
    links = re.findall(r"""(?:src|href)\s*=\s*["']([^"']+)""", page)
    assert not [link for link in links if not link.startswith(("data:", "#"))]


def test_logs_and_checkpoints(finished: Path):
    for network in ("plain", "isnet"):
        assert list((finished / "tensorboard" / network).glob("events.out.tfevents.*"))
        model, description = load_network(finished / network)
        assert description.architecture == "compact"
        assert np.isfinite(model(jnp.full((1, 32, 32, 3), 0.5))).all()


def test_a_batch_that_does_not_divide_stops_before_anything_is_written(
    tmp_path: Path, data_dir: Path, capsys
):
    with pytest.raises(SystemExit) as stopped:
        main(command(tmp_path / "out", data_dir, "--accumulate", "5"))
    assert stopped.value.code == 2
    assert "choose batch_size 30 or 35" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_profile_of_steps_that_are_not_made(tmp_path: Path, data_dir: Path, capsys):
    with pytest.raises(SystemExit, match="2"):
        main(command(tmp_path / "out", data_dir, "--profile-steps", "9", "10"))
    assert "profile_steps is (9, 10), but the training has 8 steps" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_the_cost_of_a_step_is_told(made: tuple[Path, str]):
    found = r"isnet: [\d,]+ parameters, 1 device, [\d.]+ GFLOP a step, [\d.]+ MiB"
    assert re.search(found, made[1])


@pytest.mark.parametrize("parallel", ["auto", "pmap", "mesh"])
def test_a_finished_run_is_shown_again_and_not_touched(
    finished: Path, data_dir: Path, capsys: pytest.CaptureFixture[str], parallel: str
):
    """The devices do not make another run."""
    before = contents(finished)
    main(command(finished, data_dir, "--parallel", parallel))
    assert contents(finished) == before
    shown = capsys.readouterr().out
    assert "is finished" in shown
    assert "confounding" in shown


def test_a_run_whose_report_is_lost_is_judged_again(
    finished: Path, data_dir: Path, tmp_path: Path, capsys
):
    out = Path(shutil.copytree(finished, tmp_path / "run"))
    (out / "report.html").unlink()
    main(command(out, data_dir))
    old, new = (json.loads((p / "metrics.json").read_text()) for p in (finished, out))
    assert (old["plain"], old["isnet"]) == (new["plain"], new["isnet"])
    assert new["seconds"] >= sum(old["training_seconds"].values())
    assert (out / "report.html").exists()
    assert "validation_loss" not in capsys.readouterr().out


def test_evaluate(finished: Path, data_dir: Path, capsys):
    main(["evaluate", str(finished), "--data-dir", str(data_dir)])
    metrics = json.loads((finished / "metrics.json").read_text())
    shown = capsys.readouterr().out
    assert f"{100 * metrics['isnet']['biased']:.1f} %" in shown


def compared(*arguments: object) -> None:
    main(["compare", *map(str, arguments)])


def test_two_networks_are_compared(finished: Path, data_dir: Path, tmp_path: Path, capsys):
    """As `train` compared them, and from the other side."""
    plain, isnet, out = finished / "plain", finished / "isnet", tmp_path / "numbers.json"
    compared(finished, "--against", plain, "--data-dir", data_dir, "--out", out)
    assert "differences, with 95 % intervals" in capsys.readouterr().out
    found = json.loads(out.read_text())["test_sets"]
    assert found == json.loads((finished / "metrics.json").read_text())["comparisons"]["plain"]
    compared(plain, "--against", isnet, "--data-dir", data_dir, "--out", out)
    other = json.loads(out.read_text())["test_sets"]["unbiased"]["auc"]
    assert other["value"] == pytest.approx(-found["unbiased"]["auc"]["value"])
    assert other["p"] == pytest.approx(found["unbiased"]["auc"]["p"])


def test_several_runs_are_compared_over_their_seeds(
    finished: Path, data_dir: Path, tmp_path: Path, capsys
):
    out = tmp_path / "numbers.json"
    sides = (finished, finished, "--against", finished / "plain", finished / "plain")
    compared(*sides, "--data-dir", data_dir, "--out", out)
    assert "means over seeds" in capsys.readouterr().out
    found = json.loads(out.read_text())["test_sets"]["biased"]["accuracy"]
    metrics = json.loads((finished / "metrics.json").read_text())
    expected = metrics["isnet"]["biased"] - metrics["plain"]["biased"]
    assert found["difference"] == pytest.approx(dict.fromkeys(found["difference"], expected))


def test_runs_on_other_data_are_not_compared(
    finished: Path, data_dir: Path, tmp_path: Path, capsys
):
    other = Path(shutil.copytree(finished, tmp_path / "other"))
    record = json.loads((other / "run.json").read_text())
    del record["checksum"]
    record["settings"]["data"]["limit"] = 100
    (other / "run.json").write_text(json.dumps(record))
    with pytest.raises(SystemExit, match="2"):
        compared(finished, "--against", other, "--data-dir", data_dir)
    assert "was trained on other data than" in capsys.readouterr().err


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    path = tmp_path / "digit.png"
    Image.fromarray(np.full((32, 32), 90, np.uint8)).save(path)
    return path


def explain(*arguments: object) -> None:
    main(["explain", *map(str, arguments)])


def test_explain_writes_a_picture(finished: Path, picture: Path, tmp_path: Path, capsys):
    out = tmp_path / "new" / "heatmap.png"
    explain(picture, "--checkpoint", finished / "isnet", "--target", "7", "--out", out)
    with Image.open(out) as heatmap:
        assert min(heatmap.size) > 100
    assert f"heatmap for 7: {out}" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image": "absent.png"}, r"absent\.png is missing"),
        ({"image": __file__}, "cannot be decoded"),
        ({"--checkpoint": "."}, "holds no network"),
        ({"--checkpoint": ".."}, "holds no network"),
        ({"--architecture": "resnet18"}, "holds a 'compact'; expected a 'resnet18'"),
        ({"--target": "seven"}, "unknown class 'seven'"),
        ({"--target": "10"}, "unknown class '10'"),
        ({"--out": "heatmap.jpg"}, r"ends in \.png"),
        ({"--out": "/proc/heatmap.png"}, "cannot write /proc/heatmap.png"),
    ],
)
def test_explain_refuses(
    finished: Path, picture: Path, tmp_path: Path, capsys, change: dict[str, str], message: str
):
    options = {
        "image": picture, "--checkpoint": finished / "isnet", "--out": tmp_path / "out.png",
    } | change  # fmt: skip
    image = options.pop("image")
    with pytest.raises(SystemExit, match="2"):
        explain(image, *(word for pair in options.items() for word in pair))
    shown = capsys.readouterr().err
    assert re.search(message, shown.replace("\n", " ")), shown
    assert not (tmp_path / "out.png").exists()


def test_explain_refuses_another_size(finished: Path, tmp_path: Path, capsys):
    Image.new("RGB", (40, 20)).save(tmp_path / "wide.png")
    with pytest.raises(SystemExit, match="2"):
        explain(tmp_path / "wide.png", "--checkpoint", finished / "isnet")
    assert "40 x 20 pixels; the network expects 32 x 32" in capsys.readouterr().err


def test_a_run_is_reproduced_from_its_config(finished: Path, data_dir: Path, tmp_path: Path):
    main(
        [
            "train",
            "biased-digits",
            "--out",
            str(tmp_path / "b"),
            "--config",
            str(finished / "config.yaml"),
        ]
    )
    old, new = (json.loads((p / "metrics.json").read_text()) for p in (finished, tmp_path / "b"))
    assert (old["plain"], old["isnet"]) == (new["plain"], new["isnet"])
    assert (tmp_path / "b" / "config.yaml").read_text() == (finished / "config.yaml").read_text()


def test_a_folder_that_another_process_trains_in(
    finished: Path, data_dir: Path, tmp_path: Path, capsys
):
    out = Path(shutil.copytree(finished, tmp_path / "run"))
    (out / "metrics.json").unlink()
    program = "import sys, pathlib; from isnet_jax.commands import run_folder\n"
    program += (
        "with run_folder.lock(pathlib.Path(sys.argv[1])): print('locked', flush=True); input()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program, str(out)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    ) as other:  # fmt: skip
        assert other.stdout is not None
        assert other.stdout.readline() == "locked\n"
        before = contents(out)
        with pytest.raises(SystemExit, match="2"):
            main(command(out, data_dir))
        shown = capsys.readouterr().err
        assert f"is in use by another run: process {other.pid} on {platform.node()}" in shown
        assert contents(out) == before
        other.kill()
    # Its lock ends with it.
    main(command(out, data_dir))
    assert (out / "metrics.json").exists()


# What is refused before any compute.


@pytest.fixture
def job(tmp_path: Path, data_dir: Path) -> digits.BiasedDigitsJob:
    return digits.BiasedDigitsJob(
        out=tmp_path / "run",
        data_dir=data_dir,
        data=BiasedDigitsConfig(limit=200, mask_dilation=1),
        epochs=1,
        plain_epochs=1,
    )


def refused(job: digits.BiasedDigitsJob, message: str) -> None:
    with pytest.raises(UserError, match=message):
        digits.run(job, Console(quiet=True))


def test_the_folder_of_another_run(finished: Path, data_dir: Path, capsys):
    before = contents(finished)
    with pytest.raises(SystemExit, match="2"):
        main(command(finished, data_dir, "--epochs", "3"))
    assert "epochs: 2 there, 3 now" in capsys.readouterr().err
    assert contents(finished) == before


def test_a_folder_of_something_else(job: digits.BiasedDigitsJob):
    job.out.mkdir()
    refused_file = job.out / "thesis.tex"
    refused_file.write_text("years of work")
    refused(job, "not empty and holds no run.json")
    assert list(job.out.iterdir()) == [refused_file]
    (job.out / "run.json").write_text("{}")
    refused(job, r"run\.json: the file lacks settings")
    job = dataclasses.replace(job, out=refused_file)
    refused(job, "is a file")
    assert refused_file.read_text() == "years of work"


def test_a_folder_that_cannot_be_written(job: digits.BiasedDigitsJob, monkeypatch):
    monkeypatch.setattr(train, "_check_training", lambda *_: None)
    refused(dataclasses.replace(job, out=Path("/proc/run")), "cannot write to /proc/run")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"batch_size": 1000}, "do not fill one batch of 1000"),
        ({"augmentation": Augmentation(max_shift=40)}, "max_shift is 40"),
        ({"isnet": ISNetConfig(deep_supervision=True), "model": "small"}, "supervised_places"),
        ({"isnet": ISNetConfig(foreground_range=((1, 2), (1, 3)))}, "foreground_range has 2"),
        ({"data": BiasedDigitsConfig(source="idx", folder=Path("/absent"))}, "/absent"),
    ],
)
def test_what_does_not_fit_is_refused_before_the_folder_is_claimed(
    job: digits.BiasedDigitsJob, change: dict, message: str
):
    refused(dataclasses.replace(job, **change), message)
    assert not job.out.exists()


def test_a_data_set_with_missing_files(job: digits.BiasedDigitsJob, tmp_path: Path):
    job = dataclasses.replace(job, data_dir=tmp_path / "data", batch_size=1000)
    refused(job, "do not fill")
    next((tmp_path / "data").rglob("*train*array_record*")).unlink()
    refused(job, r"1 of 5 files are missing.*Delete the folder")


def test_the_settings_of_a_run_survive_json(job: digits.BiasedDigitsJob):
    settings = train.settings_of(job)
    run_folder.claim(job.out, settings, {})
    run_folder.claim(job.out, settings, {})
    assert run_folder.read(job.out) == settings
    assert "out" not in settings
