"""One side of a row of accelerator.py in a process of its own.

    python accelerator_workers.py SIDE NETWORK MODE PRECISION SETTING

Its first line tells what it took to get ready: import, building, tracing, compilation, which
happens in a slot of its own (workers.py). The first step is made when it is asked for.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from step_workers import Row, jax_training, torch_training
from workers import all_slots, resident_gb, serve, slot

ROWS = {
    "resnet18": Row("resnet18", 256, 64, 10),
    "resnet50": Row("resnet50", 128, 224, 3),
    "densenet121": Row("densenet121", 64, 224, 3, (("transition_relu", True),)),
    "vgg16": Row("vgg16", 64, 224, 3, (("dropout", 0.0),)),
    "vit_b_16": Row("vit_b_16", 64, 224, 3, (("image_size", 224),)),
    "compact": Row("compact", 256, 32, 10),
}
MODES = ("plain", "selective", "stochastic", "quarter", "original")
PRECISIONS = ("float32", "bfloat16")

# JAX's step in another form: Selective in ours, then what is changed.
VARIANTS: dict[str, dict[str, Any]] = {
    "no-fusion-autotuner": {"compiler": {"xla_gpu_experimental_enable_fusion_autotuner": False}},
    "jax-derivatives": {"derivatives": "jax"},
    "remat": {"network": {"remat": True}},
    "flat-optimiser": {"flat": True},
    "no-graphs": {"compiler": {"xla_gpu_enable_command_buffer": ""}},
    "latency-hiding": {"compiler": {"xla_gpu_enable_latency_hiding_scheduler": True}},
    "no-triton": {"compiler": {"xla_gpu_enable_triton_gemm": False}},
}


@dataclasses.dataclass(frozen=True)
class Setting:
    """What all rows of a run share.

    Attributes:
      slots: folder of the slots in which workers compile, and their number.
      slot_count: how many compile at a time.
      small: tiny shapes, for a machine without an accelerator.
      cache: folder of JAX's persistent compilation cache; empty: none.
      authors: folder of the authors' code; empty: none.
      batch: images a step instead of the row's; 0: the row's.
    """

    slots: str
    slot_count: int = 2
    small: bool = False
    cache: str = ""
    authors: str = ""
    batch: int = 0

    def row(self, network: str) -> Row:
        row = ROWS[network]
        if self.small:
            options = tuple((n, 32 if n == "image_size" else v) for n, v in row.options)
            row = dataclasses.replace(row, batch=4, size=32, options=options)
        return dataclasses.replace(row, batch=self.batch or row.batch)


def prepare_jax(cache: str) -> Any:
    """JAX, allocating as it needs; before its first import."""
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    import jax

    if cache:
        jax.config.update("jax_compilation_cache_dir", cache)
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)
    return jax


# Steps of PyTorch need much memory at their first, where cuDNN tries its kernels: not all at once.
_TORCH_SLOTS = 3


def make_slots(*folders: Path) -> None:
    for folder in folders:
        (folder / "torch").mkdir(parents=True)


@contextlib.contextmanager
def quiet(slots: Path, count: int) -> Iterator[None]:
    """Nothing compiles, and no first step is made, by a worker with these slots."""
    with all_slots(slots, count), all_slots(slots / "torch", _TORCH_SLOTS):
        yield


class Clock:
    """Seconds between its ticks, by name."""

    def __init__(self):
        self.seconds: dict[str, float] = {}
        self._last = time.perf_counter()

    def tick(self, name: str) -> None:
        now = time.perf_counter()
        self.seconds[name], self._last = now - self._last, now


def jax_side(network: str, mode: str, precision: str, setting: Setting) -> None:
    clock = Clock()
    jax = prepare_jax(setting.cache)
    from isnet_jax.models import convolution
    from isnet_jax.training import compiler_options

    device = jax.devices()[0]
    clock.tick("import")
    variant = VARIANTS.get(mode, {})
    options = dict(variant.get("network", {}))
    if precision == "bfloat16":
        options["dtype"] = jax.numpy.bfloat16
    step, state, batch = jax_training(
        setting.row(network),
        "selective" if mode in VARIANTS else mode,
        options=options,
        flat=variant.get("flat", False),
    )
    clock.tick("build")
    run = jax.jit(
        step, donate_argnums=0, compiler_options=compiler_options() | variant.get("compiler", {})
    )
    if variant.get("derivatives") == "jax":
        convolution._convolution = convolution._direct  # pyright: ignore[reportPrivateUsage]
    traced = run.trace(state, batch)
    lowered = traced.lower()
    clock.tick("trace")
    with slot(Path(setting.slots), setting.slot_count):
        clock.tick("wait")
        compiled = lowered.compile()
        clock.tick("compile")
    memory = compiled.memory_analysis()
    kept: list[Any] = []

    def call() -> Any:
        if not kept:
            kept.extend(on_device((state, batch), device))
        kept[0], metrics = compiled(kept[0], kept[1])
        return metrics["loss"]

    ready = {
        **clock.seconds,
        "flops": flops(traced.jaxpr),
        "planned_gb": (
            memory.argument_size_in_bytes
            + memory.output_size_in_bytes
            - memory.alias_size_in_bytes
            + memory.temp_size_in_bytes
        )
        / 1e9,
    }

    serve(call, ready, lambda: peak_gb_of(device))


def on_device(tree: Any, device: Any) -> Any:
    """Its NumPy arrays on the device, not shared with them: they may be donated."""
    import jax

    placed = jax.device_put(tree, device)
    return jax.tree.map(jax.numpy.copy, placed) if device.platform == "cpu" else placed


def peak_gb_of(device: Any) -> float:
    """The most memory that JAX had on the device; of the process, where it does not say."""
    stats = device.memory_stats()
    return stats["peak_bytes_in_use"] / 1e9 if stats else resident_gb()


def flops(jaxpr: Any) -> float:
    """Of the convolutions and products of a program, each counted as it is written there."""
    total = 0.0
    for equation in jaxpr.eqns:
        p, shapes = equation.params, [v.aval.shape for v in equation.invars]
        if equation.primitive.name == "dot_general":
            (_, contracted), (_, batched) = p["dimension_numbers"]
            taken = (*contracted, *batched)
            free = [n for axis, n in enumerate(shapes[1]) if axis not in taken]
            total += 2.0 * math.prod(shapes[0]) * math.prod(free)
        elif equation.primitive.name == "conv_general_dilated":
            window = [shapes[1][axis] for axis in p["dimension_numbers"].rhs_spec[1:]]
            products = math.prod(equation.outvars[0].aval.shape) * math.prod(window)
            # What lies between spread values is zero.
            total += 2.0 * products / math.prod(p["lhs_dilation"])
        times = p.get("length", 1) if equation.primitive.name == "scan" else 1
        total += times * sum(map(flops, _inner(p)))
    return total


def _inner(parameters: dict[str, Any]) -> Iterator[Any]:
    for value in parameters.values():
        for one in value if isinstance(value, tuple | list) else (value,):
            if hasattr(one, "eqns"):
                yield one
            elif hasattr(one, "jaxpr") and hasattr(one.jaxpr, "eqns"):
                yield one.jaxpr


def torch_side(
    network: str, mode: str, precision: str, setting: Setting, *, compiled: bool = False
) -> None:
    clock = Clock()
    import torch

    device = on_torch(torch)
    clock.tick("import")
    step = torch_training(
        setting.row(network),
        mode,
        device=device,
        explained=mode != "plain",
        autocast=precision == "bfloat16",
        compiled=compiled,
    )
    clock.tick("build")
    serve_torch(torch, step, clock, setting)


def serve_torch(torch: Any, step: Callable[[], Any], clock: Clock, setting: Setting) -> None:
    """Serve after a first step, in which kernels are compiled and chosen."""
    with slot(Path(setting.slots) / "torch", _TORCH_SLOTS):
        clock.tick("wait")
        loss = float(step())
        clock.tick("compile")
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
    serve(step, {**clock.seconds, "loss": loss}, lambda: torch_peak_gb(torch))


def authors_side(network: str, mode: str, precision: str, setting: Setting) -> None:
    clock = Clock()
    import torch

    device = on_torch(torch)
    from authors_isnet import training

    clock.tick("import")
    with contextlib.redirect_stdout(sys.stderr):
        step = training(Path(setting.authors), setting.row(network), mode, device)
    clock.tick("build")
    serve_torch(torch, step, clock, setting)


def on_torch(torch: Any) -> str:
    """The device to use, with TF32 and cuDNN's own choice of algorithms."""
    os.environ.setdefault("PYTORCH_ALLOC_CONF", "expandable_segments:True")
    torch.set_float32_matmul_precision("high")
    torch.backends.cudnn.allow_tf32 = True
    torch.backends.cudnn.benchmark = True
    return "cuda" if torch.cuda.is_available() else "cpu"


def torch_peak_gb(torch: Any) -> float:
    if not torch.cuda.is_available():
        return resident_gb()
    return torch.cuda.max_memory_allocated() / 1e9


SIDES: dict[str, Callable[..., None]] = {
    "jax": jax_side,
    "torch": torch_side,
    "torch-compile": lambda *given: torch_side(*given, compiled=True),
    "authors": authors_side,
}


def main(side: str, network: str, mode: str, precision: str, setting: str) -> None:
    SIDES[side](network, mode, precision, Setting(**json.loads(setting)))


if __name__ == "__main__":
    main(*sys.argv[1:])
