"""What LRP costs beside the plain input gradient of the same network.

    python benchmarks/relevance_cost.py --network resnet50 --batch 8 --size 224

Interleaves the two, repeats, prints medians and the ratio, writes
benchmarks/results/relevance_cost.json.
"""

from __future__ import annotations

import dataclasses
import datetime
import json
import statistics
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import tyro
from flax import nnx

from isnet_jax import lrp, models
from isnet_jax.training import compiler_options
from isnet_jax.training.provenance import machine


@dataclasses.dataclass(frozen=True)
class Benchmark:
    """Time relevance against the input gradient.

    Attributes:
      network: one of models.list().
      batch: images a call.
      size: side of the images in pixels.
      repeats: timed calls of each.
      out: file of the result.
    """

    network: str = "resnet50"
    batch: int = 8
    size: int = 224
    repeats: int = 7
    out: Path = Path("benchmarks/results/relevance_cost.json")


def main(options: Benchmark) -> None:
    model = models.create(options.network, num_classes=1000, rngs=nnx.Rngs(0))
    model.eval()
    graph, state = nnx.split(model)
    x = jax.random.uniform(jax.random.key(0), (options.batch, options.size, options.size, 3))
    seed = jax.nn.one_hot(jnp.zeros(options.batch, int), 1000)
    traces = []

    def gradient(state, x):
        _, pullback = jax.vjp(nnx.merge(graph, state), x)
        return x * pullback(seed)[0]

    def relevance(state, x):
        traces.append(x)
        _, pullback = lrp.vjp(nnx.merge(graph, state), x, rules=lrp.Epsilon(1e-2))
        return pullback(seed)

    calls = {
        name: jax.jit(call, compiler_options=compiler_options())
        for name, call in (("gradient", gradient), ("relevance", relevance))
    }
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for call in calls.values():
        jax.block_until_ready(call(state, x))
    for _ in range(options.repeats):
        for name, call in calls.items():
            started = time.perf_counter()
            jax.block_until_ready(call(state, x))
            seconds[name].append(time.perf_counter() - started)
    medians = {name: statistics.median(times) for name, times in seconds.items()}
    result = {
        **{f.name: str(getattr(options, f.name)) for f in dataclasses.fields(options)},
        "machine": machine(),
        "date": datetime.date.today().isoformat(),
        "seconds": seconds,
        "median": medians,
        "ratio": medians["relevance"] / medians["gradient"],
        "compilations": len(traces),
    }
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(result, indent=2) + "\n")
    print(
        f"{options.network} {options.size}x{options.size}, batch {options.batch}: gradient "
        f"{medians['gradient']:.3f} s, relevance {medians['relevance']:.3f} s, ratio "
        f"{result['ratio']:.2f}, {len(traces)} compilation"
    )


if __name__ == "__main__":
    main(tyro.cli(Benchmark))
