"""What the variants cost beside a plain step, and how cost grows with classes and image size.

    python benchmarks/cost.py

FLOPs, bytes accessed and temporary memory are XLA's estimates for the compiled step; compile time
is the clock's. Writes benchmarks/results/cost.json, cost.md and, of Original's growth with the
number of classes and Selective's with the image, cost.png.
"""

from __future__ import annotations

import dataclasses
import datetime
import json
import time
from pathlib import Path
from typing import Any, get_args

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import optax
import tyro
from flax import nnx

from isnet_jax import Classification, ISNetConfig, models
from isnet_jax.config import Variant
from isnet_jax.job import machine
from isnet_jax.training import compile_step, init_state, make_step, objective


@dataclasses.dataclass(frozen=True)
class Benchmark:
    """Compile steps and read their cost.

    Attributes:
      network: one of models.list().
      batch: images a step.
      size: side of the images in pixels.
      classes: number of classes of the variants' rows.
      class_counts: of Original's rows, all heatmaps at once and one at a time.
      sizes: of Selective's rows.
      out: folder of the results.
    """

    network: str = "resnet18"
    batch: int = 8
    size: int = 64
    classes: int = 10
    class_counts: tuple[int, ...] = (2, 10, 100)
    sizes: tuple[int, ...] = (64, 96, 128)
    out: Path = Path("benchmarks/results")


def cost(options: Benchmark, name: str, *, classes: int, size: int, chunk: int = 0):
    """One row: the step of `name`, a variant or "plain"."""
    model = models.create(options.network, num_classes=classes, rngs=nnx.Rngs(0))
    optimiser = optax.chain(optax.clip_by_global_norm(1.0), optax.sgd(1e-2, momentum=0.9))
    loss = Classification() if name == "plain" else ISNetConfig(name, heatmap_chunk=chunk)  # pyright: ignore[reportArgumentType]
    step: Any = compile_step(make_step(model, objective(loss), optimiser))
    state = jax.eval_shape(lambda: init_state(model, optimiser, jax.random.key(0)))
    images = (options.batch, size, size)
    batch = {
        "image": jax.ShapeDtypeStruct((*images, 3), jnp.float32),
        "mask": jax.ShapeDtypeStruct((*images, 1), jnp.float32),
        "label": jax.ShapeDtypeStruct(images[:1], jnp.int32),
    }
    traced = time.perf_counter()
    lowered = step.trace(state, batch).lower()
    started = time.perf_counter()
    compiled = lowered.compile()
    estimate = compiled.cost_analysis()
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
    }


def table(rows: list[dict[str, Any]], options: Benchmark, note: str) -> str:
    plain = {(r["classes"], r["size"]): r for r in rows if r["step"] == "plain"}
    lines = [
        "| step | classes | image | heatmaps at once | GFLOP (times plain) | GB accessed (times) | "
        "temporary MB (times) | trace, compile s |",
        "|---|---|---|---|---|---|---|---|",
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
    wanted = [
        *((name, options.classes, options.size, 0) for name in ("plain", *get_args(Variant))),
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
    for name, classes, size, chunk in dict.fromkeys(wanted):
        rows.append(cost(options, name, classes=classes, size=size, chunk=chunk))
        print(rows[-1], flush=True)
    (options.out / "cost.json").write_text(json.dumps({"note": note, "rows": rows}, indent=2))
    (options.out / "cost.md").write_text(table(rows, options, note))
    figure(rows, options.out / "cost.png")


if __name__ == "__main__":
    main(tyro.cli(Benchmark))
