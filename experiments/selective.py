"""Why Selective learns slowly on the biased digits: range, learning rate, statistics, steps, P.

    python experiments/selective.py

One change at a time from the row of `variants.py` (measured range, Adam at 1e-2, statistics
constant, 6 epochs, P 0.7). Rows that are done are kept. Writes table.json and table.md.
"""

from __future__ import annotations

import dataclasses
import json
import time
from pathlib import Path

import numpy as np
import tyro
import variants
from rich.console import Console

from isnet_jax import ISNetConfig
from isnet_jax.commands import digits
from isnet_jax.files import write_atomically
from isnet_jax.memory import keep_freed_memory
from isnet_jax.training import OptimiserConfig
from isnet_jax.training.provenance import machine


@dataclasses.dataclass(frozen=True)
class Row:
    """One change.

    Attributes:
      given_range: C1 and C2, if not measured.
      learning_rate: of Adam.
      objective: changes of the objective.
      epochs: passes over the training images.
    """

    given_range: tuple[float, float] | None = None
    learning_rate: float = OptimiserConfig.learning_rate
    objective: dict[str, object] = dataclasses.field(default_factory=dict)
    epochs: int = 6


ROWS = {
    "range measured without the epsilon": Row(),
    "range measured with it (0.016, 0.41)": Row(given_range=(0.0165, 0.412)),
    "range (1, 25)": Row(given_range=(1.0, 25.0)),
    "learning rate 3e-3": Row(learning_rate=3e-3),
    "statistics not constant": Row(objective={"batch_stats": "gradient"}),
    "P 0.5": Row(objective={"heatmap_weight": 0.5}),
    "P grows from 0 in 2 epochs": Row(objective={"heatmap_schedule": ((0, 0.0), (108, 0.7))}),
    "12 epochs": Row(epochs=12),
    "12 epochs, range (1, 25)": Row(given_range=(1.0, 25.0), epochs=12),
    "24 epochs": Row(epochs=24),
}


@dataclasses.dataclass(frozen=True)
class Experiment:
    """Train Selective with one change at a time.

    Attributes:
      seeds: one training of each row each.
      rows: names of the rows.
      out: folder of the runs, table.json and table.md.
      data_dir: where prepared data sets are kept.
    """

    seeds: tuple[int, ...] = (0,)
    rows: tuple[str, ...] = tuple(ROWS)
    out: Path = Path("runs/selective")
    data_dir: Path = Path("datasets")


def main(experiment: Experiment) -> None:
    console = Console()
    drawn = digits.CONFIGS["demo"].data
    for seed in experiment.seeds:
        made = dataclasses.replace(drawn, seed=seed)
        splits = digits.load_data(made, experiment.data_dir, console)
        measured = variants.with_range(
            "selective", splits["train"], variants.Experiment(out=experiment.out)
        )
        assert isinstance(measured, ISNetConfig)
        for name in experiment.rows:
            row = ROWS[name]
            folder = experiment.out / variants.slug(name) / str(seed)
            if not (folder / "metrics.json").exists():
                changes = dict(row.objective)
                if row.given_range:
                    changes["foreground_range"] = row.given_range
                objective = dataclasses.replace(measured, **changes)  # pyright: ignore[reportArgumentType]
                training = dataclasses.replace(
                    variants.training_of(objective, row.epochs, seed),
                    optimiser=OptimiserConfig(learning_rate=row.learning_rate),
                )
                metrics = variants.trained(name, training, splits, folder, console)
                write_atomically(folder / "metrics.json", json.dumps(metrics) + "\n")
            write_table(experiment, measured)
    console.print((experiment.out / "table.md").read_text(), highlight=False)


def write_table(experiment: Experiment, measured: ISNetConfig) -> None:
    """Of what is done so far."""
    rows = {}
    for name in experiment.rows:
        files = [
            experiment.out / variants.slug(name) / str(seed) / "metrics.json"
            for seed in experiment.seeds
        ]
        if found := [json.loads(file.read_text()) for file in files if file.exists()]:
            rows[name] = {c: [run[c] for run in found] for c in variants.COLUMNS}
    table = {
        "machine": machine(),
        "date": time.strftime("%Y-%m-%d"),
        "measured_range": measured.foreground_range,
        "rows": rows,
    }
    write_atomically(experiment.out / "table.json", json.dumps(table, indent=2) + "\n")
    lines = [
        "| change | biased | unbiased | confounding | background relevance |",
        "|---" * 5 + "|",
    ]
    for name, row in rows.items():
        cells = [f"{100 * np.mean(row[column]):.1f} %" for column in variants.COLUMNS]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    write_atomically(experiment.out / "table.md", "\n".join(lines) + "\n")


if __name__ == "__main__":
    keep_freed_memory()
    main(tyro.cli(Experiment))
