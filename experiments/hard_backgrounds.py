"""What holds where backgrounds deceive: objectives on the hard sets, over seeds.

    python experiments/hard_backgrounds.py --seeds 0 1 2
    python experiments/hard_backgrounds.py --fashion /usr/share/datasets/fashion-mnist

Every row is one training, judged on the set's own tests with exact masks. Rows that are done are
kept: the same command goes on with the rest, on a CPU overnight or on a GPU in minutes. With
`--known experiments/results/hard_backgrounds.json` those from another machine are kept too. Writes
table.json and table.md into the output folder after every training.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import tyro
from rich.console import Console
from rivals_tables import TESTS, mean_and_range

from isnet_jax import Classification, ISNetConfig
from isnet_jax.commands.hard import load_data
from isnet_jax.commands.logs import Logs
from isnet_jax.commands.progress import TrainingDisplay
from isnet_jax.data import Augmentation, Split
from isnet_jax.data.hard import Coloured, Decoy, Lungs, MadeSet, ObjectSet, Textured
from isnet_jax.evaluation.judge import judge
from isnet_jax.files import write_atomically
from isnet_jax.memory import keep_freed_memory
from isnet_jax.objective import Exchange
from isnet_jax.training import ModelDescription, OptimiserConfig, Training, fit
from isnet_jax.training.provenance import machine

UNBIASED = "plain, unbiased backgrounds"
ISNET = ISNetConfig(variant="stochastic", batch_stats="constant")


def isnet(**changes: Any) -> ISNetConfig:
    return dataclasses.replace(ISNET, **changes)


def exchange(weight: float = 0.0, **options: Any) -> ISNetConfig:
    """Backgrounds exchanged, with heatmaps at this P."""
    return isnet(heatmap_weight=weight, exchange=Exchange(**{"probability": 1.0, **options}))


OBJECTIVES: dict[str, ISNetConfig | Classification] = {
    "plain": Classification(),
    UNBIASED: Classification(),
    "exchange": exchange(),
    "isnet": isnet(),
    "exchange, half": exchange(probability=0.5),
    "exchange, consistent": exchange(consistency=1.0, unexchanged=0.0),
    "exchange, consistent, isnet P 0.1, quarter": dataclasses.replace(
        exchange(0.1, consistency=1.0, unexchanged=0.0), heatmap_fraction=0.25
    ),
    "exchange, consistent, both classified": exchange(consistency=1.0),
    "exchange, consistent 4, both classified": exchange(consistency=4.0),
    "exchange, consistent, both classified, isnet P 0.1, quarter": dataclasses.replace(
        exchange(0.1, consistency=1.0), heatmap_fraction=0.25
    ),
    "exchange, isnet P 0.1": exchange(0.1),
    "exchange, isnet P 0.3": exchange(0.3),
    "exchange, consistent, masks shrunk by 0 to 1": exchange(
        consistency=1.0, unexchanged=0.0, max_shrink=1
    ),
    "exchange, consistent, masks shrunk by 0 to 2": exchange(
        consistency=1.0, unexchanged=0.0, max_shrink=2
    ),
    "exchange, masks shrunk by 0 to 1": exchange(max_shrink=1),
    "exchange, masks shrunk by 0 to 6": exchange(max_shrink=6),
    "isnet, selective": isnet(variant="selective"),
    "isnet, dual": isnet(variant="dual"),
    "isnet, deep supervision": isnet(deep_supervision=True),
    "isnet, block": isnet(engine="block"),
    "isnet, no z^B": isnet(box_rule=False),
    "isnet, P 0.9, E 0.1": isnet(heatmap_weight=0.9, background_scale=0.1),
    "isnet, range 1 to 2": isnet(foreground_range=(1.0, 2.0)),
    "isnet, mean instead of peaks": isnet(gwrp_decay=1.0),
}
TEST_SPLITS = tuple(f"test_{name}" for name in TESTS)


@dataclasses.dataclass(frozen=True)
class Experiment:
    """Train every objective on every set and seed.

    Attributes:
      sets: names of the sets, see `sets`.
      objectives: names of the rows.
      seeds: each draws its own splits, backgrounds, weights and order.
      epochs: passes over the training images.
      fashion: folder with Fashion-MNIST's four files: its objects in front of photographs too.
      limit: so many objects of each source only.
      known: a table.json from elsewhere: its rows are not trained again.
      out: folder of the runs, table.json and table.md.
      data_dir: where prepared data sets are kept.
    """

    sets: tuple[str, ...] = ("textured", "fashion", "decoy", "coloured", "lungs")
    objectives: tuple[str, ...] = ("plain", UNBIASED, "isnet", "exchange", "exchange, consistent")
    seeds: tuple[int, ...] = (0, 1, 2)
    epochs: int = 8
    fashion: Path | None = None
    limit: int | None = None
    known: Path | None = None
    out: Path = Path("runs/hard-backgrounds")
    data_dir: Path = Path("datasets")


def sets(experiment: Experiment, seed: int) -> dict[str, MadeSet]:
    """Data sets by name; what has no exact masks has the exact set's tests."""
    digits = Textured(seed=seed, limit=experiment.limit)
    found: dict[str, MadeSet] = {
        "textured": digits,
        "textured 95 %": dataclasses.replace(digits, strength=0.95),
        "textured, boxes": dataclasses.replace(digits, outline="box"),
        "textured, dilated by 4": dataclasses.replace(digits, mask_dilation=4),
        "decoy": Decoy(seed=seed, limit=experiment.limit),
        "coloured": Coloured(seed=seed, limit=experiment.limit),
        "lungs": Lungs(seed=seed),
    }
    if experiment.fashion is not None:
        fashion = dataclasses.replace(
            digits,
            source="idx",
            folder=experiment.fashion,
            limit=experiment.limit or 8100,
            validation_fraction=600 / 8100,
            test_fraction=1500 / 8100,
        )
        boxes = dataclasses.replace(fashion, outline="box")
        wide = dataclasses.replace(fashion, mask_dilation=4)
        found |= {
            "fashion": fashion,
            "fashion, boxes": boxes,
            "fashion, boxes, refined": dataclasses.replace(boxes, refine=True),
            "fashion, dilated by 4": wide,
            "fashion, dilated by 4, refined": dataclasses.replace(wide, refine=True),
        }
    return found


def main(experiment: Experiment) -> None:
    console = Console()
    if experiment.known is not None:
        keep(json.loads(experiment.known.read_text())["rows"], experiment)
    for seed in experiment.seeds:
        for set_name, made in sets(experiment, seed).items():
            for name in experiment.objectives if set_name in experiment.sets else ():
                file = result_file(experiment, set_name, name, seed)
                if not file.exists():
                    result = trained(made, name, seed, experiment, file.parent, console)
                    write_atomically(file, json.dumps({"seed": seed, **result}) + "\n")
                    write_table(experiment)
                console.print(set_name, "|", name, "|", seed, json.loads(file.read_text()))
    write_table(experiment)


def result_file(experiment: Experiment, set_name: str, name: str, seed: int) -> Path:
    return experiment.out / slug(set_name) / slug(name) / str(seed) / "result.json"


def keep(rows: Mapping[str, Mapping[str, list[dict[str, Any]]]], experiment: Experiment) -> None:
    """Writes the results that are not in the output folder yet."""
    for set_name, objectives in rows.items():
        for name, runs in objectives.items():
            for run in runs:
                file = result_file(experiment, set_name, name, run["seed"])
                if not file.exists():
                    file.parent.mkdir(parents=True, exist_ok=True)
                    write_atomically(file, json.dumps(run) + "\n")


def trained(
    made: MadeSet, name: str, seed: int, experiment: Experiment, folder: Path, console: Console
) -> dict[str, Any]:
    load = functools.partial(load_data, data_dir=experiment.data_dir, console=console)
    options: Any = made
    exact = made
    if isinstance(made, ObjectSet):
        exact = dataclasses.replace(made, outline="exact", mask_dilation=0, refine=False)
    if name == UNBIASED:  # The same objects before backgrounds of any class.
        made = dataclasses.replace(options, strength=1 / len(made.class_names))
    splits: dict[str, Split] = load(made)
    splits |= {part: split for part, split in load(exact).items() if part in TEST_SPLITS}
    train = splits["train"]
    description = ModelDescription(
        "compact", len(train.class_names), train.class_names, train.images.shape[1:]
    )
    training = Training(
        OBJECTIVES[name], OptimiserConfig(), experiment.epochs, 64, Augmentation(), seed
    )
    started = time.monotonic()
    with TrainingDisplay(Logs(folder, name), splits["validation"], console) as display:
        network, history = fit(
            description, training, train, splits["validation"], folder / "network", display
        )
    seconds = round(time.monotonic() - started, 1)
    rates = [r["images_per_second"] for r in history if "images_per_second" in r]
    rate = float(np.median(rates)) if rates else None
    judged = judge(network, splits)
    del judged["statistics"]  # Of every class; rivals.py shows those of methods.
    return {**judged, "seconds": seconds, "images_per_second": rate}


def write_table(experiment: Experiment) -> None:
    """Of what is done so far."""
    rows: dict[str, dict[str, list[dict[str, Any]]]] = {}
    for set_name in experiment.sets:
        for name in experiment.objectives:
            files = [result_file(experiment, set_name, name, seed) for seed in experiment.seeds]
            done = [json.loads(file.read_text()) for file in files if file.exists()]
            if done:
                rows.setdefault(set_name, {})[name] = done
    table = {
        "machine": machine(),
        "date": time.strftime("%Y-%m-%d"),
        "epochs": experiment.epochs,
        "seeds": experiment.seeds,
        "rows": rows,
    }
    write_atomically(experiment.out / "table.json", json.dumps(table, indent=1) + "\n")
    write_atomically(experiment.out / "table.md", markdown(rows))


def markdown(rows: Mapping[str, Mapping[str, list[dict[str, Any]]]]) -> str:
    """Mean over the seeds, and their range where there are several."""
    head = [*TESTS, "worst group", "background relevance", "same with another background", "seeds"]
    lines = []
    for set_name, objectives in rows.items():
        lines += [f"\n**{set_name}**\n", f"| objective | {' | '.join(head)} |"]
        lines.append("|---" * (len(head) + 1) + "|")
        for name, runs in objectives.items():
            values = [[run[test] for run in runs] for test in TESTS]
            values += [
                [run[key] for run in runs] for key in ("worst_group", "background_relevance")
            ]
            values.append([run["interventions"]["agreement_exchanged"] for run in runs])
            cells = [*map(mean_and_range, values), str(len(runs))]
            lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines).strip() + "\n"


def slug(name: str) -> str:
    return "".join(c if c.isalnum() or c == "." else "-" for c in name)


if __name__ == "__main__":
    keep_freed_memory()
    main(tyro.cli(Experiment))
