"""`isnet-jax evaluate`: the networks of a run, judged on its test sets again."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated, Any

import tyro
from flax import nnx
from rich.console import Console

from isnet_jax.commands import custom, digits, hard, run_folder, segmenter, train
from isnet_jax.commands.results import show
from isnet_jax.errors import UserError, printable
from isnet_jax.evaluation.judge import Splits


@dataclasses.dataclass(frozen=True)
class Evaluate:
    """Judge the networks of a run on its test sets.

    Attributes:
      run: output folder of `isnet-jax train`.
      data_dir: where the data sets that this program makes are kept.
      data: for `train own-data` and `train segmenter`: prepared data to judge on, where the run's
        own have moved, or others with the same classes.
    """

    run: Annotated[Path, tyro.conf.Positional] = Path("runs/biased-digits")
    data_dir: Path = Path("datasets")
    data: Path | None = None


def run(options: Evaluate, console: Console) -> dict[str, Any]:
    """Judge and show, whichever job the run is of.

    Raises:
      UserError: no run there, its data are gone or others by now, or a network is not trained yet.
    """
    if segmenter.is_segmenter(run_folder.read(options.run)):
        return segmenter.evaluate_run(options.run, console, options.data)
    metrics = train.judge_all(*opened(options, console), console)
    show(metrics, console)
    return metrics


def opened(options: Evaluate, console: Console) -> tuple[dict[str, nnx.Module], Splits]:
    """The networks of a run of classifiers, and the data to judge them on.

    Raises:
      UserError: as `run`.
    """
    settings = run_folder.read(options.run)
    if custom.is_own(settings):
        return custom.opened(options.run, console, options.data)
    if options.data is not None:
        raise UserError(
            f"{printable(options.run)} was trained on data that this program makes; expected no "
            "--data."
        )
    made = hard if hard.is_hard(settings) else digits
    return made.opened(options.run, options.data_dir, console)
