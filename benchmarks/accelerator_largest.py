"""The largest batch of DenseNet121's Selective step that fits; a part of accelerator.py.

The compiler says what a step of the row's batch needs; the batch that would fill the memory is then
run, and smaller ones where it does not fit. PyTorch runs one batch after the other.
"""

from __future__ import annotations

import dataclasses
import functools
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from accelerator_workers import Setting, on_torch, prepare_jax, quiet
from step_workers import jax_training, torch_training

Found = dict[str, Any]
_SMALL_LIMIT = 3e9  # bytes; CPUs do not tell one
_STEP = 8  # batches are multiples


def jax_side(precision: str, remat: bool, setting: Setting, out: Path) -> Iterator[Found]:
    del out
    os.environ["XLA_PYTHON_CLIENT_MEM_FRACTION"] = "0.95"
    jax = prepare_jax(setting.cache)
    from isnet_jax.training import compile_step

    options: dict[str, Any] = {"remat": True} if remat else {}
    if precision == "bfloat16":
        options["dtype"] = jax.numpy.bfloat16
    row = setting.row("densenet121")
    step, state, batch = jax_training(row, "selective", options=options)
    run = compile_step(step)

    def planned(batch: Any) -> tuple[Any, float]:
        compiled = run.lower(state, batch).compile()  # pyright: ignore[reportFunctionMemberAccess]
        memory = compiled.memory_analysis()
        return compiled, memory.temp_size_in_bytes + memory.argument_size_in_bytes

    with quiet(Path(setting.slots), setting.slot_count):
        _, needed = planned(batch)
        fixed = sum(leaf.nbytes for leaf in jax.tree.leaves((state.parameters, state.optimiser)))
        limit = (jax.devices()[0].memory_stats() or {}).get("bytes_limit", _SMALL_LIMIT)
        fits = int(row.batch * (limit - fixed) / (needed - fixed))
        found: Found = {
            "limit_gb": limit / 1e9,
            f"planned_gb_of_{row.batch}": needed / 1e9,
            "would_fit": fits,
        }
        yield found
        for share in (0.98, 0.93, 0.86):
            size = max(_STEP, int(fits * share) // _STEP * _STEP)
            if setting.small:
                size = 2 * row.batch
            _, state_, more = jax_training(
                dataclasses.replace(row, batch=size), "selective", options=options
            )
            try:
                compiled, memory = planned(more)
                _, metrics = jax.block_until_ready(compiled(*jax.device_put((state_, more))))
            except Exception as error:  # XLA does not export the type of "out of memory"
                found |= {f"failed_at_{size}": str(error).splitlines()[0][:120]}
                yield found
                continue
            loss = float(metrics["loss"])
            yield found | {"ran": size, "planned_gb": memory / 1e9, "loss": loss}
            return


def torch_side(precision: str, setting: Setting, out: Path) -> Iterator[Found]:
    del out
    import torch

    device = on_torch(torch)
    row = setting.row("densenet121")

    def runs(size: int) -> bool:
        torch.cuda.empty_cache()
        try:
            step = torch_training(
                dataclasses.replace(row, batch=size),
                "selective",
                device=device,
                autocast=precision == "bfloat16",
            )
            float(step())
            float(step())
        except torch.cuda.OutOfMemoryError:
            return False
        return True

    with quiet(Path(setting.slots), setting.slot_count):
        torch.backends.cudnn.benchmark = False  # Its trials need memory of their own.
        largest, failed, size = 0, 0, row.batch
        while not failed or failed - largest > max(_STEP, largest // 30):
            if setting.small and largest:
                break
            if runs(size):
                largest = size
                yield {"ran": largest}
            else:
                failed = size
                yield {"ran": largest, "failed_at": failed}
            size = (largest + failed) // 2 // _STEP * _STEP if failed else 2 * size
            if size in (largest, failed):
                break


SIDES: dict[str, Callable[[Setting, Path], Iterator[Found]]] = {
    "jax": functools.partial(jax_side, "float32", False),
    "jax-remat": functools.partial(jax_side, "float32", True),
    "torch": functools.partial(torch_side, "float32"),
    "jax-bfloat16": functools.partial(jax_side, "bfloat16", False),
    "torch-bfloat16": functools.partial(torch_side, "bfloat16"),
}
