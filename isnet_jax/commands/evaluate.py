"""`isnet-jax evaluate`: the networks of a run, judged on its test sets again."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console

from isnet_jax.commands import custom, digits, hard, run_folder, segmenter
from isnet_jax.commands.train import Judged
from isnet_jax.errors import UserError, printable


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


def run(options: Evaluate, console: Console) -> dict[str, Judged]:
    """Judge and show, whichever job the run is of.

    Raises:
      UserError: no run there, its data are gone or others by now, or a network is not trained yet.
    """
    settings = run_folder.read(options.run)
    if segmenter.is_segmenter(settings):
        return segmenter.evaluate_run(options.run, console, options.data)
    if custom.is_own(settings):
        return custom.evaluate_run(options.run, console, options.data)
    if options.data is not None:
        raise UserError(
            f"{printable(options.run)} was trained on data that this program makes; expected no "
            "--data."
        )
    if hard.is_hard(settings):
        return hard.evaluate_run(options.run, options.data_dir, console)
    return digits.evaluate_run(options.run, options.data_dir, console)
