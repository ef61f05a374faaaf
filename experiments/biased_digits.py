"""The main job over several seeds: the table in the README.

    python experiments/biased_digits.py --config full --seeds 0 1 2

Each seed draws its own split, marks, weights and order. Writes the table as JSON and Markdown
beside the runs.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import tyro
from rich.console import Console

from isnet_jax.commands import digits
from isnet_jax.files import write_atomically
from isnet_jax.memory import keep_freed_memory

NETWORKS = ("plain", "isnet")
COLUMNS = ("biased", "unbiased", "confounding", "background_relevance")


@dataclasses.dataclass(frozen=True)
class Experiment:
    """Repeat the main job over seeds.

    Attributes:
      config: named set of options.
      seeds: one run each.
      out: folder of the runs and of table.json, table.md.
      data_dir: where prepared data sets are kept.
    """

    config: digits.ConfigName = "full"
    seeds: tuple[int, ...] = (0, 1, 2)
    out: Path = Path("runs/biased-digits-seeds")
    data_dir: Path = Path("datasets")


def main(experiment: Experiment) -> None:
    console = Console()
    runs = []
    for seed in experiment.seeds:
        default = digits.CONFIGS[experiment.config]
        job = dataclasses.replace(
            default,
            out=experiment.out / f"{experiment.config}-{seed}",
            data_dir=experiment.data_dir,
            data=dataclasses.replace(default.data, seed=seed),
            seed=seed,
        )
        runs.append(digits.run(job, console))
    table = {
        "config": experiment.config,
        "seeds": experiment.seeds,
        "machine": runs[0]["machine"],
        "date": runs[0]["date"],
        "minutes": [round(run["seconds"] / 60, 1) for run in runs],
        **{
            network: {column: [run[network][column] for run in runs] for column in COLUMNS}
            for network in NETWORKS
        },
    }
    write_atomically(experiment.out / "table.json", json.dumps(table, indent=2) + "\n")
    write_atomically(experiment.out / "table.md", markdown(table))
    console.print(markdown(table), highlight=False)


def markdown(table: dict) -> str:
    """The table for the README: mean over the seeds, and their range."""
    lines = [
        "| network | biased | unbiased | confounding | background relevance |",
        "|---|---|---|---|---|",
    ]
    for network in NETWORKS:
        cells = [_cell(table[network][column]) for column in COLUMNS]
        lines.append(f"| {network} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _cell(values: list[float]) -> str:
    percent = 100 * np.asarray(values)
    return f"{percent.mean():.1f} % ({percent.min():.1f} to {percent.max():.1f})"


if __name__ == "__main__":
    keep_freed_memory()
    main(tyro.cli(Experiment))
