"""Explanations per second: isnet_jax against zennit and captum, on torchvision networks.

    make .venv-bench/installed  (gigabytes: PyTorch in an environment of its own)
    .venv-bench/bin/python benchmarks/heatmap_throughput.py

All libraries explain the highest logit of the same images with equal weights and threads; their
calls are interleaved. The table says how far the heatmaps are apart: the largest difference
relative to the largest relevance, as timed in float32, and, of one image and zennit, in float64,
which tells rounding from other rules. Batch norms merged by zennit get `eps = 0`, see
docs/zennit.md. captum has the epsilon rule only, without batch norm's or residual sums' own, so it
is in the rows of VGG16. Writes benchmarks/results/heatmap_throughput.json and .md.
"""

from __future__ import annotations

import dataclasses
import datetime
import functools
import json
import os
import statistics
import time
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import captum.attr
import captum.attr._utils.lrp_rules as captum_rules
import jax
import jax.numpy as jnp
import numpy as np
import torch
import tyro
import zennit.attribution
import zennit.composites
import zennit.rules
import zennit.types
from flax import nnx
from zennit.torchvision import ResNetCanonizer, VGGCanonizer
from zennit_agreement import difference, made, top_class

from isnet_jax import lrp, models
from isnet_jax.job import machine
from isnet_jax.memory import keep_freed_memory
from isnet_jax.training import compiler_options

EPSILON = 1e-6


def epsilon_everywhere(**options: Any) -> zennit.composites.LayerMapComposite:
    """zennit's epsilon rule at every layer."""
    return zennit.composites.LayerMapComposite(
        layer_map=[
            *zennit.composites.layer_map_base(),
            (zennit.types.Linear, zennit.rules.Epsilon(EPSILON)),
        ],
        **options,
    )


# name -> zennit's composite, ours.
COMPOSITES: dict[str, tuple[Callable[..., Any], lrp.Composite]] = {
    "Epsilon": (
        epsilon_everywhere,
        lrp.Composite(layer=lrp.Epsilon(EPSILON), sum=lrp.Norm(), average=lrp.Norm()),
    ),
    "EpsilonPlusFlat": (zennit.composites.EpsilonPlusFlat, lrp.EpsilonPlusFlat()),
}
NETWORKS = {"vgg16": VGGCanonizer, "resnet50": ResNetCanonizer}


@dataclasses.dataclass(frozen=True)
class Benchmark:
    """Time heatmaps.

    Attributes:
      networks, composites: the rows.
      batch: images a call.
      size: side of the images in pixels.
      repeats: timed calls of each library; the median counts.
      quick: 64x64, three repeats.
      out: folder of the results.
    """

    networks: tuple[str, ...] = tuple(NETWORKS)
    composites: tuple[str, ...] = tuple(COMPOSITES)
    batch: int = 4
    size: int = 224
    repeats: int = 7
    quick: bool = False
    out: Path = Path("benchmarks/results")


def ours(model: torch.nn.Module, network: str, x: torch.Tensor, composite: lrp.Composite):
    copy = models.create(network, num_classes=10, rngs=nnx.Rngs(0))
    models.load_torch(copy, model.state_dict())
    copy.eval()
    graph, state = nnx.split(copy)

    def explain(state: Any, images: jax.Array) -> jax.Array:
        logits, pullback = lrp.vjp(nnx.merge(graph, state), images, rules=composite)
        highest = jax.nn.one_hot(logits.argmax(1), logits.shape[1])
        return pullback(highest / logits)

    run = jax.jit(explain, compiler_options=compiler_options())
    images = jnp.asarray(x.numpy().transpose(0, 2, 3, 1))
    return lambda: np.asarray(run(state, images))


def zennits(model: torch.nn.Module, network: str, x: torch.Tensor, composite: Callable[..., Any]):
    seed = top_class(model, x)
    composed = composite(canonizers=[NETWORKS[network]()])

    attributor = zennit.attribution.Gradient(model, composed)
    attributor.__enter__()  # Its hooks are registered once, outside of what is timed.
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.eps = 0.0

    def run() -> np.ndarray:
        _, relevance = attributor(x, seed)
        return relevance.detach().numpy().transpose(0, 2, 3, 1)

    return run


def captums(model: torch.nn.Module, x: torch.Tensor):
    target = model(x).argmax(1)
    for module in model.modules():
        if isinstance(module, torch.nn.ReLU):
            module.inplace = False

    def run() -> np.ndarray:
        for module in model.modules():
            if isinstance(
                module,
                torch.nn.Conv2d | torch.nn.Linear | torch.nn.MaxPool2d | torch.nn.AdaptiveAvgPool2d,
            ):
                module.rule = captum_rules.EpsilonRule(EPSILON)
        relevance = captum.attr.LRP(model).attribute(x, target=target)
        # captum's relevance is that of the logit, the others' that of 1.
        logit = model(x).gather(1, target[:, None])[:, :, None, None]
        return (relevance / logit).detach().numpy().transpose(0, 2, 3, 1)

    return run


def measure(network: str, composite: str, options: Benchmark) -> dict[str, Any]:
    theirs, own = COMPOSITES[composite]
    with_size = functools.partial(made, network, 32, options)
    with jax.enable_x64(True):
        one = dataclasses.replace(options, batch=1)
        exact = difference(
            ours(*_of(made(network, 64, one), network), own)(),
            zennits(*_of(made(network, 64, one), network), theirs)(),
        )
    calls = {
        "isnet_jax": ours(*_of(with_size(), network), own),
        "zennit": zennits(*_of(with_size(), network), theirs),
    }
    if network.startswith("vgg") and composite == "Epsilon":
        calls["captum"] = captums(*with_size())
    heatmaps = {name: call() for name, call in calls.items()}
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(options.repeats):
        for name, call in calls.items():
            started = time.perf_counter()
            call()
            seconds[name].append(time.perf_counter() - started)
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    return {
        "network": network,
        "composite": composite,
        "per_second": {name: options.batch / median for name, median in medians.items()},
        "seconds": seconds,
        "differs": {
            name: difference(heatmaps["isnet_jax"], heatmap)
            for name, heatmap in heatmaps.items()
            if name != "isnet_jax"
        },
        "differs_in_float64": exact,
    }


def _of(pair: tuple[torch.nn.Module, torch.Tensor], network: str):
    return pair[0], network, pair[1]


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
    keep_freed_memory()
    torch.set_num_threads(len(os.sched_getaffinity(0)))
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
