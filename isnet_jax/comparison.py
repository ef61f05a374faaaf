"""The main job: a plain classifier and an ISNet on the same biased data, judged alike."""

from __future__ import annotations

import dataclasses
import datetime
import json
import os
import platform
import shlex
import sys
import time
from collections.abc import Mapping
from dataclasses import field
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np
import optax
from flax import nnx
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from isnet_jax import models, run_folder
from isnet_jax.calibration import calibrated
from isnet_jax.config import ISNetConfig
from isnet_jax.data import (
    SPLITS,
    TEST_SPLITS,
    BackgroundMark,
    BiasedDigitsConfig,
    Split,
    load_split,
    prepare,
)
from isnet_jax.errors import UserError, suggest
from isnet_jax.evaluation import accuracy, background_share, highest_logit_relevance, predict
from isnet_jax.files import write_atomically
from isnet_jax.progress import TrainingDisplay
from isnet_jax.report import Samples, write_report
from isnet_jax.training import (
    ModelDescription,
    OptimiserConfig,
    Training,
    compile_evaluation,
    fit,
    init_state,
    load_network,
    objective,
)

NETWORKS = ("plain", "isnet")
ConfigName = Literal["demo", "full"]


@dataclasses.dataclass(frozen=True)
class BiasedDigitsJob:
    """Train a plain classifier and an ISNet on digits whose background gives the class away.

    Writes metrics.json, report.html, checkpoints and TensorBoard logs into the output folder. A
    run that was interrupted goes on where it was when the same command is given again.

    Attributes:
      out: output folder: a new one, or that of the same run interrupted.
      data_dir: where prepared data sets are kept for reuse.
      config: a named set of options, any of which can be given too: "demo" takes minutes, "full"
        trains longer.
      data: the digits and their background mark.
      model: architecture of both networks.
      isnet: the ISNet's objective.
      calibration: file of `isnet-jax calibrate`; its ranges replace isnet.foreground_range.
      optimiser: of both networks.
      epochs: passes of the ISNet over the training images.
      plain_epochs: passes of the plain classifier.
      batch_size: images in each training step.
      max_shift: shift image and mask together by up to this many pixels at random; 0 for none.
      seed: decides weights, order of the images and random choices; the data have their own.
    """

    out: Path = Path("runs/biased-digits")
    data_dir: Path = Path("datasets")
    config: ConfigName = "demo"
    data: BiasedDigitsConfig = field(default_factory=lambda: BiasedDigitsConfig(mask_dilation=1))
    model: str = "compact"
    isnet: ISNetConfig = field(
        default_factory=lambda: ISNetConfig(variant="stochastic", batch_stats="constant")
    )
    calibration: Path | None = None
    optimiser: OptimiserConfig = field(default_factory=OptimiserConfig)
    epochs: int = 12
    plain_epochs: int = 6
    batch_size: int = 64
    max_shift: int = 0
    seed: int = 0

    def __post_init__(self):
        if self.model not in models.list():
            raise UserError(suggest(self.model, models.list(), what="model"))
        for network in NETWORKS:
            self.training(network)  # Checks the options.

    def training(self, network: str) -> Training:
        """How "plain" or "isnet" is trained."""
        isnet = network == "isnet"
        return Training(
            objective=self.isnet if isnet else self.isnet.classification,
            optimiser=self.optimiser,
            epochs=self.epochs if isnet else self.plain_epochs,
            batch_size=self.batch_size,
            max_shift=self.max_shift,
            seed=self.seed,
        )


CONFIGS: dict[ConfigName, BiasedDigitsJob] = {
    "demo": BiasedDigitsJob(),
    "full": BiasedDigitsJob(config="full", epochs=40, plain_epochs=12),
}


def run(job: BiasedDigitsJob, console: Console) -> dict[str, Any]:
    """Train both networks, judge them, write the report; a finished run is only shown again.

    Returns:
      What metrics.json holds.

    Raises:
      UserError: bad options or data, or an output folder that holds something else.
    """
    started = time.monotonic()
    if job.calibration is not None:
        isnet = calibrated(job.isnet, job.model, job.calibration)
        job = dataclasses.replace(job, isnet=isnet, calibration=None)
    settings = _settings(job)
    run_folder.check(job.out, settings)
    finished = _finished(job.out)
    if finished is not None:
        console.print(f"{job.out} is finished", soft_wrap=True, highlight=False)
        show(finished, console)
        return finished
    splits = load_data(job.data, job.data_dir, console)
    description = ModelDescription(
        job.model,
        len(splits["train"].class_names),
        splits["train"].class_names,
        splits["train"].images.shape[1:],
    )
    _check_training(job, description, splits["train"])
    run_folder.claim(job.out, settings)
    networks, history = {}, {}
    for name in NETWORKS:
        logs = job.out / "tensorboard" / name
        with TrainingDisplay(name, logs, splits["validation"], console) as display:
            networks[name], history[name] = fit(
                description,
                job.training(name),
                splits["train"],
                splits["validation"],
                job.out / name,
                display,
            )
        # What an interrupted call spent counts too.
        started -= sum(r["seconds"] for r in history[name] if r["step"] <= display.start)
    with console.status("judging both networks on the three test sets"):
        metrics: dict[str, Any] = {
            name: judge(network, splits) for name, network in networks.items()
        }
        metrics |= {
            "seconds": round(time.monotonic() - started, 1),
            "training_seconds": {
                name: round(sum(record["seconds"] for record in records), 1)
                for name, records in history.items()
            },
            "date": datetime.date.today().isoformat(),
            "machine": machine(),
            "version": metadata.version("isnet-jax"),
            "command": shlex.join(["isnet-jax", *sys.argv[1:]]),
        }
        write_report(
            job.out / "report.html",
            metrics,
            history,
            samples(networks, splits),
            run_folder.plain(job),
        )
    write_atomically(job.out / "metrics.json", json.dumps(metrics, indent=2) + "\n")
    show(metrics, console)
    return metrics


def evaluate_run(folder: Path, data_dir: Path, console: Console) -> dict[str, dict[str, float]]:
    """Judge the best networks of a run again.

    Raises:
      UserError: no run there, or networks that are not trained yet.
    """
    settings = run_folder.read(folder)
    try:
        data = settings["data"]
        source_folder = data["folder"] and Path(data["folder"])
        config = BiasedDigitsConfig(
            **data | {"mark": BackgroundMark(**data["mark"]), "folder": source_folder}
        )
    except (KeyError, TypeError) as error:
        raise UserError(
            f"{folder / run_folder.RECORD} is of another version of isnet_jax ({error}). Train "
            "again, into another folder."
        ) from error
    networks = {name: load_network(folder / name)[0] for name in NETWORKS}
    splits = load_data(config, data_dir, console)
    with console.status("judging both networks on the three test sets"):
        metrics = {name: judge(network, splits) for name, network in networks.items()}
    show(metrics, console)
    return metrics


def load_data(config: BiasedDigitsConfig, data_dir: Path, console: Console) -> dict[str, Split]:
    """All splits, prepared if they are not yet."""
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("preparing the data", total=None)
        builder = prepare(
            config, data_dir, lambda done, total: bar.update(task, completed=done, total=total)
        )
        return {name: load_split(builder, name) for name in SPLITS}


def judge(network: nnx.Module, splits: Mapping[str, Split]) -> dict[str, float]:
    """Accuracy over the three test sets and the background's share of relevance.

    The share is that of |relevance| for the highest logit on the biased test images, by the same
    LRP for every network.
    """
    judged = {}
    for name in TEST_SPLITS:
        images = splits[name].batch(slice(None))["image"]
        judged[name.removeprefix("test_")] = accuracy(predict(network, images), splits[name].labels)
    biased = splits["test_biased"].batch(slice(None))
    relevance = highest_logit_relevance(network, biased["image"])
    return judged | {"background_relevance": background_share(relevance, biased["mask"])}


def samples(
    networks: Mapping[str, nnx.Module], splits: Mapping[str, Split], per_class: int = 2
) -> Samples:
    """The first test images of every class, with what the networks make of them."""
    labels = splits["test_biased"].labels
    classes = range(len(splits["test_biased"].class_names))
    indices = np.concatenate([np.flatnonzero(labels == c)[:per_class] for c in classes])
    images = {
        name.removeprefix("test_"): splits[name].batch(indices)["image"] for name in TEST_SPLITS
    }

    def each(function):
        return {
            name: {test: function(network, x) for test, x in images.items()}
            for name, network in networks.items()
        }

    return Samples(
        images=images,
        masks=splits["test_biased"].batch(indices)["mask"],
        labels=labels[indices],
        class_names=splits["test_biased"].class_names,
        heatmaps=each(highest_logit_relevance),
        predictions=each(lambda network, x: predict(network, x).argmax(1)),
        confidences=each(lambda network, x: np.asarray(jax.nn.softmax(predict(network, x))).max(1)),
    )


def show(metrics: Mapping[str, Any], console: Console) -> None:
    """Print the table plain against ISNet."""
    table = Table(title="accuracy on the test sets, and relevance on the background")
    columns = ("biased", "unbiased", "confounding", "background_relevance")
    table.add_column("")
    for column in columns:
        table.add_column(column.replace("_", " "), justify="right")
    for name in NETWORKS:
        table.add_row(name, *(f"{100 * metrics[name][column]:.1f} %" for column in columns))
    console.print(table)


def machine() -> str:
    """What the numbers were measured on."""
    devices = jax.devices()
    kind = devices[0].device_kind if devices[0].platform != "cpu" else platform.machine()
    cores = f"{os.cpu_count()} cores, " if devices[0].platform == "cpu" else ""
    return f"{len(devices)} x {kind}, {cores}jax {jax.__version__}"


def _settings(job: BiasedDigitsJob) -> dict[str, Any]:
    """What makes two runs the same: all options but the places."""
    return {
        name: value
        for name, value in run_folder.plain(job).items()
        if name not in ("out", "data_dir")
    }


def _finished(folder: Path) -> dict[str, Any] | None:
    """The metrics of a run whose files are all there; they are written last."""
    try:
        metrics = json.loads((folder / "metrics.json").read_text())
    except (OSError, ValueError):
        return None
    return metrics if (folder / "report.html").exists() else None


def _check_training(job: BiasedDigitsJob, description: ModelDescription, train: Split) -> None:
    """Trace what will be compiled, so that options that do not fit fail before any compute."""
    model = description.create(job.seed)
    state = init_state(model, optax.identity(), jax.random.key(job.seed))
    for name in NETWORKS:
        training = job.training(name)
        batch = next(training.batches(train))
        evaluate = compile_evaluation(model, objective(training.objective))
        jax.eval_shape(evaluate, state, batch, state.key)
