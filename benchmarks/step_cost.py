"""What one training step costs: trace, compile (cold and from the persistent cache), memory, time.

    python benchmarks/step_cost.py --network densenet121 --size 128 --batch 4

Prints the numbers and appends them to benchmarks/results/step_cost.jsonl. Seconds of the processor
are given beside those of the clock, as the machine may have other work. Run it twice with the same
`--cache` folder: the second run's first step comes from the cache.
"""

from __future__ import annotations

import dataclasses
import json
import os
import statistics
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import optax
import tyro
from flax import nnx

from isnet_jax import Classification, ISNetConfig, models
from isnet_jax.memory import keep_freed_memory
from isnet_jax.training import build_step, compile_step, init_state, loss_function
from isnet_jax.training.provenance import machine


@dataclasses.dataclass(frozen=True)
class Benchmark:
    """Measure one step.

    Attributes:
      network: one of models.list().
      plain: without LRP; otherwise the Selective variant.
      remat: keep only convolutions and dense layers for the gradient.
      batch: images a step.
      size: side of the images in pixels.
      classes: number of classes.
      repeats: timed steps.
      cache: folder of JAX's persistent cache; empty: compile anew.
      out: file of the results.
    """

    network: str = "densenet121"
    plain: bool = False
    remat: bool = False
    batch: int = 4
    size: int = 128
    classes: int = 3
    repeats: int = 7
    cache: str = ""
    out: Path = Path("benchmarks/results/step_cost.jsonl")


def main(options: Benchmark) -> None:
    keep_freed_memory()
    if options.cache:
        jax.config.update("jax_compilation_cache_dir", options.cache)
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)
    network = {"remat": True} if options.remat else {}
    model = models.create(options.network, num_classes=options.classes, rngs=nnx.Rngs(0), **network)
    optimiser = optax.chain(optax.clip_by_global_norm(1.0), optax.sgd(1e-3, momentum=0.9))
    selective = ISNetConfig(variant="selective", batch_stats="gradient")
    config = Classification() if options.plain else selective
    step = compile_step(build_step(model, loss_function(config), optimiser))
    state = init_state(model, optimiser, jax.random.key(0))
    shape = (options.batch, options.size, options.size)
    quarter = slice(options.size // 4, options.size // 2)
    batch = {
        "image": jax.random.uniform(jax.random.key(1), (*shape, 3)),
        "mask": jnp.zeros((*shape, 1)).at[:, quarter, quarter].set(1),
        "label": jnp.arange(options.batch) % options.classes,
    }
    clock, processor = [time.perf_counter()], [time.process_time()]

    def tick() -> None:
        clock.append(time.perf_counter())
        processor.append(time.process_time())

    lowered = step.trace(state, batch).lower()  # pyright: ignore[reportFunctionMemberAccess]
    tick()
    compiled = lowered.compile()
    tick()
    seconds = []
    for _ in range(options.repeats):
        started = time.perf_counter()
        state, _ = jax.block_until_ready(compiled(state, batch))
        seconds.append(time.perf_counter() - started)
    cost = compiled.cost_analysis()
    result = {
        **{f.name: str(getattr(options, f.name)) for f in dataclasses.fields(options)},
        "machine": machine(),
        "load": os.getloadavg(),
        "trace_and_lower": (clock[1] - clock[0], processor[1] - processor[0]),
        "compile": (clock[2] - clock[1], processor[2] - processor[1]),
        "temporary_bytes": compiled.memory_analysis().temp_size_in_bytes,
        "flops": cost["flops"],
        "bytes_accessed": cost["bytes accessed"],
        "step_seconds": seconds,
    }
    options.out.parent.mkdir(parents=True, exist_ok=True)
    with options.out.open("a") as file:
        file.write(json.dumps(result) + "\n")
    print(
        f"{options.network}, batch {options.batch}, {options.size}x{options.size}"
        + (", remat: trace " if options.remat else ": trace ")
        + "{:.1f} s ({:.1f} of the processor), ".format(*result["trace_and_lower"])
        + "compile {:.1f} s ({:.1f}), ".format(*result["compile"])
        + f"{result['temporary_bytes'] / 2**20:.0f} MiB temporary, {result['flops'] / 1e9:.1f} "
        f"GFLOP, {result['bytes_accessed'] / 1e9:.2f} GB accessed, step "
        f"{statistics.median(seconds):.3f} s; load {result['load'][0]:.1f}"
    )


if __name__ == "__main__":
    main(tyro.cli(Benchmark))
