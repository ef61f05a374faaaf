"""`isnet-jax train own-data`: an ISNet, and a plain classifier if wanted, on prepared data."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
from pathlib import Path
from typing import Annotated, Any

import tyro
from flax import nnx
from rich.console import Console
from tensorflow_datasets.core import DatasetBuilder

from isnet_jax.commands import run_folder, train
from isnet_jax.commands.network import network_of_run
from isnet_jax.commands.options import TrainingJob, networks_of
from isnet_jax.commands.terminal import say
from isnet_jax.commands.trained import Reading
from isnet_jax.data import Split, load_split, open_prepared
from isnet_jax.data.custom.builder import MANIFEST
from isnet_jax.data.custom.fingerprints import content
from isnet_jax.data.custom.groups import with_groups_of
from isnet_jax.data.custom.preparation import record_of
from isnet_jax.errors import UserError, printable
from isnet_jax.evaluation.judge import Splits
from isnet_jax.files import read_regular
from isnet_jax.objective.config import ISNetConfig
from isnet_jax.training import ModelDescription

_WORDS = {
    "lead": "A classifier learns whatever helps on its training images, the background included. "
    "An <b>ISNet</b> is trained against this: in every training step, layer-wise relevance "
    "propagation (LRP) shows which pixels a decision rests on, and relevance outside the "
    "object's mask is punished; images also get each other's backgrounds, unless the options say "
    "no. Once trained, it needs neither masks nor explanations: it is an ordinary classifier that "
    "takes an image.",
    "note": "It says where a decision rests, not whether it is right; accuracy on images from "
    "another source than the training images is the stronger test.",
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class OwnDataJob(TrainingJob):
    """Train an ISNet on data prepared by `isnet-jax prepare`, and a plain classifier if wanted.

    Writes metrics.json, report.html, checkpoints and TensorBoard logs into the output folder. A
    run that was interrupted goes on where it was when the same command is given again. `--config
    RUN/config.yaml` takes the options of another run.

    Attributes:
      data: folder of the prepared data.
      plain_epochs: passes of a plain classifier to compare with; 0 trains none.
      groups: a CSV table with the columns image, as `isnet-jax prepare` names them, and group, such
        as where the image comes from, for methods that go by groups.
    """

    data: Annotated[Path, tyro.conf.Positional] = dataclasses.field(kw_only=False)
    out: Path = Path("runs/own-data")
    model: str = "resnet18"
    epochs: int = 30
    plain_epochs: int = 0
    batch_size: int = 32
    groups: Path | None = None


@dataclasses.dataclass(frozen=True)
class _Trained:
    """What `opened` needs of a run's settings; content is the digest of the data's record."""

    data: Path
    content: str
    plain_epochs: int
    method: str = "isnet"


def run(job: OwnDataJob, console: Console) -> dict[str, Any]:
    """Train, judge, write the report; a finished run is only shown again.

    Returns:
      What metrics.json holds: see the main job's, with an accuracy for each test set.

    Raises:
      UserError: bad options, no prepared data, or an output folder that holds something else.
    """
    builder = open_prepared(job.data)
    require_splits(builder)
    # Where `evaluate` and `--config` find the data.
    job = dataclasses.replace(job, data=job.data.absolute())
    if _multi_label(builder):
        job = job.with_classification(task="multilabel")
    job = job.calibrated()
    settings = train.settings_of(job) | known_of(job.data)
    if job.groups is not None:
        settings["groups_content"] = _digest(job.groups)
    load = functools.partial(_grouped, job.groups, builder, console)
    known = functools.partial(known_by_content, job.data)
    return train.run(job, settings, load, console, _WORDS, known)


def _grouped(groups: Path | None, builder: DatasetBuilder, console: Console) -> dict[str, Split]:
    splits = splits_of(builder, console)
    return splits if groups is None else with_groups_of(splits, groups)


def _digest(file: Path) -> str:
    """SHA-256.

    Raises:
      UserError: it cannot be read.
    """
    try:
        return hashlib.sha256(read_regular(file)).hexdigest()
    except OSError as error:
        raise UserError(
            f"{printable(file)} cannot be read ({error.strerror or error}). Expected a CSV table "
            "with the columns image and group."
        ) from error


def of_task(isnet: ISNetConfig, builder: DatasetBuilder) -> ISNetConfig:
    """The objective for the task of the data: multi-label if their labels are."""
    if not _multi_label(builder):
        return isnet
    losses = dataclasses.replace(isnet.classification, task="multilabel")
    return dataclasses.replace(isnet, classification=losses)


def _multi_label(builder: DatasetBuilder) -> bool:
    features: Any = builder.info.features
    return bool(features["label"].shape)


def is_own(settings: dict[str, Any]) -> bool:
    """Whether the settings of a run are those of this job."""
    return "content" in settings


def opened(
    folder: Path, console: Console, other: Path | None = None
) -> tuple[dict[str, nnx.Module], Splits]:
    """The best networks of a run, and data to judge them on.

    Args:
      other: these data; None: those of the run, where they were.

    Raises:
      UserError: the data are gone or others by now, or their classes or size are not those of the
        networks; or a network is not trained yet.
    """
    trained = run_folder.read_as(_Trained, folder)
    data = other or trained.data
    if other is None and not (data / MANIFEST).is_file():
        raise UserError(
            f"{printable(data)} holds no prepared data any more; {printable(folder)} was trained "
            "on some there. Say where they are now: --data FOLDER."
        )
    builder = open_prepared(data)
    require_splits(builder)
    known = known_by_content(data, {"content": trained.content})
    same = known["content"] == known_of(data)["content"]
    if other is None and not same:
        raise UserError(
            f"{printable(data)} was prepared anew since {printable(folder)} was trained, from "
            "other files or options. Prepare those data again, or judge on these nevertheless: "
            f"--data {printable(data)}."
        )
    names = networks_of(trained.method, trained.plain_epochs)
    networks, descriptions = zip(*(network_of_run(folder / name) for name in names), strict=True)
    splits = splits_of(builder, console)
    _require_fit(descriptions[0], splits["train"], data)
    if not same:
        say(console, f"{data} is not what {folder} was trained on")
    return dict(zip(names, networks, strict=True)), splits


def require_splits(builder: DatasetBuilder) -> None:
    """Raises a `UserError` unless there is data to train on, to validate and to test on."""
    found = [*builder.info.splits]
    absent = [name for name in ("train", "validation") if name not in found]
    if not any(name.startswith("test") for name in found):
        absent.append("test")
    if absent:
        raise UserError(
            f"the prepared data in {printable(builder.data_dir)} have the splits "
            f"{', '.join(map(printable, found))}; expected {', '.join(absent)} too. Prepare them "
            "again with these splits."
        )


def _require_fit(description: ModelDescription, split: Split, data: Path) -> None:
    found, expected = split.class_names, description.class_names
    if found != expected:
        raise UserError(
            f"{printable(data)} has the classes {', '.join(map(printable, found))}; the networks "
            f"know {', '.join(map(printable, expected))}. Prepare data with the same classes."
        )
    size, wanted = split.images.shape[1:3], description.image_shape[:2]
    if size != wanted:
        raise UserError(
            f"{printable(data)} has images of {size[0]} x {size[1]} pixels (height x width); the "
            f"networks expect {wanted[0]} x {wanted[1]}. Prepare them again with --size "
            f"{wanted[0]} {wanted[1]}."
        )


def splits_of(builder: DatasetBuilder, console: Console) -> dict[str, Split]:
    """All splits, read into memory."""
    with console.status("reading the data"):
        return {name: load_split(builder, name) for name in sorted(builder.info.splits)}


def known_of(folder: Path) -> dict[str, Any]:
    """What is known of prepared data wherever they are: their content, and how files were read."""
    record = record_of(folder)
    options = record["options"]
    features: Any = open_prepared(folder).info.features
    grey = features["image"].shape[-1] == 1
    reading = Reading(options["fit"], options["rules"]["white"], grey)
    return {"content": content(record), "reading": dataclasses.asdict(reading)}


def known_by_content(folder: Path, settings: dict[str, Any]) -> dict[str, Any]:
    """Settings of a run; those of earlier versions hold a digest of the record with its times."""
    record = hashlib.sha256((folder / MANIFEST).read_bytes()).hexdigest()
    return settings | (known_of(folder) if settings["content"] == record else {})
