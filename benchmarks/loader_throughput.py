"""Whether the loader feeds the training step: images a second of both, on the same machine.

    python benchmarks/loader_throughput.py --network resnet18 --batch 64 --size 64

Makes a folder of pictures, prepares it, and times batches (in memory and read from disk, with and
without augmentation) and the compiled ISNet step; writes
benchmarks/results/loader_throughput.json.
"""

from __future__ import annotations

import dataclasses
import datetime
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import tyro
from flax import nnx
from PIL import Image

from isnet_jax import ISNetConfig, models
from isnet_jax.data import (
    Augmentation,
    FolderSource,
    OwnDataConfig,
    load_split,
    open_records,
    prepare_own,
    train_iterator,
)
from isnet_jax.training import OptimiserConfig, build_step, compile_step, init_state, loss_function
from isnet_jax.training.provenance import machine

AUGMENTATION = Augmentation(
    max_shift=4, max_rotation=15, min_crop=0.9, flip_horizontal=True, flip_vertical=True
)


@dataclasses.dataclass(frozen=True)
class Benchmark:
    """Time the loader against the step that it feeds.

    Attributes:
        network: one of models.list().
        batch: images a step.
        size: side of the images in pixels.
        images: number of pictures.
        repeats: timed batches of the loader.
        steps: timed steps.
        out: file of the result.
    """

    network: str = "resnet18"
    batch: int = 64
    size: int = 64
    images: int = 400
    repeats: int = 40
    steps: int = 5
    out: Path = Path("benchmarks/results/loader_throughput.json")


def main(options: Benchmark) -> None:
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        _write_pictures(folder / "pictures", options)
        started = time.perf_counter()
        source = FolderSource(folder / "pictures")
        builder = prepare_own(source, folder / "data", OwnDataConfig()).builder
        rates = {"preparation": options.images / (time.perf_counter() - started)}
        memory = load_split(builder, "train")
        batch = memory.batch(slice(options.batch))
        for kind, examples in (("memory", memory), ("disk", open_records(builder, "train"))):
            for augmentation in (None, AUGMENTATION):
                iterator = train_iterator(
                    examples, options.batch, seed=0, augmentation=augmentation
                )
                name = f"{kind}, augmented" if augmentation else kind
                rates[name] = _rate(iterator.__next__, options.repeats, options.batch)
                iterator.close()
        rates["ISNet step"] = _step_rate(options, batch)
    for name, rate in rates.items():
        ratio = "" if name == "ISNet step" else f"  {rate / rates['ISNet step']:7.1f} x the step"
        print(f"{name:20} {rate:9.1f} images/s{ratio}")
    result = {
        **{f.name: str(getattr(options, f.name)) for f in dataclasses.fields(options)},
        "machine": machine(),
        "date": datetime.date.today().isoformat(),
        "images_per_second": rates,
    }
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(result, indent=2) + "\n")


def _write_pictures(folder: Path, options: Benchmark) -> None:
    rng = np.random.default_rng(0)
    for number in range(options.images):
        mask = np.zeros((options.size, options.size), np.uint8)
        mask[options.size // 4 : options.size // 2, options.size // 4 : -options.size // 4] = 255
        pixels = rng.integers(0, 256, (options.size, options.size, 3), dtype=np.uint8)
        for kind, array in (("images", pixels), ("masks", mask)):
            path = folder / kind / f"class{number % 3}" / f"{number:04d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(array).save(path)


def _rate(call: Callable[[], Any], repeats: int, batch: int) -> float:
    """Images a second over all calls but the first, so that work done ahead counts too."""
    jax.block_until_ready(call())
    started = time.perf_counter()
    for _ in range(repeats):
        jax.block_until_ready(call())
    return repeats * batch / (time.perf_counter() - started)


def _step_rate(options: Benchmark, batch: Any) -> float:
    model = models.create(options.network, num_classes=3, rngs=nnx.Rngs(0))
    optimiser = OptimiserConfig().make(1000)
    state = init_state(model, optimiser, jax.random.key(0))
    loss = loss_function(ISNetConfig())
    run_step = compile_step(build_step(model, loss, optimiser))

    def step() -> Any:
        nonlocal state
        state, metrics = run_step(state, batch)
        return metrics

    return _rate(step, options.steps, options.batch)


if __name__ == "__main__":
    main(tyro.cli(Benchmark))
