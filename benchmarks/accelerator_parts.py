"""What accelerator.py runs beside its rows, each in a process of its own.

    python accelerator_parts.py PART NAME SETTING OUT

Prints what is found as lines of JSON, the last one the whole.
"""

from __future__ import annotations

import importlib
import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from accelerator_workers import Setting, prepare_jax, quiet

NAMES = {
    "ceilings": ("card",),
    "checks": (
        "checkpoint", "launchers", "biased-digits", "devices", "golden", "repeats", "precisions",
    ),
    "profiles": (
        "resnet50-float32", "densenet121-float32", "resnet50-bfloat16", "densenet121-bfloat16",
    ),
    "leads": ("gwrp",),
    "largest": ("jax", "jax-remat", "torch", "jax-bfloat16", "torch-bfloat16"),
}  # fmt: skip


def ceilings(setting: Setting) -> Iterator[dict[str, Any]]:
    """What the card reaches: a product of random matrices, and a copy of twice its bytes."""
    jax = prepare_jax(setting.cache)
    jnp = jax.numpy
    size, length = (512, 1 << 20) if setting.small else (8192, 1 << 29)

    def seconds(call: Any, *given: Any) -> float:
        run = jax.jit(call)
        jax.block_until_ready([run(*given) for _ in range(3)])
        started = time.perf_counter()
        for _ in range(10):
            result = run(*given)
        jax.block_until_ready(result)
        return (time.perf_counter() - started) / 10

    found = {}
    with quiet(Path(setting.slots), setting.slot_count):
        for dtype in (jnp.float32, jnp.bfloat16):
            left, right = jax.random.normal(jax.random.key(0), (2, size, size), dtype)
            spent = seconds(jnp.matmul, left, right)
            found[f"{jnp.dtype(dtype).name}_tflops"] = 2 * size**3 / spent / 1e12
        values = jax.random.normal(jax.random.key(0), (length,))
        spent = seconds(lambda x: x + 1, values)
        found["copy_gb_per_second"] = 2 * values.nbytes / spent / 1e9
    yield found


def run(part: str, name: str, setting: Setting, out: Path) -> Iterator[dict[str, Any]]:
    if part == "ceilings":
        return ceilings(setting)
    if part == "largest":  # sets the share of the memory before JAX is imported
        return importlib.import_module("accelerator_largest").SIDES[name](setting, out)
    prepare_jax(setting.cache)
    if part == "checks":
        return importlib.import_module("accelerator_checks").CHECKS[name](setting)
    if part == "profiles":
        return importlib.import_module("accelerator_profile").PROFILES[name](setting, out)
    return importlib.import_module("accelerator_leads").LEADS[name](setting, out)


def main(part: str, name: str, setting: str, out: str) -> None:
    started, found = time.perf_counter(), {}
    for found in run(part, name, Setting(**json.loads(setting)), Path(out)):
        print(json.dumps(found | {"complete": False}), flush=True)
    found = {k: v for k, v in found.items() if k != "complete"}
    print(json.dumps(found | {"took_seconds": time.perf_counter() - started}), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
