"""`isnet-jax compare`: whether one network is better than another, on the same test images."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tyro
from rich.console import Console

from isnet_jax.commands import custom, digits, evaluate, hard, run_folder, segmenter
from isnet_jax.commands.results import show_comparison, show_seeds
from isnet_jax.commands.terminal import say
from isnet_jax.commands.trained import Trained, trained
from isnet_jax.errors import UserError, printable
from isnet_jax.evaluation.comparison import compare
from isnet_jax.evaluation.intervals import between_seeds, over_seeds
from isnet_jax.evaluation.judge import Splits, short_name, test_sets
from isnet_jax.evaluation.predict import predict_split
from isnet_jax.evaluation.statistics import Statistics, statistics
from isnet_jax.files import check_outputs
from isnet_jax.training.serial import write_record

_MEASURES = ("accuracy", "macro_f1", "auc")


@dataclasses.dataclass(frozen=True)
class Compare:
    """Compare networks of runs on the same data, image by image.

    Of one run against one: differences with intervals, DeLong's test of the areas below the ROC
    curves and McNemar's of the accuracies. Of several runs that differ in their seeds against
    several: means over the seeds and their difference, with bootstrap intervals.

    Attributes:
      runs: output folders of `isnet-jax train`, or of one network in them, as runs/own-data/plain.
      against: those to compare with, likewise.
      network: which network of each run: plain, or its method's, which is taken if left out.
      data_dir: where the data sets that this program makes are kept.
      data: for `train own-data`: prepared data to compare on, where the runs' own have moved, or
        others with the same classes.
      out: file to write the numbers to, as JSON.
    """

    runs: Annotated[tuple[Path, ...], tyro.conf.Positional]
    against: tuple[Path, ...]
    network: str | None = None
    data_dir: Path = Path("datasets")
    data: Path | None = None
    out: Path | None = None


def run(options: Compare, console: Console) -> dict[str, Any]:
    """Compare and show.

    Returns:
      By the names of the test sets: of one run against one, the fields of `Comparison`; else by
      the measure "first", "second" and "difference".

    Raises:
      UserError: no such runs, runs that are not alike, or logits that are not finite.
    """
    if not options.runs or not options.against:
        raise UserError("expected at least one run on each side: compare RUN --against RUN.")
    sides = [_networks(paths, options) for paths in (options.runs, options.against)]
    networks = [network for side in sides for network in side]
    if options.out is not None:
        records = [file for network in networks for file in run_folder.records(network.folder)]
        check_outputs([options.out], inputs=records)
    splits = _splits(options, networks, console)
    with console.status("judging the networks on the test sets"):
        logits = [[_logits(network, splits) for network in side] for side in sides]
    first, second = map(_words, sides)
    if len(logits[0]) == len(logits[1]) == 1:
        found = _one_by_one(logits[0][0], logits[1][0], splits)
        show_comparison(first, second, found, console)
    else:
        found = _over_seeds(logits, splits)
        show_seeds(first, second, found, console)
    if options.out is not None:
        record = {"first": first, "second": second, "test_sets": found}
        try:
            write_record(options.out, record)
        except OSError as error:
            raise UserError(
                f"cannot write to {printable(options.out)} ({error}). Choose another --out."
            ) from error
        say(console, f"numbers: {options.out}")
    return found


def _networks(paths: Sequence[Path], options: Compare) -> list[Trained]:
    for path in paths:
        if (path / run_folder.RUN_FILE).is_file() and segmenter.is_segmenter(run_folder.read(path)):
            raise UserError(f"{printable(path)} is the run of a segmenter; expected classifiers.")
    return [trained(path, options.network) for path in paths]


def _splits(options: Compare, networks: Sequence[Trained], console: Console) -> Splits:
    """The data of the first network, which are those of the others too."""
    first = networks[0]
    for other in networks[1:]:
        for what in ("class_names", "image_shape"):
            found, expected = (getattr(n.description, what) for n in (other, first))
            if found != expected:
                raise UserError(
                    f"{printable(other.folder)} has the {what.replace('_', ' ')} {found}; expected "
                    f"{expected}, as {printable(first.folder)} has. Compare networks for the same "
                    "task."
                )
        if options.data is None and _data_of(other.folder) != _data_of(first.folder):
            raise UserError(
                f"{printable(other.folder)} was trained on other data than "
                f"{printable(first.folder)}, so that it may have seen its test images. Compare "
                "runs on the same data; of own data, or give others to compare on: --data FOLDER."
            )
    where = evaluate.Evaluate(first.folder, options.data_dir, options.data)
    return evaluate.opened(where, console)[1]


def _data_of(folder: Path) -> object:
    settings = run_folder.read(folder)
    if custom.is_own(settings):
        return settings["content"]
    return (hard if hard.is_hard(settings) else digits).data_of(folder)


def _logits(network: Trained, splits: Splits) -> dict[str, np.ndarray]:
    """By the names of the test sets."""
    found = {
        short_name(name): predict_split(network.model, splits[name]) for name in test_sets(splits)
    }
    for name, logits in found.items():
        if not np.isfinite(logits).all():
            raise UserError(
                f"{printable(network.folder / network.name)} has logits that are NaN or infinite "
                f"on {printable(name)}; there is nothing to compare. Train it again."
            )
    return found


def _one_by_one(
    first: Mapping[str, np.ndarray], second: Mapping[str, np.ndarray], splits: Splits
) -> dict[str, Any]:
    found = {}
    for name in test_sets(splits):
        short, split = short_name(name), splits[name]
        compared = compare(first[short], second[short], split.labels, split.class_names)
        found[short] = None if compared is None else dataclasses.asdict(compared)
    return found


def _over_seeds(
    logits: Sequence[Sequence[Mapping[str, np.ndarray]]], splits: Splits
) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name in test_sets(splits):
        short, split = short_name(name), splits[name]
        measured = [
            [statistics(run[short], split.labels, split.class_names) for run in side]
            for side in logits
        ]
        found[short] = {}
        for measure in _MEASURES:
            mine, theirs = (_values(side, measure) for side in measured)
            if mine and theirs:
                three = (over_seeds(mine), over_seeds(theirs), between_seeds(mine, theirs))
                words = ("first", "second", "difference")
                made = zip(words, map(dataclasses.asdict, three), strict=True)
                found[short][measure] = dict(made)
    return found


def _values(side: Sequence[Statistics | None], measure: str) -> list[float]:
    """Of each run; the test set decides whether there is one, so all runs have it or none has."""
    found = (getattr(of, measure) for of in side if of is not None)
    return [estimate.value for estimate in found if estimate is not None]


def _words(side: Sequence[Trained]) -> str:
    first = str(side[0].folder / side[0].name)
    return first if len(side) == 1 else f"{first} and {len(side) - 1} more"
