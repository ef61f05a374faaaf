"""`isnet-jax train segmenter`: a U-Net that draws masks, and its use by `prepare --masks-by`."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import time
from dataclasses import field
from pathlib import Path
from typing import Annotated, Any, Literal

import jax
import numpy as np
import optax
import tyro
from flax import nnx
from rich.console import Console
from rich.table import Table

from isnet_jax.commands import run_folder, train
from isnet_jax.commands.custom import known_by_content, known_of, require_splits, splits_of
from isnet_jax.commands.logs import Logs, require
from isnet_jax.commands.network import network_of_run
from isnet_jax.commands.options import RunOptions
from isnet_jax.commands.progress import TrainingDisplay, Unobserved
from isnet_jax.commands.terminal import say, warn
from isnet_jax.commands.trained import Reading
from isnet_jax.data import Split, open_prepared
from isnet_jax.data.custom.fitting import fitted, unpadded
from isnet_jax.data.split import unit
from isnet_jax.errors import UserError, printable
from isnet_jax.evaluation.judge import Splits, annotated, short_name, test_sets
from isnet_jax.evaluation.segmentation import confidence, foreground, overlaps
from isnet_jax.objective.batch import Batch, Whole
from isnet_jax.objective.segmentation import Segmentation
from isnet_jax.report.heatmaps import heatmap_grid
from isnet_jax.training import ModelDescription, first_then_all, fit, init_state, is_first
from isnet_jax.training.provenance import machine
from isnet_jax.training.serial import read_json, require_intact, to_dict, write_record
from isnet_jax.training.validation import build_validation

NAME = run_folder.SEGMENTER
_METRICS = "metrics.json"
_JUDGED_AGAIN = "Delete it: the segmenter is judged again by the same command."


@dataclasses.dataclass(frozen=True, kw_only=True)
class SegmenterJob(RunOptions):
    """Train a network that draws masks, on data prepared by `isnet-jax prepare` with masks.

    Then `isnet-jax prepare ... --masks-by RUN` draws masks where there are none. Writes
    metrics.json (Dice coefficient and intersection over union on the test sets), checkpoints and
    TensorBoard logs into the output folder. A run that was interrupted goes on where it was when
    the same command is given again.

    Attributes:
      data: folder of the prepared data; images without a mask are passed over.
      widths: channels of each level of the U-Net, from the finest on; each halves the image.
      segmentation: the loss.
    """

    data: Annotated[Path, tyro.conf.Positional] = field(kw_only=False)
    out: Path = Path("runs/segmenter")
    model: Literal["unet"] = "unet"
    widths: tuple[int, ...] = (16, 32, 64, 128)
    epochs: int = 40
    batch_size: int = 16
    segmentation: Segmentation = field(default_factory=Segmentation)

    def __post_init__(self):
        super().__post_init__()
        if len(self.widths) < 2 or min(self.widths) < 1:
            raise UserError(f"widths are {self.widths}; expected two or more, each at least 1.")
        self.training(self.segmentation)  # Checks the options.

    @property
    def model_options(self) -> dict[str, Any]:
        return super().model_options | {"widths": list(self.widths)}

    def description(self, train: Split) -> ModelDescription:
        shape = train.images.shape[1:]
        return ModelDescription(self.model, 1, ("foreground",), shape, self.model_options)


def is_segmenter(settings: dict[str, Any]) -> bool:
    """Whether the settings of a run are those of this job."""
    return settings.get("kind") == NAME


def run(job: SegmenterJob, console: Console) -> dict[str, Any]:
    """Train and judge; a finished run is only shown again.

    Returns:
      What metrics.json holds.

    Raises:
      UserError: bad options, no prepared data, no masks in them, or an output folder that holds
        something else.
    """
    started = time.monotonic()
    builder = open_prepared(job.data)
    require_splits(builder)
    job = dataclasses.replace(job, data=job.data.absolute())
    settings = train.settings_of(job) | known_of(job.data) | {"kind": NAME}

    def complete(found: dict[str, Any]) -> dict[str, Any]:
        return train.completed(job, known_by_content(job.data, found))

    run_folder.check(job.out, settings, complete)
    run_folder.check_unlocked(job.out)
    if (job.out / _METRICS).exists():
        found = read_json(job.out / _METRICS, _JUDGED_AGAIN)
        require_intact(found, job.out / _METRICS, _JUDGED_AGAIN)
        say(console, f"{job.out} is finished")
        _show(found, console)
        return found
    require(job.log)
    splits = first_then_all(functools.partial(splits_of, builder, console))
    if (said := splits["train"].mask_warning()) is not None:
        warn(console, said)
    description = job.description(splits["train"])
    _check(job, description, splits)
    options = to_dict(job)
    del options["out"], options["processes"]
    first_then_all(lambda: run_folder.claim(job.out, settings, options, complete))
    with run_folder.lock(job.out) if is_first() else contextlib.nullcontext():
        logs = Logs(job.out, NAME, job.log, options)
        display = TrainingDisplay(logs, splits["validation"], console, _grid)
        with display if is_first() else Unobserved() as observer:
            model, _ = fit(
                description,
                job.training(job.segmentation),
                splits["train"],
                splits["validation"],
                job.out / NAME,
                observer,
            )
        metrics: dict[str, Any] = judge(model, splits) | {
            "images": {name: len(split) for name, split in splits.items()},
            "seconds": round(time.monotonic() - started, 1),
            "machine": machine(),
        }
        if is_first():
            write_record(job.out / _METRICS, metrics)
    _show(metrics, console)
    return metrics


def evaluate_run(folder: Path, console: Console, other: Path | None) -> dict[str, Any]:
    """Judge the segmenter of a run again, on its data or on others.

    Raises:
      UserError: no such data, or a network that is not trained yet.
    """
    data = other or run_folder.read_as(_Known, folder).data
    builder = open_prepared(data)
    require_splits(builder)
    model, _ = network_of_run(folder / NAME)
    found = judge(model, splits_of(builder, console))
    _show(found, console)
    return found


def judge(model: nnx.Module, splits: Splits) -> dict[str, Any]:
    """Of each test set by its name, "dice" and "iou"; None where it has no mask."""
    return {short_name(name): overlaps(model, splits[name]) for name in test_sets(splits)}


class Segmenter:
    """Draws masks with the segmenter of a run.

    Args:
      folder: of the run.

    Raises:
      UserError: no run of a segmenter there, or it is not trained yet.
    """

    def __init__(self, folder: Path):
        settings = run_folder.read(folder)
        if not is_segmenter(settings):
            raise UserError(
                f"{printable(folder)} is no run of `isnet-jax train segmenter`. Train one on "
                "images that have masks."
            )
        self._reading = run_folder.read_as(_Known, folder).reading
        self.model, self._description = network_of_run(folder / NAME)
        leaves = jax.tree.leaves(nnx.state(self.model))
        hashes = hashlib.sha256()
        for leaf in leaves:
            hashes.update(np.asarray(leaf).tobytes())
        self.digest = hashes.hexdigest()

    def __call__(self, pixels: np.ndarray) -> tuple[np.ndarray, float]:
        """The foreground (h, w) of an image as `decode_image` gives it, and how sure it is.

        Images are padded to the network's size, whole, so that each pixel gets its answer.
        """
        height, width, channels = self._description.image_shape
        if pixels.ndim == 3 and self._reading.grey:
            pixels = pixels.mean(-1).astype(pixels.dtype)
        small = fitted(pixels, (height, width), "pad")
        image = small if small.ndim == 3 else small[..., None]
        image = np.broadcast_to(unit(image), (1, height, width, channels))
        shares = foreground(self.model, image, batch_size=1)[0, ..., 0]
        inside = unpadded(shares, pixels.shape[:2])
        return inside > 0.5, confidence(inside)


@dataclasses.dataclass(frozen=True)
class _Known:
    data: Path
    reading: Reading = field(default_factory=Reading)


def _check(job: SegmenterJob, description: ModelDescription, splits: Splits) -> None:
    """What can be wrong, before any compute."""
    for name in ("train", "validation"):
        if not len(annotated(splits[name])):
            raise UserError(
                f"the split {name} has no image with a mask. Prepare data in which some have one."
            )
    training = job.training(job.segmentation)
    training.launch.launcher(training.batch_size)
    model = description.create(job.seed)
    job.fine_tune.load(model)
    training.make_optimiser(model, training.epochs * training.steps_per_epoch(len(splits["train"])))
    batch = next(training.batches(splits["train"]))
    state = init_state(model, optax.identity(), jax.random.key(job.seed))
    whole = Whole(batch["label"], batch.get("has_mask"))
    validate = build_validation(model, job.segmentation)
    jax.eval_shape(validate, state, Batch.of(batch), whole)


def _grid(model: nnx.Module, batch: Any) -> np.ndarray:
    """Images, and where the segmenter sees foreground (red) and background (blue)."""
    shares = foreground(model, batch["image"], batch_size=len(batch["image"]))
    return np.asarray(heatmap_grid(batch["image"], batch["mask"], {NAME: 2 * shares - 1}))


def _show(metrics: dict[str, Any], console: Console) -> None:
    table = Table(title="the segmenter's masks and the drawn ones")
    for column in ("test set", "Dice", "IoU"):
        table.add_column(column, justify="left" if column == "test set" else "right")
    for name, found in metrics.items():
        if isinstance(found, dict) and {"dice", "iou"} <= found.keys():
            shown = (found["dice"], found["iou"])
            table.add_row(
                printable(name), *("-" if v is None else f"{100 * v:.1f} %" for v in shown)
            )
    console.print(table)
