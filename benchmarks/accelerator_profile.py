"""Where the time of a step goes; a part of accelerator.py."""

from __future__ import annotations

import collections
import functools
import gzip
import re
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from accelerator_workers import Setting, on_device, quiet
from step_workers import jax_training
from workers import slot

Found = dict[str, Any]
STEPS = 3

# What a kernel's name, or the operation it belongs to, tells of its kind; the first that fits.
_KINDS = {
    "convolutions": r"conv|fprop|dgrad|wgrad|cudnn",
    "products": r"gemm|dot|matmul|cublas|cutlass|nvjet|triton_gemm",
    "sorts and top_k": r"sort|top_?k|radix",
    "copies and transposes": r"copy|transpose|memcpy|memset",
    "reductions": r"reduce|reduction",
    "elementwise": r"fusion|wrapped|add|multiply|select|broadcast|concatenate|pad|slice",
}


def profile(network: str, precision: str, setting: Setting, out: Path) -> Iterator[Found]:
    """The kernels of Selective steps by `jax.profiler`, and what the compiled program holds."""
    options = {"dtype": jnp.bfloat16} if precision == "bfloat16" else {}
    step, state, batch = jax_training(setting.row(network), "selective", options=options)
    from isnet_jax.training import compile_step

    lowered = compile_step(step).lower(state, batch)  # pyright: ignore
    with slot(Path(setting.slots), setting.slot_count):
        compiled = lowered.compile()
    text = compiled.as_text()
    with gzip.open(out / f"{network}-{precision}.hlo.gz", "wt") as file:
        file.write(text)
    found: Found = {"program": program(text)}
    yield found
    with quiet(Path(setting.slots), setting.slot_count):
        state, batch = on_device((state, batch), jax.devices()[0])
        for _ in range(3):
            state, metrics = compiled(state, batch)
        jax.block_until_ready(metrics)
        started = time.perf_counter()
        with tempfile.TemporaryDirectory() as folder:
            with jax.profiler.trace(folder):
                for _ in range(STEPS):
                    state, metrics = compiled(state, batch)
                jax.block_until_ready((state, metrics))
                seconds = (time.perf_counter() - started) / STEPS
            (file,) = Path(folder).rglob("*.xplane.pb")
            yield found | {"step_milliseconds": 1e3 * seconds} | kernels(file)


def kernels(file: Path) -> Found:
    """The ten largest kernels of a trace, and the shares of their kinds."""
    seconds: collections.Counter[str] = collections.Counter()
    calls: collections.Counter[str] = collections.Counter()
    groups: collections.Counter[str] = collections.Counter()
    by_name: collections.Counter[str] = collections.Counter()
    for name, duration, operation in _events(file):
        by_name[re.sub(r"[<(].*|_?\d+$", "", name)] += duration
        label = name if operation in ("", name) else f"{operation}: {name}"
        seconds[label] += duration
        calls[label] += 1
        groups[_kind(label)] += duration
    total = sum(seconds.values()) or 1e-9
    return {
        "milliseconds": 1e3 * total / STEPS,
        "kernels": [
            {
                "name": name,
                "calls": calls[name] // STEPS,
                "milliseconds": 1e3 * spent / STEPS,
                "share": spent / total,
            }
            for name, spent in seconds.most_common(10)
        ],
        "groups": {name: spent / total for name, spent in groups.most_common()},
        "milliseconds_by_name": {
            name: 1e3 * spent / STEPS for name, spent in by_name.most_common(40)
        },
    }


def _events(file: Path) -> Iterator[tuple[str, float, str]]:
    """Name, seconds and HLO operation of every kernel; on a CPU, of every thunk."""
    data = jax.profiler.ProfileData.from_file(str(file))
    planes = [p for p in data.planes if p.name.startswith("/device:")]
    for plane in planes or data.planes:
        for line in plane.lines:
            # The lines of modules and operations repeat what the streams hold.
            if planes and not line.name.startswith("Stream"):
                continue
            for event in line.events:
                stats = {name: value for name, value in event.stats if name}
                if "hlo_op" in stats:
                    yield event.name, event.duration_ns / 1e9, str(stats["hlo_op"])
                elif planes:
                    yield event.name, event.duration_ns / 1e9, ""


def _kind(label: str) -> str:
    return next((k for k, words in _KINDS.items() if re.search(words, label.lower())), "other")


def program(text: str) -> dict[str, int]:
    """How many instructions of each kind run: fusions, library calls, copies, conversions."""
    counts: collections.Counter[str] = collections.Counter()
    in_entry = False
    for line in text.splitlines():
        in_entry = line.startswith("ENTRY") or (in_entry and not line.startswith("}"))
        instruction = re.match(r"\s+(?:ROOT )?%?\S+ = .*?\s([a-z][a-z0-9\-]*)\(", line)
        if not in_entry or not instruction:
            continue
        (name,) = instruction.groups()
        target = re.search(r'custom_call_target="([^"]+)"', line)
        kind = re.search(r"kind=(k\w+)", line)
        counts[target[1] if target else f"{name} {kind[1]}" if kind else name] += 1
    ignored = ("parameter", "get-tuple-element", "tuple", "constant", "bitcast")
    return {name: n for name, n in counts.most_common() if name not in ignored}


PROFILES = {
    f"{network}-{precision}": functools.partial(profile, network, precision)
    for network, precision in (
        ("densenet121", "float32"),
        ("resnet50", "bfloat16"),
        ("resnet50", "float32"),
        ("densenet121", "bfloat16"),
    )
}
