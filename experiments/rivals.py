"""Ways to train a classifier, compared: methods by data sets by seeds, with intervals.

    python experiments/rivals.py --small
    python experiments/rivals.py --seeds 0 1 2 --search-rates 3e-3 1e-2 3e-2

Every run is one of `isnet-jax train`, in a folder of its own: what is finished is kept, and a run
that was interrupted goes on, with the same command; `--known table.json ...` keeps the sets that
were finished elsewhere, and joins their tables. "isnet" is what the command does, "isnet-heatmaps"
the papers' objective, which explains every image and exchanges nothing. All methods have the same
network (but for multitask and attention-gated, which have their own, and segmentation, which has
one more), the same steps (table "steps") or, in a second round, as many epochs as take the seconds
of the reference method (table "seconds"). The learning rate is searched for on the accuracy of the
biased validation images, with a seed of its own, in the same way for each method; then, where the
method has a weight of the masks, this weight, on the accuracy of the same images with the
backgrounds of one another, since as they are they reward the smallest, and with it the rate again.
The objective of isnet and its relatives stays as it is. `--settings-of table.json` takes rate and
weight from the rows of one other set. Differences to the reference method are DeLong's and
McNemar's, image by image, of the first seed. Writes table.json and table.md.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import tyro
from rich.console import Console
from rivals_tables import STATISTICS, TESTS, markdown

from isnet_jax import ISNetConfig
from isnet_jax.commands import compare, hard
from isnet_jax.commands.options import of_method
from isnet_jax.evaluation.interventions import background_exchanged
from isnet_jax.evaluation.predict import predict
from isnet_jax.files import write_atomically
from isnet_jax.memory import keep_freed_memory
from isnet_jax.methods import named, names
from isnet_jax.methods.isnet import ISNet
from isnet_jax.objective.classification import accuracy
from isnet_jax.training import OptimiserConfig
from isnet_jax.training.provenance import machine

Budget = Literal["steps", "seconds"]
SEARCH_SEED = 100
HEATMAPS = "isnet-heatmaps"  # Among the methods; an isnet with other options.
WEIGHTS = {
    "rrr": "weight",
    "r4": "weight",
    "gain": "mask_weight",
    "ham": "mask_weight",
    "multitask": "weight",
}
SMALL = {
    "epochs": 2,
    "search_epochs": 1,
    "search_factors": (0.1, 1.0),
    "seeds": (0,),
    "sets": ("decoy",),
    "limit": 300,
}


class Settings(NamedTuple):
    """What is chosen for a method; no weight where it has none that is searched for."""

    learning_rate: float
    weight: float | None


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
      search_factors: of the default weight of a method's masks, to choose from; one: nothing is
        searched.
      search_epochs: passes over the training images with each of them.
      settings_of: a table.json whose learning rates and weights are taken, without a search.
      limit: so many objects of each source only.
      known: tables from elsewhere: a set that one of them has all rows of is not trained again.
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
    search_factors: tuple[float, ...] = (0.001, 0.01, 0.1, 1.0, 10.0)
    search_epochs: int = 3
    settings_of: Path | None = None
    limit: int | None = None
    known: tuple[Path, ...] = ()
    small: bool = False
    out: Path = Path("runs/rivals")
    data_dir: Path = Path("datasets")


def main(experiment: Experiment) -> None:
    if experiment.small:
        experiment = dataclasses.replace(experiment, **SMALL)
    console = Console()
    taken = _taken(experiment)
    rows: list[dict[str, Any]] = []
    for set_name in experiment.sets:
        known = _known(experiment, set_name)
        rows += known
        for method in () if known else _reference_first(experiment):
            settings = taken.get(method) or _searched(experiment, set_name, method, console)
            for budget in experiment.budgets:
                epochs = _epochs(rows, budget, set_name, method, experiment)
                for seed in experiment.seeds:
                    folder = experiment.out / set_name / method / budget / str(seed)
                    found = _trained(experiment, set_name, method, settings, epochs, seed, folder)
                    rows.append(
                        {
                            "set": set_name,
                            "method": method,
                            "budget": budget,
                            "seed": seed,
                            **settings._asdict(),
                            "epochs": epochs,
                            **found,
                            "against": _against(experiment, folder, set_name, budget, seed),
                        }
                    )
                    write(experiment, rows)
    write(experiment, rows)
    console.print((experiment.out / "table.md").read_text(), highlight=False)


def _known(experiment: Experiment, set_name: str) -> list[dict[str, Any]]:
    """The rows of a set, if a table has all: those of one machine are compared with one another."""
    wanted = list(
        itertools.product(
            _reference_first(experiment), experiment.budgets, experiment.seeds, (set_name,)
        )
    )
    for table in experiment.known:
        rows = {
            (row["method"], row["budget"], row["seed"], row["set"]): row
            for row in json.loads(table.read_text())["rows"]
        }
        if all(key in rows for key in wanted):
            return [rows[key] for key in wanted]
    return []


def _reference_first(experiment: Experiment) -> Iterator[str]:
    yield experiment.reference
    yield from (name for name in experiment.methods if name != experiment.reference)


def _taken(experiment: Experiment) -> dict[str, Settings]:
    """Those of another table, of every method or of none."""
    if experiment.settings_of is None:
        return {}
    rows = json.loads(experiment.settings_of.read_text())["rows"]
    found = {
        method: {Settings(r["learning_rate"], r["weight"]) for r in rows if r["method"] == method}
        for method in _reference_first(experiment)
    }
    for method, settings in found.items():
        if len(settings) != 1:
            raise SystemExit(
                f"{experiment.settings_of} has {len(settings)} settings of {method}; expected one."
            )
    return {method: settings.pop() for method, settings in found.items()}


def _searched(experiment: Experiment, set_name: str, method: str, console: Console) -> Settings:
    """On biased validation images."""

    def best(
        choices: list[Settings], measure: Callable[[Experiment, str, Path], float]
    ) -> Settings:
        return _best(experiment, set_name, method, choices, measure, console)

    default = _default_weight(method)
    settings = best([Settings(rate, default) for rate in experiment.search_rates], _biased)
    if default is None:
        return settings
    weights = [settings._replace(weight=f * default) for f in experiment.search_factors]
    settings = best(weights, _exchanged)
    return best([settings._replace(learning_rate=r) for r in experiment.search_rates], _biased)


def _default_weight(method: str) -> float | None:
    return getattr(named(method)(), WEIGHTS[method]) if method in WEIGHTS else None


def _best(
    experiment: Experiment,
    set_name: str,
    method: str,
    choices: list[Settings],
    measure: Callable[[Experiment, str, Path], float],
    console: Console,
) -> Settings:
    """The choice that `measure` finds best after a short training; one needs no training."""
    if len(choices) == 1:
        return choices[0]
    found = {}
    for settings in choices:
        own = settings.weight in (None, _default_weight(method))
        words = [f"{number:g}" for number in settings[: 1 if own else 2]]
        folder = experiment.out / set_name / method / "search" / "-".join(words)
        epochs = experiment.search_epochs
        _trained(experiment, set_name, method, settings, epochs, SEARCH_SEED, folder)
        found[settings] = measure(experiment, _of(method), folder)
    console.print(set_name, method, measure.__name__, found, highlight=False)
    return max(found, key=found.__getitem__)


def _biased(_: Experiment, network: str, folder: Path) -> float:
    """The best epoch's accuracy on the biased validation images."""
    lines = (folder / network / "metrics.jsonl").read_text().splitlines()
    best = min(map(json.loads, lines), key=lambda record: record["validation_loss"])
    return best["validation_accuracy"]


def _exchanged(experiment: Experiment, network: str, folder: Path) -> float:
    """The best epoch's on the same images with the backgrounds of one another."""
    networks, splits = hard.opened(folder, experiment.data_dir, Console(quiet=True))
    shown = splits["validation"].batch(slice(None))
    changed = background_exchanged(shown["image"], shown["mask"])
    return float(accuracy(predict(networks[network], changed), shown["label"]))


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
    settings: Settings,
    epochs: int,
    seed: int,
    folder: Path,
) -> dict[str, Any]:
    kind: Any = of_method(hard.JOBS[set_name], _of(method))
    options: dict[str, Any] = {"isnet": ISNetConfig()} if method == HEATMAPS else {}
    if settings.weight is not None:
        weighed: Any = {WEIGHTS[method]: settings.weight}
        options[method] = named(method)(**weighed)
    job = kind(
        **options,
        out=folder,
        data_dir=experiment.data_dir,
        seed=seed,
        epochs=epochs,
        plain_epochs=0,
        optimiser=OptimiserConfig(learning_rate=settings.learning_rate),
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
    for folder in ("known", "settings_of", "out", "data_dir"):
        del settings[folder]
    if experiment.settings_of is not None:  # Nothing was searched for.
        settings = {name: value for name, value in settings.items() if "search" not in name}
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
