"""`isnet-jax calibrate`: C1 and C2 for a training."""

from __future__ import annotations

import dataclasses
from dataclasses import field
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from isnet_jax.commands import custom, digits
from isnet_jax.commands.options import NetworkOptions, recommended
from isnet_jax.commands.terminal import say
from isnet_jax.data import BiasedDigitsConfig, load_split, open_prepared
from isnet_jax.files import check_outputs
from isnet_jax.objective import calibration
from isnet_jax.objective.config import ISNetConfig
from isnet_jax.training import calibrate

_DEMO = digits.CONFIGS["demo"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Calibrate(NetworkOptions):
    """What every calibration has.

    Attributes:
      out: JSON file to write.
      isnet: the objective that will be trained; what it explains is measured.
      epochs: passes over the training images; the last one is measured.
    """

    out: Path = Path("calibration.json")
    isnet: ISNetConfig = field(default_factory=recommended)
    epochs: int = 5


@dataclasses.dataclass(frozen=True, kw_only=True)
class CalibrateBiasedDigits(Calibrate):
    """Measure the natural range (C1, C2) of relevance on a plainly trained network.

    Trains the network without the heatmap loss, takes the total relevance of every image in the
    last epoch, and writes the ranges as JSON for `isnet-jax train biased-digits --calibration`.
    Give it the options of that training.

    Attributes:
      data_dir: where prepared data sets are kept for reuse.
      data: the digits and their background mark.
    """

    data_dir: Path = _DEMO.data_dir
    data: BiasedDigitsConfig = field(default_factory=lambda: _DEMO.data)


@dataclasses.dataclass(frozen=True, kw_only=True)
class CalibrateOwnData(Calibrate):
    """Measure the natural range (C1, C2) of relevance on a plainly trained network.

    Trains the network without the heatmap loss, takes the total relevance of every image in the
    last epoch, and writes the ranges as JSON for `isnet-jax train own-data --calibration`. Give
    it the options of that training.

    Attributes:
      data: folder of the prepared data.
    """

    data: Annotated[Path, tyro.conf.Positional] = field(kw_only=False)
    model: str = custom.OwnDataJob.model
    batch_size: int = custom.OwnDataJob.batch_size


def run(job: CalibrateBiasedDigits | CalibrateOwnData, console: Console) -> calibration.Calibration:
    """Measure, write and show.

    Raises:
      UserError: bad options or data, a file that cannot be written.
    """
    check_outputs([job.out], ours=calibration.is_calibration)
    isnet = job.isnet
    if isinstance(job, CalibrateOwnData):
        builder = open_prepared(job.data)
        isnet = custom.of_task(isnet, builder)
        with console.status("reading the data"):
            train = load_split(builder, "train")
    else:
        train = digits.load_data(job.data, job.data_dir, console)["train"]
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("calibrating", total=None)
        found = calibrate(
            job.description(train),
            isnet,
            job.training(isnet.classification),
            train,
            lambda done, steps: bar.update(task, completed=done, total=steps),
        )
    calibration.write(found, job.out)
    _show(found, console)
    say(console, f"written to {job.out.absolute()}")
    return found


def _show(found: calibration.Calibration, console: Console) -> None:
    table = Table(title=f"total relevance of {found.samples} images, and its natural range")
    for column in ("place", "mean", "sd", "C1", "C2"):
        table.add_column(column, justify="left" if column == "place" else "right")
    maps = len(found.mean) // len(found.places)
    places = [place for place in found.places for _ in range(maps)]
    for place, mean, deviation, (low, high) in zip(
        places, found.mean, found.deviation, found.foreground_range, strict=True
    ):
        table.add_row(place, *(f"{value:.4g}" for value in (mean, deviation, low, high)))
    console.print(table)
