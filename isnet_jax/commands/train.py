"""What training jobs share: networks trained on the same data, judged alike, and a report."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import json
import shlex
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax
from flax import nnx
from rich.console import Console

from isnet_jax.commands import run_folder
from isnet_jax.commands.finished import finished_metrics
from isnet_jax.commands.logs import Logs, require
from isnet_jax.commands.options import RunOptions, TrainingJob
from isnet_jax.commands.progress import TrainingDisplay, Unobserved
from isnet_jax.commands.results import show
from isnet_jax.commands.terminal import say, warn
from isnet_jax.data import Split
from isnet_jax.errors import Terminated, UserError
from isnet_jax.evaluation import highest_logit_relevance, predict
from isnet_jax.evaluation.cost import run_time
from isnet_jax.evaluation.decisions import confusion, rocs
from isnet_jax.evaluation.interventions import heatmap_warning
from isnet_jax.evaluation.judge import (
    Measured,
    Splits,
    annotated,
    class_means,
    compare_all,
    measure,
    short_name,
    test_sets,
)
from isnet_jax.objective.batch import Batch, Whole
from isnet_jax.report.decisions import Decisions
from isnet_jax.report.page import ClassMeans, Samples, write_report
from isnet_jax.training import (
    ModelDescription,
    first_then_all,
    fit,
    init_state,
    is_first,
)
from isnet_jax.training.distributed import stops_with_the_others
from isnet_jax.training.identity import deciding
from isnet_jax.training.provenance import machine, version
from isnet_jax.training.serial import from_dict, to_dict, write_record
from isnet_jax.training.stage import Stage, before, set_up
from isnet_jax.training.termination import Termination
from isnet_jax.training.validation import build_validation

_HIGHEST = 6  # images with the highest share of relevance on the background, in the report


def settings_of(job: RunOptions) -> dict[str, Any]:
    """What makes two runs the same: not places, devices, or what is kept and watched.

    Raises:
      UserError: the weights to start from cannot be read.
    """
    other = ("out", "data_dir", "processes", "log")
    return {name: value for name, value in deciding(job).items() if name not in other}


def completed(job: RunOptions, found: dict[str, Any]) -> dict[str, Any]:
    """The settings of a run of the same kind, with the defaults of options that came later."""
    names = {option.name for option in dataclasses.fields(job)}
    places = {name: str(getattr(job, name)) for name in _places(job)}
    found = {name: places.get(name, value) for name, value in found.items()}
    known = {name: value for name, value in found.items() if name in names}
    try:
        made = from_dict(type(job), known | places, "settings")
    except UserError:  # Of a version with other options.
        return found
    return found | settings_of(made)


def _places(job: RunOptions) -> list[str]:
    """The options that name files and folders: what is there counts, not where it is."""
    names = (option.name for option in dataclasses.fields(job))
    return [name for name in names if isinstance(getattr(job, name), Path)]


def run(
    job: TrainingJob,
    settings: dict[str, Any],
    load: Callable[[], Splits],
    console: Console,
    words: Mapping[str, str],
    earlier: run_folder.Complete = dict,
) -> dict[str, Any]:
    """Train the networks, judge them, write the report; a finished run is only shown again.

    Of several processes each makes this call; the first one prepares data and writes the files.

    Args:
      job: what to train and where to.
      settings: what makes two runs the same.
      load: gives the splits train, validation and the test sets.
      words: what the report says about the data, see `write_report`.
      earlier: brings the settings of a run of an earlier version up to date.

    Returns:
      What metrics.json holds.

    Raises:
      UserError: bad options or data, an output folder that holds something else or that another
        process trains in, or what `fit` raises.
    """
    started = time.monotonic()

    def complete(found: dict[str, Any]) -> dict[str, Any]:
        return completed(job, earlier(found))

    run_folder.check(job.out, settings, complete)
    run_folder.check_unlocked(job.out)
    finished = finished_metrics(job.out, job.networks, console)
    if finished is not None:
        say(console, f"{job.out} is finished")
        show(finished, console)
        return finished
    if note := job.note:
        console.print(f"note: {note}", soft_wrap=True, highlight=False)
    require(job.log)
    splits = first_then_all(load)
    if job.chosen.uses_masks and (said := splits["train"].mask_warning()) is not None:
        warn(console, said)
    description = job.description(splits["train"])
    _check_training(job, description, splits)
    options = to_dict(job)
    del options["out"], options["processes"]
    first_then_all(lambda: run_folder.claim(job.out, settings, options, complete))
    with run_folder.lock(job.out) if is_first() else contextlib.nullcontext():
        metrics = _train_and_judge(job, description, splits, console, words, started)
    with stops_with_the_others():
        if jax.process_count() > 1 and Termination().is_due(at_once=True):
            raise Terminated("ended by SIGTERM; the run is finished")
    return metrics


def _train_and_judge(
    job: TrainingJob,
    description: ModelDescription,
    splits: Splits,
    console: Console,
    words: Mapping[str, str],
    started: float,
) -> dict[str, Any]:
    networks, history = {}, {}
    for name in job.networks:
        started -= _seconds(job.out / name)  # What an interrupted call spent counts too.
        logs = Logs(job.out, name, job.log, to_dict(job))
        display = TrainingDisplay(logs, splits["validation"], console)
        with display if is_first() else Unobserved() as observer:
            networks[name], history[name] = fit(
                description,
                job.training_of(name),
                splits["train"],
                splits["validation"],
                job.out / name,
                observer,
            )
    measured = measure_all(networks, splits, console)
    metrics = _summary(measured, splits) | {
        "images": {name: len(split) for name, split in splits.items()},
        "seconds": round(time.monotonic() - started, 1),
        "training_seconds": {name: round(_seconds(job.out / name), 1) for name in networks},
        "run_time": {
            name: dataclasses.asdict(run_time(network, description.image_shape))
            for name, network in networks.items()
        },
        "date": datetime.date.today().isoformat(),
        "machine": machine(),
        "version": version(),
        "command": shlex.join(["isnet-jax", *sys.argv[1:]]),
    }
    if is_first():
        first = splits[test_sets(splits)[0]]
        outside = measured[job.networks[-1]].outside
        options = to_dict(job)
        said = {name: heatmap_warning(metrics[name]) for name in job.networks}
        warnings = {name: text for name, text in said.items() if text is not None}
        write_report(
            job.out / "report.html",
            metrics,
            history,
            samples(networks, splits, first_of_each_class(first)),
            options,
            warnings=warnings,
            decisions=decisions(measured, splits),
            highest=samples(networks, splits, annotated(first)[np.argsort(-outside)][:_HIGHEST]),
            means=means(measured, first),
            **words,
        )
        write_record(job.out / "metrics.json", metrics)
    show(metrics, console)
    return metrics


def _seconds(folder: Path) -> float:
    """What the epochs of a network took so far, those of the stages before it included."""
    files = [path for path in folder.rglob("metrics.jsonl") if path.is_file()]
    lines = [line for file in files for line in file.read_text(errors="replace").splitlines()]
    return sum(map(_seconds_in, lines))


def _seconds_in(line: str) -> float:
    """Of an epoch's record; 0 of a damaged one."""
    try:
        return float(json.loads(line)["seconds"])
    except (ValueError, KeyError, TypeError):
        return 0.0


def measure_all(
    networks: Mapping[str, nnx.Module], splits: Splits, console: Console
) -> dict[str, Measured]:
    """`measure` for each network."""
    with console.status("judging the networks on the test sets"):
        return {name: measure(network, splits) for name, network in networks.items()}


def judge_all(
    networks: Mapping[str, nnx.Module], splits: Splits, console: Console
) -> dict[str, Any]:
    """What metrics.json holds of the networks: what each is worth, and their comparisons."""
    return _summary(measure_all(networks, splits, console), splits)


def _summary(measured: Mapping[str, Measured], splits: Splits) -> dict[str, Any]:
    judged: dict[str, Any] = {name: found.judged for name, found in measured.items()}
    return judged | {"comparisons": compare_all(measured, splits)}


def decisions(measured: Mapping[str, Measured], splits: Splits) -> Decisions:
    """What the networks decide on the first test set, as the report shows it."""
    first = test_sets(splits)[0]
    labels, matrices = splits[first].labels, None
    logits = {name: found.logits[short_name(first)] for name, found in measured.items()}
    if labels.ndim == 1:
        matrices = {name: confusion(given, labels) for name, given in logits.items()}
    curves = {name: rocs(given, labels) for name, given in logits.items()}
    return Decisions(splits[first].class_names, matrices, curves)


def means(measured: Mapping[str, Measured], test: Split) -> ClassMeans | None:
    """Where the networks look in the images of each class, as the report shows it."""
    shown = test.batch(annotated(test))
    if not len(shown["label"]):
        return None
    masks = class_means(shown["mask"][..., 0], shown["label"], len(test.class_names))
    heatmaps = {name: found.places for name, found in measured.items() if len(found.places)}
    return ClassMeans(test.class_names, masks, heatmaps)


def first_of_each_class(split: Split, per_class: int = 2) -> np.ndarray:
    """Indices of the first annotated images of every class; multi-label, of that class alone."""
    labels, usable = split.labels, annotated(split)
    if labels.ndim == 2:
        usable = usable[labels[usable].sum(1) == 1]
        labels = labels.argmax(1)
    classes = range(len(split.class_names))
    return np.concatenate([usable[labels[usable] == c][:per_class] for c in classes])


def samples(networks: Mapping[str, nnx.Module], splits: Splits, indices: np.ndarray) -> Samples:
    """Images of the first test set, with what the networks make of them.

    Other test sets that hold the same samples are shown beside the first. Multi-label, an image is
    shown as of its first class.
    """
    first = splits[test_sets(splits)[0]]
    shown = [name for name in test_sets(splits) if splits[name].ids == first.ids]
    labels = first.labels.argmax(1) if first.labels.ndim == 2 else first.labels
    images = {short_name(name): splits[name].batch(indices)["image"] for name in shown}

    def each(function):
        if not len(indices):
            return {}
        return {
            name: {test: function(network, x) for test, x in images.items()}
            for name, network in networks.items()
        }

    return Samples(
        images=images,
        masks=first.batch(indices)["mask"],
        labels=labels[indices],
        class_names=first.class_names,
        heatmaps=each(highest_logit_relevance),
        predictions=each(lambda network, x: predict(network, x).argmax(1)),
        confidences=each(lambda network, x: _confidence(predict(network, x), first.labels.ndim)),
    )


def _confidence(logits: np.ndarray, label_axes: int) -> np.ndarray:
    """Probability of the highest logit: of its class, or, multi-label, of its yes."""
    probabilities = jax.nn.softmax(logits) if label_axes == 1 else jax.nn.sigmoid(logits)
    return np.asarray(probabilities).max(1)


def _check_training(job: TrainingJob, description: ModelDescription, splits: Splits) -> None:
    """Trace what will be compiled, so that options that do not fit fail before any compute."""
    train = splits["train"]
    steps = max(job.training_of(name).epochs for name in job.networks)
    steps *= len(train) // job.batch_size
    if job.profile_steps and job.profile_steps[0] > steps:
        raise UserError(
            f"profile_steps is {job.profile_steps}, but the training has {steps} steps. "
            "Choose steps among them."
        )
    for name in job.networks:
        training = job.training_of(name)
        while training is not None:
            _check_stage(set_up(description, training, train, splits["validation"], None))
            training = before(training)


def _check_stage(stage: Stage) -> None:
    training = stage.training
    training.launch.launcher(training.batch_size)
    model = stage.description.create(training.seed)
    training.fine_tune.load(stage.description.deployed(model))
    training.make_optimiser(model, training.epochs * training.steps_per_epoch(len(stage.train)))
    state = init_state(model, optax.identity(), jax.random.key(training.seed))
    batch = next(training.batches(stage.train))
    validate = build_validation(model, training.method)
    whole = Whole(batch["label"], batch.get("has_mask"), batch.get("group"))
    jax.eval_shape(validate, state, Batch.of(batch), whole)
