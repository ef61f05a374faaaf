"""Every variant of the papers on the biased digits: accuracy, background relevance, cost.

    python experiments/variants.py --seeds 0 1 2

Each seed draws its own split, marks, weights and order. Every variant has its own calibration of
C1 and C2, on the first seed. Rows that are done are kept: the same command goes on with the rest.
Writes the table as JSON and Markdown into the output folder.
"""

from __future__ import annotations

import dataclasses
import json
import statistics
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax
import tyro
from rich.console import Console

from isnet_jax import Classification, ISNetConfig
from isnet_jax.commands import digits
from isnet_jax.commands.logs import Logs
from isnet_jax.commands.progress import TrainingDisplay
from isnet_jax.data import Split
from isnet_jax.evaluation.judge import Judged, judge
from isnet_jax.files import write_atomically
from isnet_jax.memory import keep_freed_memory
from isnet_jax.training import (
    ModelDescription,
    TrainConfig,
    build_step,
    calibrate,
    compile_step,
    fit,
    init_state,
    loss_function,
)
from isnet_jax.training.provenance import machine

COLUMNS = ("biased", "unbiased", "confounding", "background_relevance")
BASE = ISNetConfig()
OBJECTIVES: dict[str, ISNetConfig | Classification] = {
    "plain": Classification(),
    "stochastic": BASE,
    "selective": dataclasses.replace(BASE, variant="selective"),
    "stochastic, statistics not constant": dataclasses.replace(BASE, batch_stats="gradient"),
    "selective, statistics not constant": dataclasses.replace(
        BASE, variant="selective", batch_stats="gradient"
    ),
    "stochastic, half of the batch": dataclasses.replace(BASE, heatmap_fraction=1 / 2),
    "stochastic, quarter of the batch": dataclasses.replace(BASE, heatmap_fraction=1 / 4),
    "dual": dataclasses.replace(BASE, variant="dual"),
    "stochastic + LDS": dataclasses.replace(BASE, deep_supervision=True),
    "selective + LDS": dataclasses.replace(BASE, variant="selective", deep_supervision=True),
    "dual + LDS": dataclasses.replace(BASE, variant="dual", deep_supervision=True),
    "softmax gradient*input": dataclasses.replace(BASE, variant="softmax_gradient_input"),
    "original": dataclasses.replace(BASE, variant="original"),
    "gradient*input": dataclasses.replace(BASE, variant="gradient_input"),
    "original + LDS": dataclasses.replace(BASE, variant="original", deep_supervision=True),
}


@dataclasses.dataclass(frozen=True)
class Experiment:
    """Train every variant on every seed.

    Attributes:
      seeds: one training of each variant each.
      epochs: passes over the training images.
      calibration_epochs: of the plain training whose last epoch gives C1 and C2.
      repeats: timed steps of each variant, interleaved with plain ones.
      only: names of the rows to train; all if left out.
      out: folder of the runs, table.json and table.md.
      data_dir: where prepared data sets are kept.
    """

    seeds: tuple[int, ...] = (0, 1, 2)
    epochs: int = 6
    calibration_epochs: int = 2
    repeats: int = 15
    only: tuple[str, ...] = tuple(OBJECTIVES)
    out: Path = Path("runs/variants")
    data_dir: Path = Path("datasets")


def main(experiment: Experiment) -> None:
    console = Console()
    calibrated: dict[str, ISNetConfig | Classification] = {}
    drawn = digits.CONFIGS["demo"].data
    data = {
        seed: digits.load_data(dataclasses.replace(drawn, seed=seed), experiment.data_dir, console)
        for seed in experiment.seeds
    }
    train = data[experiment.seeds[0]]["train"]
    for seed, splits in data.items():
        for name in experiment.only:
            if name not in calibrated:
                calibrated[name] = with_range(name, train, experiment)
            file = experiment.out / f"{slug(name)}-{seed}" / "metrics.json"
            if not file.exists():
                training = training_of(calibrated[name], experiment.epochs, seed)
                metrics = trained(name, training, splits, file.parent, console)
                write_atomically(file, json.dumps(metrics) + "\n")
            console.print(name, seed, json.loads(file.read_text()), highlight=False)
    costs = measured_costs(calibrated, train, experiment, console)
    table = {
        "machine": machine(),
        "date": time.strftime("%Y-%m-%d"),
        "epochs": experiment.epochs,
        "seeds": experiment.seeds,
        "rows": {
            name: {
                "foreground_range": getattr(calibrated[name], "foreground_range", None),
                **costs[name],
                **results(name, experiment),
            }
            for name in experiment.only
        },
    }
    write_atomically(experiment.out / "table.json", json.dumps(table, indent=2) + "\n")
    write_atomically(experiment.out / "table.md", markdown(table))
    console.print(markdown(table), highlight=False)


def training_of(config: ISNetConfig | Classification, epochs: int, seed: int) -> TrainConfig:
    job = digits.CONFIGS["demo"]
    return TrainConfig(config, job.optimiser, epochs, job.batch_size, job.augmentation, seed)


def description_of(split: Split) -> ModelDescription:
    names = split.class_names
    return ModelDescription("compact", len(names), names, split.images.shape[1:])


def with_range(name: str, train: Split, experiment: Experiment) -> ISNetConfig | Classification:
    """The objective with C1 and C2 measured for it, once for all calls of this script."""
    config = OBJECTIVES[name]
    if isinstance(config, Classification):
        return config
    file = experiment.out / f"calibration-{slug(name)}.json"
    if not file.exists():
        training = training_of(config.classification, experiment.calibration_epochs, 0)
        found = calibrate(description_of(train), config, training, train)
        write_atomically(file, json.dumps(found.foreground_range) + "\n")
    ranges = tuple((low, high) for low, high in json.loads(file.read_text()))
    return dataclasses.replace(config, foreground_range=ranges)


def trained(
    name: str,
    training: TrainConfig,
    splits: Mapping[str, Split],
    folder: Path,
    console: Console,
) -> Judged:
    with TrainingDisplay(Logs(folder, name), splits["validation"], console) as display:
        network, _ = fit(
            description_of(splits["train"]),
            training,
            splits["train"],
            splits["validation"],
            folder / "network",
            display,
        )
    return judge(network, splits)


def measured_costs(
    configs: Mapping[str, ISNetConfig | Classification],
    train: Split,
    experiment: Experiment,
    console: Console,
) -> dict[str, dict[str, float]]:
    """FLOPs and time of a step relative to the plain one, interleaved with it."""
    optimiser = optax.sgd(1e-3)
    batch = jax.device_put(train.batch(slice(0, digits.CONFIGS["demo"].batch_size)))

    def compiled(config):
        model = description_of(train).create()
        state = init_state(model, optimiser, jax.random.key(0))
        run: Any = compile_step(build_step(model, loss_function(config), optimiser))
        flops = run.lower(state, batch).cost_analysis()["flops"]
        return run, jax.block_until_ready(run(state, batch)[0]), flops

    def timed(run, state):
        started = time.perf_counter()
        state, _ = jax.block_until_ready(run(state, batch))
        return state, time.perf_counter() - started

    plain, plain_state, plain_flops = compiled(Classification())
    costs = {}
    for name, config in configs.items():
        with console.status(f"timing {name}"):
            run, state, flops = compiled(config)
            ratios = []
            for _ in range(experiment.repeats):
                plain_state, base = timed(plain, plain_state)
                state, seconds = timed(run, state)
                ratios.append(seconds / base)
        costs[name] = {"flops": flops / plain_flops, "time": statistics.median(ratios)}
    return costs


def results(name: str, experiment: Experiment) -> dict[str, list[float]]:
    runs = [
        json.loads((experiment.out / f"{slug(name)}-{seed}" / "metrics.json").read_text())
        for seed in experiment.seeds
    ]
    return {column: [run[column] for run in runs] for column in COLUMNS}


def markdown(table: Mapping[str, Any]) -> str:
    """Mean over the seeds, and their range."""
    lines = [
        "| objective | biased | unbiased | confounding | background relevance | FLOPs | time |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, row in table["rows"].items():
        cells = [_cell(row[column]) for column in COLUMNS]
        lines.append(f"| {name} | {' | '.join(cells)} | {row['flops']:.2f} | {row['time']:.2f} |")
    return "\n".join(lines) + "\n"


def _cell(values: list[float]) -> str:
    percent = 100 * np.asarray(values)
    return f"{percent.mean():.1f} % ({percent.min():.1f} to {percent.max():.1f})"


def slug(name: str) -> str:
    return "".join(c if c.isalnum() else "-" for c in name)


if __name__ == "__main__":
    keep_freed_memory()
    main(tyro.cli(Experiment))
