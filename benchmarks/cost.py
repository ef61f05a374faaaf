"""What the variants cost beside a plain step, and how cost grows with classes and image size.

    python benchmarks/cost.py

FLOPs, bytes accessed and temporary memory are XLA's estimates for the compiled step; compile time
is the clock's. The variants' steps are timed too, one of each after the other. Writes
benchmarks/results/cost.json, cost.md and, of Original's growth with the number of classes and
Selective's with the image, cost.png.
"""

from __future__ import annotations

import dataclasses
import datetime
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import optax
import tyro
from flax import nnx

from isnet_jax import Classification, ISNetConfig, models
from isnet_jax.memory import keep_freed_memory
from isnet_jax.objective.config import Variant
from isnet_jax.training import build_step, compile_step, init_state, loss_function
from isnet_jax.training.provenance import machine


@dataclasses.dataclass(frozen=True)
class Benchmark:
    """Compile steps and read their cost.

    Attributes:
      network: one of models.list().
      batch: images a step.
      size: side of the images in pixels.
      classes: number of classes of the variants' rows.
      chunks: of Original's rows with those classes, heatmaps at once.
      class_counts: of Original's rows, all heatmaps at once and one at a time.
      sizes: of Selective's rows.
      repeats: timed steps of each of the variants' rows; the median counts.
      out: folder of the results.
    """

    network: str = "resnet18"
    batch: int = 8
    size: int = 64
    classes: int = 10
    chunks: tuple[int, ...] = (1, 2, 5)
    class_counts: tuple[int, ...] = (2, 100)
    sizes: tuple[int, ...] = (96, 128)
    repeats: int = 7
    out: Path = Path("benchmarks/results")


def cost(
    options: Benchmark, name: str, *, classes: int, size: int, chunk: int
) -> tuple[dict[str, Any], Callable[[], None]]:
    """One row and what makes a step of it: of `name`, a variant or "plain"."""
    model = models.create(options.network, num_classes=classes, rngs=nnx.Rngs(0))
    optimiser = optax.chain(optax.clip_by_global_norm(1.0), optax.sgd(1e-2, momentum=0.9))
    loss = (
        Classification()
        if name == "plain"
        else ISNetConfig(name, heatmap_chunk=chunk, batch_stats="gradient")
    )  # pyright: ignore[reportArgumentType]
    step: Any = compile_step(build_step(model, loss_function(loss), optimiser))
    state = init_state(model, optimiser, jax.random.key(0))
    images = (options.batch, size, size)
    middle = slice(size // 4, size // 2)
    batch = {
        "image": jax.random.uniform(jax.random.key(1), (*images, 3)),
        "mask": jnp.zeros((*images, 1)).at[:, middle, middle].set(1),
        "label": jnp.arange(options.batch) % classes,
    }
    traced = time.perf_counter()
    lowered = step.trace(state, batch).lower()
    started = time.perf_counter()
    compiled = lowered.compile()
    estimate = compiled.cost_analysis()

    def run() -> None:
        nonlocal state
        state, _ = jax.block_until_ready(compiled(state, batch))

    return {
        "step": name,
        "classes": classes,
        "size": size,
        "heatmaps at once": chunk or "all",
        "gigaflop": estimate["flops"] / 1e9,
        "gigabytes": estimate["bytes accessed"] / 1e9,
        "temporary_megabytes": compiled.memory_analysis().temp_size_in_bytes / 1e6,
        "trace_seconds": started - traced,
        "compile_seconds": time.perf_counter() - started,
        "step_seconds": None,
    }, run


def time_steps(steps: list[tuple[dict[str, Any], Callable[[], None]]], repeats: int) -> None:
    """Fill in the rows' medians, one step of each after the other."""
    seconds: dict[int, list[float]] = {number: [] for number in range(len(steps))}
    for repeat in range(repeats + 1):
        for number, (_, run) in enumerate(steps):
            started = time.perf_counter()
            run()
            if repeat:  # The first step is a warm-up.
                seconds[number].append(time.perf_counter() - started)
    for number, (row, _) in enumerate(steps):
        row["step_seconds"] = statistics.median(seconds[number])


def table(rows: list[dict[str, Any]], options: Benchmark, note: str) -> str:
    plain = {(r["classes"], r["size"]): r for r in rows if r["step"] == "plain"}
    lines = [
        "| step | classes | image | heatmaps at once | GFLOP (times plain) | GB accessed (times) | "
        "temporary MB (times) | step s (times) | trace, compile s |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        base = plain[row["classes"], row["size"]]
        cells = [
            row["step"],
            str(row["classes"]),
            f"{row['size']}x{row['size']}",
            "-" if row["step"] == "plain" else str(row["heatmaps at once"]),
            *(
                # A loop's body counts once in XLA's estimates of FLOPs and bytes.
                "-"
                if row["heatmaps at once"] != "all" and key != "temporary_megabytes"
                else f"{row[key]:.{digits}f} ({row[key] / base[key]:.2f})"
                for key, digits in (("gigaflop", 1), ("gigabytes", 2), ("temporary_megabytes", 0))
            ),
            "-"
            if row["step_seconds"] is None
            else f"{row['step_seconds']:.3f} ({row['step_seconds'] / base['step_seconds']:.2f})",
            f"{row['trace_seconds']:.1f}, {row['compile_seconds']:.1f}",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join([*lines, "", f"{options.network}, batch {options.batch}; {note}.", ""])


def figure(rows: list[dict[str, Any]], file: Path) -> None:
    drawing, (left, right) = plt.subplots(1, 2, figsize=(9, 3.5), layout="constrained")
    original = [r for r in rows if r["step"] == "original" and r["heatmaps at once"] == "all"]
    original.sort(key=lambda row: row["classes"])
    left.plot([r["classes"] for r in original], [r["gigaflop"] for r in original], "o-")
    left.set(xlabel="classes", ylabel="GFLOP a step", title="Original")
    for name in ("plain", "selective"):
        points = sorted((r["size"] ** 2, r["gigaflop"]) for r in rows if r["step"] == name)
        right.plot(*zip(*points, strict=True), "o-", label=name)
    right.set(xlabel="pixels of an image", title="growth with the image")
    right.legend()
    drawing.savefig(file, dpi=120)


def main(options: Benchmark) -> None:
    keep_freed_memory()
    timed = [
        *((name, options.classes, options.size, 0) for name in ("plain", *get_args(Variant))),
        *(("original", options.classes, options.size, chunk) for chunk in options.chunks),
    ]
    others = [
        *(
            (name, count, options.size, chunk)
            for count in options.class_counts
            for name, chunk in (("plain", 0), ("original", 0), ("original", 1))
        ),
        *(
            (name, options.classes, size, 0)
            for size in options.sizes
            for name in ("plain", "selective")
        ),
    ]
    options.out.mkdir(parents=True, exist_ok=True)
    note = f"{machine()}; {datetime.date.today().isoformat()}"
    rows: list[dict[str, Any]] = []
    steps = []
    for setting in dict.fromkeys([*timed, *others]):
        name, classes, size, chunk = setting
        row, run = cost(options, name, classes=classes, size=size, chunk=chunk)
        rows.append(row)
        if setting in timed:
            steps.append((row, run))
        print(row, flush=True)
    time_steps(steps, options.repeats)
    (options.out / "cost.json").write_text(json.dumps({"note": note, "rows": rows}, indent=2))
    (options.out / "cost.md").write_text(table(rows, options, note))
    figure(rows, options.out / "cost.png")


if __name__ == "__main__":
    main(tyro.cli(Benchmark))
