"""`isnet-jax calibrate biased-digits`: C1 and C2 for the main job."""

from __future__ import annotations

import dataclasses
from dataclasses import field
from pathlib import Path

from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from isnet_jax import calibration, comparison
from isnet_jax.config import ISNetConfig
from isnet_jax.data import BiasedDigitsConfig
from isnet_jax.files import check_writable
from isnet_jax.training import ModelDescription, OptimiserConfig, Training

_TRAIN = comparison.CONFIGS["demo"]


@dataclasses.dataclass(frozen=True)
class CalibrateBiasedDigits:
    """Measure the natural range (C1, C2) of relevance on a plainly trained network.

    Trains the network without the heatmap loss, takes the total relevance of every image in the
    last epoch, and writes the ranges as JSON for `isnet-jax train biased-digits --calibration`.
    Give it the options of that training.

    Attributes:
      out: JSON file to write.
      data_dir: where prepared data sets are kept for reuse.
      data: the digits and their background mark.
      model: architecture.
      isnet: the objective that will be trained; what it explains is measured.
      optimiser: of the plain training.
      epochs: passes over the training images; the last one is measured.
      batch_size: images in each training step.
      max_shift: shift image and mask together by up to this many pixels at random; 0 for none.
      seed: decides weights, order of the images and random choices.
    """

    out: Path = Path("calibration.json")
    data_dir: Path = _TRAIN.data_dir
    data: BiasedDigitsConfig = field(default_factory=lambda: _TRAIN.data)
    model: str = _TRAIN.model
    isnet: ISNetConfig = field(default_factory=lambda: _TRAIN.isnet)
    optimiser: OptimiserConfig = field(default_factory=lambda: _TRAIN.optimiser)
    epochs: int = 5
    batch_size: int = _TRAIN.batch_size
    max_shift: int = _TRAIN.max_shift
    seed: int = _TRAIN.seed


def run(job: CalibrateBiasedDigits, console: Console) -> calibration.Calibration:
    """Measure, write and show.

    Raises:
      UserError: bad options or data, a file that cannot be written.
    """
    check_writable(job.out)
    training = Training(
        objective=job.isnet.classification,
        optimiser=job.optimiser,
        epochs=job.epochs,
        batch_size=job.batch_size,
        max_shift=job.max_shift,
        seed=job.seed,
    )
    train = comparison.load_data(job.data, job.data_dir, console)["train"]
    names = train.class_names
    description = ModelDescription(job.model, len(names), names, train.images.shape[1:])
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("calibrating", total=None)
        found = calibration.calibrate(
            description,
            job.isnet,
            training,
            train,
            lambda done, steps: bar.update(task, completed=done, total=steps),
        )
    calibration.write(found, job.out)
    _show(found, console)
    console.print(f"written to {job.out.resolve()}", soft_wrap=True, highlight=False)
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
