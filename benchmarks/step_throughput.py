"""ISNet training steps: isnet_jax against PyTorch, side by side in one run.

    make .venv-bench/installed  (gigabytes: PyTorch in an environment of its own)
    .venv-bench/bin/python benchmarks/step_throughput.py            (all rows)
    .venv-bench/bin/python benchmarks/step_throughput.py --quick    (two rows, three repeats)

Both sides have the same weights, data, batch, precision, optimiser and threads, each in a process
of its own that keeps the memory it frees, by the settings that serve it best; their steps are
interleaved. The loss of the first step must agree. Prints a table, writes
benchmarks/results/step_throughput.json and .md after every row.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import itertools
import json
import os
import platform
from importlib import metadata
from pathlib import Path
from typing import Any

import tyro
from step_workers import MODES, ROWS
from workers import Worker, medians, timed

WORKER = Path(__file__).with_name("step_workers.py")


@dataclasses.dataclass(frozen=True)
class Benchmark:
    """Time training steps of both sides.

    Attributes:
      rows: workloads, see ROWS in step_workers.py.
      modes: plain classifier, ISNet Selective, ISNet Original.
      repeats: timings of each side, interleaved; the median counts.
      seconds: about how long one timing takes; it has as many steps as fit, at least one.
      quick: two small rows, three repeats.
      out: folder of the results; other rows of the same day, machine and versions are kept there.
    """

    rows: tuple[str, ...] = tuple(ROWS)
    modes: tuple[str, ...] = MODES
    repeats: int = 7
    seconds: float = 2.0
    quick: bool = False
    out: Path = Path("benchmarks/results")


def measure(row: str, mode: str, options: Benchmark) -> dict[str, Any]:
    with contextlib.ExitStack() as stack:
        sides = {
            name: stack.enter_context(Worker(WORKER, name, row, mode)) for name in ("jax", "torch")
        }
        answers = timed(sides, seconds=options.seconds, repeats=options.repeats)
    ready = {name: side.ready() for name, side in sides.items()}
    seconds = {name: [a["seconds"] for a in found] for name, found in answers.items()}
    median = medians(answers)
    return {
        "row": row,
        "mode": mode,
        "seconds": seconds,
        "median": median,
        "speedup": median["torch"] / median["jax"],
        "spread": {n: (max(v) - min(v)) / median[n] for n, v in seconds.items()},
        "peak_gb": {name: found[-1]["peak_gb"] for name, found in answers.items()},
        "first_step": {name: found["first_step"] for name, found in ready.items()},
        "loss_difference": abs(ready["jax"]["loss"] / ready["torch"]["loss"] - 1),
    }


def markdown(rows: list[dict[str, Any]], setting: dict[str, Any]) -> str:
    lines = [
        "| network, batch | mode | PyTorch s/step | isnet_jax s/step | speed-up | "
        "peak GB, PyTorch / ours | first step s | loss differs |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for r in rows:
        work, median, spread = ROWS[r["row"]], r["median"], r["spread"]
        cells = [
            f"{work.network} {work.size}x{work.size}, {work.batch}",
            r["mode"],
            *(f"{median[s]:.3f} (±{50 * spread[s]:.0f} %)" for s in ("torch", "jax")),
            f"{r['speedup']:.2f}",
            f"{r['peak_gb']['torch']:.1f} / {r['peak_gb']['jax']:.1f}",
            f"{r['first_step']['torch']:.0f} / {r['first_step']['jax']:.0f}",
            f"{r['loss_difference']:.0e}",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    versions = ", ".join(f"{name} {version}" for name, version in setting["versions"].items())
    note = (
        f"float32, {setting['machine']}, medians of {setting['repeats']} interleaved repeats (half "
        f"the spread in brackets); {versions}; {setting['date']}."
    )
    return "\n".join([*lines, "", note, ""])


def main(options: Benchmark) -> None:
    if options.quick:
        options = dataclasses.replace(
            options, rows=("resnet18-64", "compact-32"), modes=("plain", "selective"), repeats=3
        )
    setting = {
        "machine": f"{len(os.sched_getaffinity(0))} cores {platform.machine()}",
        "date": datetime.date.today().isoformat(),
        "versions": {name: metadata.version(name) for name in ("jax", "torch", "torchvision")},
        "repeats": options.repeats,
    }
    options.out.mkdir(parents=True, exist_ok=True)
    file = options.out / "step_throughput.json"
    earlier = json.loads(file.read_text()) if file.exists() else {}
    same = all(earlier.get(name) == value for name, value in setting.items())
    rows = {(r["row"], r["mode"]): r for r in earlier.get("rows", []) if same}
    for row, mode in itertools.product(options.rows, options.modes):
        rows[row, mode] = measure(row, mode, options)
        print(markdown([rows[row, mode]], setting).splitlines()[2], flush=True)
        ordered = [rows[pair] for pair in itertools.product(ROWS, MODES) if pair in rows]
        file.write_text(json.dumps({**setting, "rows": ordered}, indent=2) + "\n")
        file.with_suffix(".md").write_text(markdown(ordered, setting))


if __name__ == "__main__":
    main(tyro.cli(Benchmark))
