"""The run that faults are put into: a training by `commands.train`, of seconds."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import io
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from rich.console import Console
from tiny_training import arrays, split, timeless

from isnet_jax import ISNetConfig
from isnet_jax.commands import progress, run_folder, train
from isnet_jax.commands.custom import OwnDataJob
from isnet_jax.commands.finished import finished_metrics
from isnet_jax.evaluation.judge import Measured
from isnet_jax.files import write_atomically
from isnet_jax.training import (
    CheckpointConfig,
    Checkpoints,
    ModelDescription,
    TrainConfig,
    TrainState,
    init_state,
    load_network,
)
from isnet_jax.training.arrays import flattened
from isnet_jax.training.description import write_description
from isnet_jax.training.identity import identity
from isnet_jax.training.progress import check_progress

SPLITS = {"train": split(24), "validation": split(8, 1), "test": split(8, 2)}


def job(out: Path, *, keep: int = 2) -> OwnDataJob:
    """Three steps an epoch, saved after the second and at the end; nothing is explained."""
    return OwnDataJob(
        data=Path("data"),
        out=out,
        model="small",
        epochs=2,
        batch_size=8,
        isnet=ISNetConfig(heatmap_weight=0.0),
        checkpoints=CheckpointConfig(every=2, keep_last=keep, keep_best=keep),
    )


@contextlib.contextmanager
def without_judging() -> Iterator[None]:
    """What reads nothing back and takes the time: judging, heatmaps and pictures."""
    with pytest.MonkeyPatch.context() as patch:
        judged = {"test": 0.5, "background_relevance": None, "interventions": None}
        measured = {
            "isnet": Measured(judged, {"test": np.zeros((8, 3))}, np.zeros(0), np.zeros((0, 1, 1)))
        }
        patch.setattr(train, "measure_all", lambda *_: measured)
        patch.setattr(train, "decisions", lambda *_: None)
        patch.setattr(train, "samples", lambda *_: None)
        patch.setattr(
            train, "write_report", lambda path, *_, **__: write_atomically(path, "report")
        )
        patch.setattr(train, "_check_training", lambda *_: None)
        patch.setattr(progress, "highest_logit_relevance", lambda model, images: images)
        yield


def run(out: Path, *, keep: int = 2) -> str:
    """Runs it, or goes on with it; what was printed."""
    told = io.StringIO()
    options = job(out, keep=keep)
    with without_judging():
        train.run(
            options,
            train.settings_of(options) | {"content": "digest"},
            lambda: SPLITS,
            Console(file=told, width=500),
            {},
        )
    return told.getvalue()


def result(out: Path) -> dict[str, Any]:
    """Weights and records of a finished run, and what else stands there for good."""
    network, _ = load_network(out / "isnet")
    lines = (out / "isnet" / "metrics.jsonl").read_text().splitlines()
    return {
        "weights": _bytes(arrays(network)),
        "history": timeless([json.loads(line) for line in lines]),
        "run": (out / "run.json").read_bytes(),
        "report": (out / "report.html").read_bytes(),
        "judged": json.loads((out / "metrics.json").read_text())["isnet"],
        "left": sorted(
            str(path.relative_to(out))
            for path in out.rglob("*")
            if "tmp" in path.name or (path.name.startswith(".") and path.name != ".lock")
        ),
    }


@dataclasses.dataclass(frozen=True)
class Start:
    """What a run would go on from: all that decides its further course, and what was said.

    Attributes:
      step: of the checkpoint; 0 for none.
      place: arrays of the state and of the best one, place in the data, records of the epochs.
      finished: the metrics of a finished run.
      told: what was passed over.
    """

    step: int
    place: dict[str, Any]
    finished: dict[str, Any] | None
    told: tuple[str, ...]


def start(out: Path) -> Start:
    """What the run in a folder would go on from, by the same calls as `run`, without training.

    Raises:
      UserError: it would refuse.
    """
    options, told = job(out), []
    settings = train.settings_of(options) | {"content": "digest"}
    run_folder.claim(out, settings, train.to_dict(options))
    quiet = Console(file=io.StringIO())
    finished = finished_metrics(out, options.networks, quiet)
    description = options.description(SPLITS["train"])
    training = options.training_of("isnet")
    like = _fresh(description, training)
    with run_folder.lock(out):
        made_of = description, training, SPLITS["train"], SPLITS["validation"]
        write_description(out / "isnet", description, lambda: identity(*made_of))
        with Checkpoints(out / "isnet", training.checkpoints, told.append) as checkpoints:
            batches = training.batches(SPLITS["train"])
            resumed = checkpoints.resume(like, lambda f: check_progress(f, batches.get_state(), ()))
            best = checkpoints.best(like)
    if resumed is None:
        return Start(0, {}, finished, tuple(told))
    state, progress = resumed
    place = {
        "state": _bytes(flattened(state)),
        "best": _bytes(flattened(best)),
        "batches": progress["batches"],
        "history": timeless(progress["history"]),
        "epoch": progress["epoch"] and progress["epoch"]["metrics"],
    }
    return Start(int(state.step), place, finished, tuple(told))


def starts(out: Path) -> dict[int, Start]:
    """What a run that kept all its checkpoints would have gone on from, by step."""
    found: dict[int, Start] = {}
    while (here := start(out)).step:
        found[here.step] = here
        shutil.rmtree(out / "isnet" / "last" / str(here.step))
    found[0] = here
    return found


@functools.cache
def _fresh(description: ModelDescription, training: TrainConfig) -> TrainState:
    steps = training.epochs * (len(SPLITS["train"]) // training.batch_size)
    model = description.create(training.seed)
    return init_state(model, training.optimiser.make(steps), jax.random.key(training.seed))


def _bytes(named: dict[str, Any]) -> dict[str, bytes]:
    return {name: np.asarray(array).tobytes() for name, array in named.items()}
