"""The whole data-parallel ISNet step compiled for TPUs and GPUs that are not here.

    make .venv-accelerators/installed  (gigabytes: compilers in an environment of its own)
    .venv-accelerators/bin/python benchmarks/accelerator_compile.py

XLA's own compilers for TPU v5e and for H100 run on any machine. For each target: FLOPs, bytes and
memory of one chip, the collectives of a step, the share of convolutions and products in bfloat16,
and the batch at which the chip's memory would be full. All are compilers' estimates, not
measurements. Prints a table, writes benchmarks/results/accelerator_compile.json and .md.
"""

from __future__ import annotations

import collections
import dataclasses
import datetime
import json
import os
import re
import time
from importlib import metadata
from pathlib import Path
from typing import Any

os.environ["JAX_PLATFORMS"] = "cpu"  # what is compiled for is given by the topology
os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
os.environ.setdefault("JAX_SKIP_CUDA_CONSTRAINTS_CHECK", "1")

import jax
import jax.numpy as jnp
import numpy as np
import optax
import tyro
from flax import nnx
from jax.experimental import topologies
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from isnet_jax import ISNetConfig, models
from isnet_jax.models.convolution import lowered_for
from isnet_jax.training import build_step, init_state, loss_function

# Public figures of the device, as XLA's text format wants them.
H100 = """
gpu_device_info {
  cuda_compute_capability { major: 9 }
  core_count: 132  fpus_per_core: 128  clock_rate_ghz: 1.98
  threads_per_warp: 32  threads_per_block_limit: 1024  threads_per_core_limit: 2048
  registers_per_block_limit: 65536  registers_per_core_limit: 65536
  shared_memory_per_block: 49152  shared_memory_per_block_optin: 232448
  shared_memory_per_core: 233472  l2_cache_size: 52428800
  block_dim_limit_x: 2147483647  block_dim_limit_y: 65535  block_dim_limit_z: 65535
  device_memory_size: 84929347584  memory_bandwidth: 3352320000000
}
platform_name: "CUDA"
runtime_version { major: 13 }
dnn_version_info { major: 9 minor: 12 }
device_description_str: "NVIDIA H100 80GB HBM3"
"""


@dataclasses.dataclass(frozen=True)
class Target:
    """Chips of one kind, and the memory of each in bytes."""

    platform: str
    topology: str
    chips: int
    memory: float
    options: tuple[tuple[str, Any], ...] = ()


TARGETS = {
    "v5e-1": Target("tpu", "v5e:1x1x1", 1, 16e9, (("chips_per_host_bounds", (1, 1, 1)),)),
    "v5e-4": Target("tpu", "v5e:2x2", 4, 16e9),
    "v5e-16": Target("tpu", "v5e:4x4", 16, 16e9),
    "v5e-256": Target("tpu", "v5e:16x16", 256, 16e9),
    "h100-8": Target("cuda", "1x1x8", 8, 85e9, (("topology", "1x1x8"), ("target_config", H100))),
}


@dataclasses.dataclass(frozen=True)
class Benchmark:
    """Compile the step for accelerators.

    Attributes:
      targets: see TARGETS.
      network: one of models.list().
      variant: an ISNet's, or "plain".
      batch: images a step and chip.
      size: side of the images in pixels.
      classes: number of classes.
      out: folder of the results; rows of other settings there are kept.
    """

    targets: tuple[str, ...] = tuple(TARGETS)
    network: str = "resnet18"
    variant: str = "selective"
    batch: int = 8
    size: int = 64
    classes: int = 10
    out: Path = Path("benchmarks/results")


def compiled_step(options: Benchmark, target: Target, batch: int) -> Any:
    """The step of `batch` images a chip, compiled for all chips of the target."""
    topology = topologies.get_topology_desc(
        platform=target.platform, topology_name=target.topology, **dict(target.options)
    )
    mesh = Mesh(np.array(topology.devices), ("data",), axis_types=(AxisType.Auto,))
    model = models.create(
        options.network, num_classes=options.classes, dtype=jnp.bfloat16, rngs=nnx.Rngs(0)
    )
    optimiser = optax.chain(optax.clip_by_global_norm(1.0), optax.sgd(1e-2, momentum=0.9))
    # All classes at once: the default follows the backend, which here is the host's.
    config = ISNetConfig(variant=options.variant, heatmap_chunk=0, batch_stats="gradient")  # pyright: ignore
    step = build_step(model, loss_function(config, "data"), optimiser, axis_name="data")
    everywhere, split = PartitionSpec(), PartitionSpec("data")
    run = jax.jit(
        jax.shard_map(
            step,
            mesh=mesh,
            in_specs=(everywhere, split),
            out_specs=everywhere,
            check_vma=False,
        ),
        donate_argnums=0,
    )

    def shaped(tree: Any, spec: PartitionSpec) -> Any:
        sharding = NamedSharding(mesh, spec)
        return jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), tree
        )

    state = jax.eval_shape(lambda: init_state(model, optimiser, jax.random.key(0)))
    images = (batch * target.chips, options.size, options.size)
    data = {
        "image": jax.ShapeDtypeStruct((*images, 3), jnp.float32),
        "mask": jax.ShapeDtypeStruct((*images, 1), jnp.float32),
        "label": jax.ShapeDtypeStruct(images[:1], jnp.int32),
    }
    with lowered_for(target.platform):
        traced = run.trace(shaped(state, everywhere), shaped(data, split))
    return traced.lower(lowering_platforms=(target.platform,)).compile()


def measure(options: Benchmark, name: str) -> dict[str, Any]:
    target = TARGETS[name]
    started = time.perf_counter()
    compiled = compiled_step(options, target, options.batch)
    seconds = time.perf_counter() - started
    cost = compiled.cost_analysis() or {}
    memory = used(compiled)
    half = used(compiled_step(options, target, options.batch // 2))
    a_sample = (memory - half) / (options.batch - options.batch // 2)
    return {
        "target": name,
        "network": options.network,
        "variant": options.variant,
        "batch_per_chip": options.batch,
        "size": options.size,
        "classes": options.classes,
        "gigaflop": cost.get("flops", 0) / 1e9 or None,
        "gigabytes_accessed": cost.get("bytes accessed", 0) / 1e9 or None,
        "gigabytes_memory": memory / 1e9,
        # Of tiny batches the larger one can take less.
        "largest_batch": int(options.batch + (target.memory - memory) / a_sample)
        if a_sample > 0
        else None,
        **in_text(compiled.as_text()),
        "compile_seconds": seconds,
        "date": datetime.date.today().isoformat(),
        "jax": metadata.version("jax"),
    }


def used(compiled: Any) -> int:
    """Bytes of a chip that the step needs; donated arguments are outputs too."""
    memory = compiled.memory_analysis()
    return memory.temp_size_in_bytes + memory.argument_size_in_bytes


_SHAPE = re.compile(r"(bf16|f32|f16|f64|s32|u32|pred)\[([\d,]*)\]")
_BYTES = {"bf16": 2, "f16": 2, "f32": 4, "s32": 4, "u32": 4, "f64": 8, "pred": 1}


def in_text(text: str) -> dict[str, Any]:
    """What the compiled program says of its collectives and of the types it computes in."""
    types: collections.Counter[str] = collections.Counter()
    reductions = []
    for line in text.splitlines():
        found = re.match(r"\s*(?:ROOT )?%?\S+ = (.*?) ([a-z\-]+)\(", line)
        if not found:
            continue
        shape, operation = found.groups()
        if operation in ("all-reduce", "all-reduce-start"):
            sizes = [
                _BYTES[kind] * int(np.prod([int(n) for n in dims.split(",") if n]))
                for kind, dims in _SHAPE.findall(shape)
            ]
            reductions.append(sum(sizes))
        custom = re.search(r'custom_call_target="(__cu[^"]+)"', line)
        if operation in ("convolution", "dot") or custom:
            operands = re.findall(r"(bf16|f32|f64)\[", line.split(operation + "(", 1)[-1])
            declared = re.findall(r"(bf16|f32|f64)\[", shape)
            types[(operands or declared or ["?"])[0]] += 1
    return {
        "all_reduces": len(reductions),
        "megabytes_reduced": [round(size / 1e6, 3) for size in reductions],
        "products_by_type": dict(types),
    }


def table(rows: list[dict[str, Any]]) -> str:
    lines = [
        "| target | network, images a chip | GFLOP a chip | GB accessed | GB memory | "
        "all-reduces (MB) | products and convolutions | largest batch a chip | compile s |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        share = ", ".join(f"{count} {kind}" for kind, count in row["products_by_type"].items())
        cells = [
            row["target"],
            f"{row['network']} {row['variant']} {row['size']}x{row['size']}, "
            f"{row['batch_per_chip']}",
            *(
                "-" if row[name] is None else f"{row[name]:.{digits}f}"
                for name, digits in (("gigaflop", 0), ("gigabytes_accessed", 1))
            ),
            f"{row['gigabytes_memory']:.2f}",
            f"{row['all_reduces']} ({', '.join(map(str, row['megabytes_reduced']))})",
            share,
            "-" if row["largest_batch"] is None else f"{row['largest_batch']}",
            f"{row['compile_seconds']:.0f}",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    versions = ", ".join(sorted({row["jax"] for row in rows}))
    days = " to ".join(sorted({row["date"] for row in rows}))
    return "\n".join([*lines, "", f"Compilers' estimates; jax {versions}; {days}.", ""])


def main(options: Benchmark) -> None:
    file = options.out / "accelerator_compile.json"
    rows = json.loads(file.read_text()) if file.exists() else []
    settings = ("target", "network", "variant", "batch_per_chip", "size", "classes")
    options.out.mkdir(parents=True, exist_ok=True)
    for name in options.targets:
        row = measure(options, name)
        print(table([row]).splitlines()[2], flush=True)
        rows = [r for r in rows if any(r[name] != row[name] for name in settings)]
        rows.append(row)
        file.write_text(json.dumps(rows, indent=2) + "\n")
        file.with_suffix(".md").write_text(table(rows))


if __name__ == "__main__":
    main(tyro.cli(Benchmark))
