"""Explanations per second: isnet_jax against zennit and captum, on torchvision networks.

    make .venv-bench/installed  (gigabytes: PyTorch in an environment of its own)
    .venv-bench/bin/python benchmarks/heatmap_throughput.py

All libraries explain the highest logit of the same images with equal weights and threads, each in
a process of its own that keeps the memory it frees; their calls are interleaved. The table says how
far the heatmaps are apart: the largest difference relative to the largest relevance, as timed in
float32, and, of one image and zennit, in float64, which tells rounding from other rules. VGG's pool
of 7x7 to 7x7 cells is left out for zennit, see docs/zennit.md. captum has the epsilon rule only,
without batch norm's or residual sums' own, so it is in the rows of VGG16. Writes
benchmarks/results/heatmap_throughput.json and .md.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import json
import tempfile
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import tyro
from heatmap_workers import COMPOSITES, NETWORKS, libraries
from workers import Worker, medians, timed
from zennit_agreement import difference

from isnet_jax.training.provenance import machine

WORKER = Path(__file__).with_name("heatmap_workers.py")


@dataclasses.dataclass(frozen=True)
class Benchmark:
    """Time heatmaps.

    Attributes:
      networks, composites: the rows.
      batch: images a call.
      size: side of the images in pixels.
      repeats: timings of each library, interleaved; the median counts.
      seconds: about how long one timing takes; it has as many calls as fit, at least one.
      quick: 64x64, three repeats.
      out: folder of the results.
    """

    networks: tuple[str, ...] = tuple(NETWORKS)
    composites: tuple[str, ...] = tuple(COMPOSITES)
    batch: int = 4
    size: int = 224
    repeats: int = 7
    seconds: float = 2.0
    quick: bool = False
    out: Path = Path("benchmarks/results")


def measure(network: str, composite: str, options: Benchmark) -> dict[str, Any]:
    with contextlib.ExitStack() as stack:
        file = Path(stack.enter_context(tempfile.TemporaryDirectory())) / "heatmaps.npy"

        def start(library: str, batch: int, bits: int) -> Worker:
            arguments = (library, network, composite, batch, options.size, bits, file)
            return Worker(WORKER, *arguments)

        exact = {}
        for name in ("isnet_jax", "zennit"):
            with start(name, batch=1, bits=64):
                exact[name] = np.load(file)
        workers, heatmaps = {}, {}
        for name in libraries(network, composite):
            workers[name] = stack.enter_context(start(name, options.batch, bits=32))
            heatmaps[name] = np.load(file)
        answers = timed(workers, seconds=options.seconds, repeats=options.repeats)
    return {
        "network": network,
        "composite": composite,
        "per_second": {n: options.batch / seconds for n, seconds in medians(answers).items()},
        "seconds": {name: [a["seconds"] for a in found] for name, found in answers.items()},
        "differs": {
            name: difference(heatmaps["isnet_jax"], heatmap)
            for name, heatmap in heatmaps.items()
            if name != "isnet_jax"
        },
        "differs_in_float64": difference(exact["isnet_jax"], exact["zennit"]),
    }


def table(rows: list[dict[str, Any]], setting: dict[str, Any]) -> str:
    lines = [
        "| network | composite | isnet_jax | zennit | captum | over zennit | differs from zennit | "
        "in float64 | from captum |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        rates, differs = row["per_second"], row["differs"]
        cells = [
            row["network"],
            row["composite"],
            *(
                f"{rates[name]:.2f}/s" if name in rates else "-"
                for name in ("isnet_jax", "zennit", "captum")
            ),
            f"{rates['isnet_jax'] / rates['zennit']:.2f}",
            f"{differs['zennit']:.0e}",
            f"{row['differs_in_float64']:.0e}",
            f"{differs['captum']:.0e}" if "captum" in differs else "-",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    versions = ", ".join(f"{name} {version}" for name, version in setting["versions"].items())
    what = f"Batch {setting['batch']}, {setting['size']}x{setting['size']}, float32"
    note = f"{what}; {setting['machine']}; {versions}; {setting['date']}."
    return "\n".join([*lines, "", note, ""])


def main(options: Benchmark) -> None:
    if options.quick:
        options = dataclasses.replace(options, size=64, repeats=3)
    setting = {
        "batch": options.batch,
        "size": options.size,
        "machine": machine(),
        "date": datetime.date.today().isoformat(),
        "versions": {n: metadata.version(n) for n in ("jax", "torch", "zennit", "captum")},
    }
    rows = []
    for network in options.networks:
        for composite in options.composites:
            rows.append(measure(network, composite, options))
            print(table(rows[-1:], setting).splitlines()[2], flush=True)
    options.out.mkdir(parents=True, exist_ok=True)
    file = options.out / "heatmap_throughput.json"
    file.write_text(json.dumps({**setting, "rows": rows}, indent=2) + "\n")
    file.with_suffix(".md").write_text(table(rows, setting))


if __name__ == "__main__":
    main(tyro.cli(Benchmark))
