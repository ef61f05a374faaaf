"""Our training step against that of another checkout, side by side in one run.

    git worktree add ../before COMMIT
    .venv/bin/python benchmarks/against_checkout.py ../before

Each side has a process of its own and runs its own `step_workers.py`; their steps are interleaved,
the losses of the first step must agree. Prints a table after every row.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
from pathlib import Path
from typing import Annotated, Any

import tyro
from step_workers import MODES, ROWS
from workers import Worker, medians, timed

HERE = Path(__file__).parents[1]


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Time training steps of this checkout and of another.

    Attributes:
      other: the other checkout's folder.
      rows: workloads, see ROWS in step_workers.py.
      modes: plain classifier, ISNet Selective, ISNet Original.
      repeats: timings of each side, interleaved; the median counts.
      seconds: about how long one timing takes; it has as many steps as fit, at least one.
    """

    other: Annotated[Path, tyro.conf.Positional]
    rows: tuple[str, ...] = tuple(ROWS)
    modes: tuple[str, ...] = MODES
    repeats: int = 9
    seconds: float = 2.0


def side(checkout: Path, row: str, mode: str) -> Worker:
    script = checkout / "benchmarks/step_workers.py"
    environment = os.environ | {"PYTHONPATH": str(checkout)}
    return Worker(script, "jax", row, mode, environment=environment)


def measure(row: str, mode: str, options: Comparison) -> dict[str, Any]:
    with contextlib.ExitStack() as stack:
        sides = {
            name: stack.enter_context(side(checkout.resolve(), row, mode))
            for name, checkout in (("here", HERE), ("other", options.other))
        }
        answers = timed(sides, seconds=options.seconds, repeats=options.repeats)
        ready = {name: worker.ready() for name, worker in sides.items()}
    seconds = {name: [a["seconds"] for a in found] for name, found in answers.items()}
    return {
        "median": medians(answers),
        "spread": {n: (max(v) - min(v)) / min(v) for n, v in seconds.items()},
        "peak_gb": {name: found[-1]["peak_gb"] for name, found in answers.items()},
        "first_step": {name: found["first_step"] for name, found in ready.items()},
        "loss_difference": abs(ready["here"]["loss"] / ready["other"]["loss"] - 1),
    }


def main(options: Comparison) -> None:
    print(
        "| network, batch | mode | other s/step | here s/step | here/other | spread | "
        "peak GB, other / here | first step s | loss differs |"
    )
    print("|---" * 9 + "|", flush=True)
    for row in options.rows:
        for mode in options.modes:
            found = measure(row, mode, options)
            both = {
                key: f"{found[key]['other']:.3g} / {found[key]['here']:.3g}"
                for key in ("peak_gb", "first_step")
            }
            time = found["median"]
            print(
                f"| {row}, {ROWS[row].batch} | {mode} | {time['other']:.4f} | {time['here']:.4f} | "
                f"{time['here'] / time['other']:.3f} | {max(found['spread'].values()):.0%} | "
                f"{both['peak_gb']} | {both['first_step']} | {found['loss_difference']:.0e} |",
                flush=True,
            )


if __name__ == "__main__":
    main(tyro.cli(Comparison))
