"""`isnet-jax train textured | decoy | coloured | lungs`: networks on data that deceive them."""

from __future__ import annotations

import dataclasses
import functools
from dataclasses import field
from pathlib import Path
from typing import Any, ClassVar

from flax import nnx
from rich.console import Console
from rich.progress import Progress

from isnet_jax.commands import run_folder, train
from isnet_jax.commands.network import network_of_run
from isnet_jax.commands.options import TrainingJob, networks_of
from isnet_jax.data import Split, load_split
from isnet_jax.data.drawn import with_training_groups
from isnet_jax.data.hard import Coloured, Decoy, Lungs, MadeSet, Textured, prepare_made
from isnet_jax.evaluation.judge import Splits
from isnet_jax.training.serial import from_dict

_LEAD = (
    "An <b>ISNet</b> is an ordinary classifier that was trained with masks so that it decides by "
    "the object. This report compares it with a plain classifier on the same images. "
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class HardJob(TrainingJob):
    """Train a plain classifier and an ISNet on data whose training images give the class away.

    Writes metrics.json, report.html, checkpoints and TensorBoard logs into the output folder. A
    run that was interrupted goes on where it was when the same command is given again. `--config
    RUN/config.yaml` takes the options of another run.

    Attributes:
      data_dir: where prepared data sets are kept for reuse.
      data: what the data are.
    """

    words: ClassVar[str]

    data_dir: Path = Path("datasets")
    data: Any

    @property
    def made(self) -> MadeSet:
        return self.data


@dataclasses.dataclass(frozen=True, kw_only=True)
class TexturedJob(HardJob):
    """Train on objects in front of photographs, one for each class."""

    words = (
        "In the training images every class has a photograph of its own as the background. The "
        "confounding test images show the photograph of another class, the unseen ones others."
    )
    out: Path = Path("runs/textured")
    data: Textured = field(default_factory=Textured)


@dataclasses.dataclass(frozen=True, kw_only=True)
class DecoyJob(HardJob):
    """Train on digits with a grey patch in a corner that tells the class."""

    words = "In the training images the level of a grey patch in a corner tells the class."
    out: Path = Path("runs/decoy")
    data: Decoy = field(default_factory=Decoy)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ColouredJob(HardJob):
    """Train on digits whose colour tells the class: the control that no mask can help."""

    words = (
        "In the training images the object's own colour tells the class. The bias is on the "
        "object: no mask can help, and an ISNet is not expected to do better."
    )
    out: Path = Path("runs/coloured")
    data: Coloured = field(default_factory=Coloured)


@dataclasses.dataclass(frozen=True, kw_only=True)
class LungsJob(HardJob):
    """Train on imitated chest X-rays of two hospitals with different prevalence."""

    words = (
        "One hospital's training pictures are mostly of healthy lungs and the other's mostly of "
        "ill ones, and the hospitals' pictures differ outside the lungs. In the confounding test "
        "pictures it is the other way round; the unseen ones are of a third hospital."
    )
    out: Path = Path("runs/lungs")
    data: Lungs = field(default_factory=Lungs)


JOBS: dict[str, type[HardJob]] = {
    "textured": TexturedJob,
    "decoy": DecoyJob,
    "coloured": ColouredJob,
    "lungs": LungsJob,
}


@dataclasses.dataclass(frozen=True)
class _Trained:
    """What is needed of a run's settings."""

    kind: str
    data: Any
    plain_epochs: int
    method: str = "isnet"


def run(job: HardJob, console: Console) -> dict[str, Any]:
    """Train the networks, judge them, write the report; a finished run is only shown again.

    Returns:
      What metrics.json holds.

    Raises:
      UserError: bad options or data, or an output folder that holds something else.
    """
    job = job.calibrated()
    settings = train.settings_of(job) | {"kind": job.made.kind}
    load = functools.partial(load_data, job.made, job.data_dir, console)
    return train.run(job, settings, load, console, {"lead": _LEAD + job.words})


def is_hard(settings: dict[str, Any]) -> bool:
    """Whether the settings of a run are those of these jobs."""
    return str(settings.get("kind")) in JOBS


def opened(folder: Path, data_dir: Path, console: Console) -> tuple[dict[str, nnx.Module], Splits]:
    """The best networks of a run, and its data.

    Raises:
      UserError: no run there, or networks that are not trained yet.
    """
    trained = run_folder.read_as(_Trained, folder)
    names = networks_of(trained.method, trained.plain_epochs)
    networks = {name: network_of_run(folder / name)[0] for name in names}
    return networks, load_data(data_of(folder), data_dir, console)


def data_of(folder: Path) -> MadeSet:
    """What the data of a run are."""
    trained = run_folder.read_as(_Trained, folder)
    options = {field.name: field for field in dataclasses.fields(JOBS[trained.kind])}
    factory: Any = options["data"].default_factory
    return from_dict(factory, trained.data, str(folder / run_folder.RUN_FILE))


def load_data(made: MadeSet, data_dir: Path, console: Console) -> dict[str, Split]:
    """All splits, prepared if they are not yet."""
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("preparing the data", total=None)
        builder = prepare_made(
            made, data_dir, lambda done, total: bar.update(task, completed=done, total=total)
        )
        splits = {name: load_split(builder, name) for name in made.members()}
        return with_training_groups(splits, made)
