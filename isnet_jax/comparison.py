"""The main job: a plain classifier and an ISNet on the same biased data, judged alike."""

from __future__ import annotations

import dataclasses
import functools
from dataclasses import field
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro
from rich.console import Console
from rich.progress import Progress

from isnet_jax import job as jobs
from isnet_jax import models, run_folder
from isnet_jax.calibration import calibrated
from isnet_jax.config import ISNetConfig
from isnet_jax.data import (
    SPLITS,
    Augmentation,
    BackgroundMark,
    BiasedDigitsConfig,
    Split,
    load_split,
    prepare,
)
from isnet_jax.errors import UserError, suggest
from isnet_jax.training import (
    CheckpointConfig,
    Launch,
    OptimiserConfig,
    Processes,
    Training,
    load_network,
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
        trains longer. Or a run's config.yaml, whose options are taken.
      data: the digits and their background mark.
      model: architecture of both networks.
      isnet: the ISNet's objective.
      calibration: file of `isnet-jax calibrate`; its ranges replace isnet.foreground_range.
      optimiser: of both networks.
      epochs: passes of the ISNet over the training images.
      plain_epochs: passes of the plain classifier.
      batch_size: images in each training step.
      augmentation: random transformations of image and mask together.
      seed: decides weights, order of the images and random choices; the data have their own.
      patience: end a training after so many epochs without a new lowest validation loss; 0 never
        does.
      checkpoints: when they are written and how many are kept.
      profile_steps: first and last step, from 1, of which to write a profile into the run.
      launch: how the step runs over devices.
      processes: of which this is one, for training over several hosts.
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
    augmentation: Augmentation = field(default_factory=Augmentation)
    seed: int = 0
    patience: int = 0
    checkpoints: CheckpointConfig = field(default_factory=CheckpointConfig)
    profile_steps: tuple[int, int] | None = None
    launch: Annotated[Launch, tyro.conf.arg(name="")] = field(default_factory=Launch)
    processes: Processes = field(default_factory=Processes)

    def __post_init__(self):
        if self.model not in models.list():
            raise UserError(suggest(self.model, models.list(), what="model"))
        for network in NETWORKS:
            self.training(network)  # Checks the options.

    @property
    def networks(self) -> tuple[str, ...]:
        return NETWORKS

    def training(self, network: str) -> Training:
        """How "plain" or "isnet" is trained."""
        return jobs.training_of(self, network)


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
    if job.calibration is not None:
        isnet = calibrated(job.isnet, job.model, job.calibration)
        job = dataclasses.replace(job, isnet=isnet, calibration=None)
    load = functools.partial(load_data, job.data, job.data_dir, console)
    return jobs.run(job, jobs.settings_of(job), load, console, {})


def evaluate_run(folder: Path, data_dir: Path, console: Console) -> dict[str, jobs.Judged]:
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
    metrics = jobs.judge_all(networks, splits, console)
    jobs.show(metrics, console)
    return metrics


def load_data(config: BiasedDigitsConfig, data_dir: Path, console: Console) -> dict[str, Split]:
    """All splits, prepared if they are not yet."""
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("preparing the data", total=None)
        builder = prepare(
            config, data_dir, lambda done, total: bar.update(task, completed=done, total=total)
        )
        return {name: load_split(builder, name) for name in SPLITS}
