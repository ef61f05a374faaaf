"""Ways to train a classifier, compared: methods by data sets by seeds, with intervals.

    python experiments/rivals.py --small
    python experiments/rivals.py --seeds 0 1 2 --search-rates 3e-3 1e-2 3e-2

Every run is one of `isnet-jax train`, in a folder of its own: what is finished is kept, and a run
that was interrupted goes on, with the same command; `--known table.json` keeps the sets that were
finished on another machine. "isnet" is what the command does, "isnet-heatmaps" the papers'
objective, which explains every image and exchanges nothing. All methods have the same network (but
for multitask and attention-gated, which have their own, and segmentation, which has one more), the
same steps (table "steps") or, in a second round, as many epochs as take the seconds of the
reference method (table "seconds"). The learning rate is searched for on the accuracy of the biased
validation images, with a seed of its own, in the same way for each method. Differences to the
reference method are DeLong's and McNemar's, image by image, of the first seed. Writes table.json
and table.md.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import tyro
from rich.console import Console
from rivals_tables import STATISTICS, TESTS, markdown

from isnet_jax import ISNetConfig
from isnet_jax.commands import compare, hard
from isnet_jax.commands.options import of_method
from isnet_jax.files import write_atomically
from isnet_jax.memory import keep_freed_memory
from isnet_jax.methods import names
from isnet_jax.methods.isnet import ISNet
from isnet_jax.training import OptimiserConfig
from isnet_jax.training.provenance import machine

Budget = Literal["steps", "seconds"]
SEARCH_SEED = 100
HEATMAPS = "isnet-heatmaps"  # Among the methods; an isnet with other options.
SMALL = {"epochs": 2, "search_epochs": 1, "seeds": (0,), "sets": ("decoy",), "limit": 300}


@dataclasses.dataclass(frozen=True)
class Experiment:
    """Train every method on every set and seed.

    Attributes:
      sets: of `isnet-jax train`: textured, decoy, coloured, lungs.
      methods: their names; all that are known, and isnet-heatmaps, if left out.
      reference: the method that the others are compared with.
      seeds: one training each, of weights and order.
      epochs: passes over the training images.
      budgets: equal steps for all, and equal seconds of training.
      search_rates: learning rates to choose from; one: nothing is searched.
      search_epochs: passes over the training images with each of them.
      limit: so many objects of each source only.
      known: a table.json from elsewhere: the sets it has all rows of are not trained again.
      small: a tiny round of everything, to see that it works.
      out: folder of the runs, table.json and table.md.
      data_dir: where prepared data sets are kept.
    """

    sets: tuple[str, ...] = ("textured", "decoy", "coloured", "lungs")
    methods: tuple[str, ...] = (*names(), HEATMAPS)
    reference: str = "isnet"
    seeds: tuple[int, ...] = (0, 1, 2)
    epochs: int = 8
    budgets: tuple[Budget, ...] = ("steps", "seconds")
    search_rates: tuple[float, ...] = (3e-3, 1e-2, 3e-2)
    search_epochs: int = 3
    limit: int | None = None
    known: Path | None = None
    small: bool = False
    out: Path = Path("runs/rivals")
    data_dir: Path = Path("datasets")


def main(experiment: Experiment) -> None:
    if experiment.small:
        experiment = dataclasses.replace(experiment, **SMALL)
    console = Console()
    rows: list[dict[str, Any]] = []
    for set_name in experiment.sets:
        known = _known(experiment, set_name)
        rows += known
        for method in () if known else _reference_first(experiment):
            rate = _searched(experiment, set_name, method, console)
            for budget in experiment.budgets:
                epochs = _epochs(rows, budget, set_name, method, experiment)
                for seed in experiment.seeds:
                    folder = experiment.out / set_name / method / budget / str(seed)
                    found = _trained(experiment, set_name, method, rate, epochs, seed, folder)
                    rows.append(
                        {
                            "set": set_name,
                            "method": method,
                            "budget": budget,
                            "seed": seed,
                            "learning_rate": rate,
                            "epochs": epochs,
                            **found,
                            "against": _against(experiment, folder, set_name, budget, seed),
                        }
                    )
                    write(experiment, rows)
    write(experiment, rows)
    console.print((experiment.out / "table.md").read_text(), highlight=False)


def _known(experiment: Experiment, set_name: str) -> list[dict[str, Any]]:
    """The rows of a set, if all are known: those of one machine are compared with one another."""
    if experiment.known is None:
        return []
    wanted = itertools.product(
        _reference_first(experiment), experiment.budgets, experiment.seeds, (set_name,)
    )
    rows = {
        (row["method"], row["budget"], row["seed"], row["set"]): row
        for row in json.loads(experiment.known.read_text())["rows"]
    }
    found = [rows.get(key) for key in wanted]
    return [row for row in found if row is not None] if None not in found else []


def _reference_first(experiment: Experiment) -> Iterator[str]:
    yield experiment.reference
    yield from (name for name in experiment.methods if name != experiment.reference)


def _searched(experiment: Experiment, set_name: str, method: str, console: Console) -> float:
    """The rate whose best epoch classifies most of the biased validation images."""
    if len(experiment.search_rates) == 1:
        return experiment.search_rates[0]
    accuracies = {}
    for rate in experiment.search_rates:
        folder = experiment.out / set_name / method / "search" / f"{rate:g}"
        _trained(experiment, set_name, method, rate, experiment.search_epochs, SEARCH_SEED, folder)
        lines = (folder / _of(method) / "metrics.jsonl").read_text().splitlines()
        best = min(map(json.loads, lines), key=lambda record: record["validation_loss"])
        accuracies[rate] = best["validation_accuracy"]
    console.print(set_name, method, "validation accuracy by rate", accuracies, highlight=False)
    return max(accuracies, key=accuracies.__getitem__)


def _of(method: str) -> str:
    """Its name in the command."""
    return ISNet.name if method == HEATMAPS else method


def _epochs(
    rows: list[dict[str, Any]], budget: Budget, set_name: str, method: str, experiment: Experiment
) -> int:
    """As many as were asked for, or as take the reference's seconds, by the rows so far."""
    if budget == "steps":
        return experiment.epochs

    def seconds(name: str) -> float:
        return np.mean(
            [
                row["seconds"]
                for row in rows
                if (row["set"], row["method"], row["budget"]) == (set_name, name, "steps")
            ]
        ).item()

    return max(1, round(experiment.epochs * seconds(experiment.reference) / seconds(method)))


def _trained(
    experiment: Experiment,
    set_name: str,
    method: str,
    rate: float,
    epochs: int,
    seed: int,
    folder: Path,
) -> dict[str, Any]:
    kind: Any = of_method(hard.JOBS[set_name], _of(method))
    options = {"isnet": ISNetConfig()} if method == HEATMAPS else {}
    job = kind(
        **options,
        out=folder,
        data_dir=experiment.data_dir,
        seed=seed,
        epochs=epochs,
        plain_epochs=0,
        optimiser=OptimiserConfig(learning_rate=rate),
    )
    if experiment.limit and hasattr(job.data, "limit"):
        job = dataclasses.replace(job, data=dataclasses.replace(job.data, limit=experiment.limit))
    metrics = hard.run(job, Console(quiet=True))
    found = metrics[_of(method)]
    return {
        **{test: found.get(test) for test in TESTS},
        "worst_group": found["worst_group"],
        "background_relevance": found["background_relevance"],
        "same_with_another_background": found["interventions"]["agreement_exchanged"],
        "statistics": _of_all_classes(found["statistics"]),
        "seconds": metrics["training_seconds"][_of(method)],
        "run_time": metrics["run_time"][_of(method)],
    }


def _against(
    experiment: Experiment, folder: Path, set_name: str, budget: Budget, seed: int
) -> dict[str, Any] | None:
    """The comparison with the reference's run of the same seed; None of that run itself."""
    other = experiment.out / set_name / experiment.reference / budget / str(seed)
    if other == folder or seed != experiment.seeds[0]:
        return None
    file = folder / "against-reference.json"
    if not file.exists():
        options = compare.Compare((folder,), (other,), data_dir=experiment.data_dir, out=file)
        compare.run(options, Console(quiet=True))
    return _of_all_classes(json.loads(file.read_text())["test_sets"])


def _of_all_classes(found: Mapping[str, Any]) -> dict[str, Any]:
    """By test set; what is known of each class stays in the runs' folders."""
    return {test: of and {name: of[name] for name in STATISTICS} for test, of in found.items()}


def write(experiment: Experiment, rows: list[dict[str, Any]]) -> None:
    """Of what is done so far."""
    settings = {name: str(value) for name, value in dataclasses.asdict(experiment).items()}
    del settings["known"], settings["out"], settings["data_dir"]
    record = {
        "machine": machine(),
        "date": time.strftime("%Y-%m-%d"),
        "settings": settings,
        "rows": rows,
    }
    write_atomically(experiment.out / "table.json", json.dumps(record, indent=1) + "\n")
    write_atomically(experiment.out / "table.md", markdown(rows))


if __name__ == "__main__":
    keep_freed_memory()
    main(tyro.cli(Experiment))
