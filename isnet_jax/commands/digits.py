"""The main job: a plain classifier and an ISNet on the same biased data, judged alike."""

from __future__ import annotations

import dataclasses
import functools
from dataclasses import field
from pathlib import Path
from typing import Any, Literal

from flax import nnx
from rich.console import Console
from rich.progress import Progress

from isnet_jax.commands import run_folder, train
from isnet_jax.commands.network import network_of_run
from isnet_jax.commands.options import TrainingJob, networks_of, recommended
from isnet_jax.data import SPLITS, BiasedDigitsConfig, Split, load_split, prepare
from isnet_jax.data.drawn import with_training_groups
from isnet_jax.evaluation.judge import Splits
from isnet_jax.objective.config import ISNetConfig

ConfigName = Literal["demo", "full"]


def _with_heatmaps() -> ISNetConfig:
    return dataclasses.replace(recommended(), heatmap_weight=0.1, heatmap_fraction=0.25)


@dataclasses.dataclass(frozen=True, kw_only=True)
class BiasedDigitsJob(TrainingJob):
    """Train a plain classifier and an ISNet on digits whose background gives the class away.

    Writes metrics.json, report.html, checkpoints and TensorBoard logs into the output folder. A
    run that was interrupted goes on where it was when the same command is given again.

    Attributes:
      data_dir: where prepared data sets are kept for reuse.
      config: a named set of options, any of which can be given too: "demo" takes minutes, "full"
        trains longer. Or a run's config.yaml, whose options are taken.
      isnet: as of every training, but with a light heatmap loss on a quarter of the images too: on
        these data heatmaps do no harm, and show what they are for.
      data: the digits and their background mark.
    """

    isnet: ISNetConfig = field(default_factory=_with_heatmaps)
    out: Path = Path("runs/biased-digits")
    data_dir: Path = Path("datasets")
    config: ConfigName = "demo"
    data: BiasedDigitsConfig = field(default_factory=lambda: BiasedDigitsConfig(mask_dilation=1))


CONFIGS: dict[ConfigName, BiasedDigitsJob] = {
    "demo": BiasedDigitsJob(),
    "full": BiasedDigitsJob(config="full", epochs=40, plain_epochs=12),
}


@dataclasses.dataclass(frozen=True)
class _Trained:
    """What is needed of a run's settings."""

    data: BiasedDigitsConfig
    method: str = "isnet"
    plain_epochs: int = 1


def run(job: BiasedDigitsJob, console: Console) -> dict[str, Any]:
    """Train both networks, judge them, write the report; a finished run is only shown again.

    Returns:
      What metrics.json holds.

    Raises:
      UserError: bad options or data, or an output folder that holds something else.
    """
    job = job.calibrated()
    load = functools.partial(load_data, job.data, job.data_dir, console)
    return train.run(job, train.settings_of(job), load, console, {})


def opened(folder: Path, data_dir: Path, console: Console) -> tuple[dict[str, nnx.Module], Splits]:
    """The best networks of a run, and its data.

    Raises:
      UserError: no run there, or networks that are not trained yet.
    """
    trained = run_folder.read_as(_Trained, folder)
    names = networks_of(trained.method, trained.plain_epochs)
    networks = {name: network_of_run(folder / name)[0] for name in names}
    return networks, load_data(trained.data, data_dir, console)


def data_of(folder: Path) -> BiasedDigitsConfig:
    """What the data of a run are."""
    return run_folder.read_as(_Trained, folder).data


def load_data(config: BiasedDigitsConfig, data_dir: Path, console: Console) -> dict[str, Split]:
    """All splits, prepared if they are not yet."""
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("preparing the data", total=None)
        builder = prepare(
            config, data_dir, lambda done, total: bar.update(task, completed=done, total=total)
        )
        splits = {name: load_split(builder, name) for name in SPLITS}
        return with_training_groups(splits, config)
