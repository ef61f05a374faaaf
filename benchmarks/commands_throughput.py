"""Whether `predict` and `explain` cost more than what the network computes, on the same machine.

    python benchmarks/commands_throughput.py
    python benchmarks/commands_throughput.py --small

Writes photographs as JPEG and a run with an untrained network; gives both commands all of them
after a few that were compiled for; and times the bare forward pass, and the bare relevance, of as
many images in batches of the same size. Writes benchmarks/results/commands_throughput.json.
"""

from __future__ import annotations

import dataclasses
import datetime
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import tyro
from PIL import Image
from rich.console import Console

from isnet_jax import Classification, ISNetConfig
from isnet_jax.commands import explain, predict, run_folder
from isnet_jax.commands.network import network_of_run
from isnet_jax.commands.progress import Unobserved
from isnet_jax.data import Augmentation, Split
from isnet_jax.evaluation.background import explain_classes
from isnet_jax.evaluation.predict import predict as logits_of
from isnet_jax.memory import keep_freed_memory
from isnet_jax.training import ModelDescription, OptimiserConfig, TrainConfig, fit
from isnet_jax.training.provenance import machine
from isnet_jax.training.serial import to_dict

Row = Literal["predict", "predict --heatmaps", "explain"]
CLASSES = ("a", "b")
# What the network does alone for each command, in batches of the same size.
ALONE: dict[Row, str] = {
    "predict": "forward",
    "predict --heatmaps": "relevance, by 32",
    "explain": "relevance, by 8",
}
QUIET = Console(quiet=True)


@dataclasses.dataclass(frozen=True)
class Benchmark:
    """Time the commands against the network alone.

    Attributes:
        network: one of models.list().
        images: number of pictures.
        size: side of the images in pixels.
        rows: which commands.
        small: 24 images of 32 x 32 pixels instead, for the smallest network.
        out: file of the result.
    """

    network: str = "resnet18"
    images: int = 1000
    size: int = 224
    rows: tuple[Row, ...] = ("predict", "predict --heatmaps", "explain")
    small: bool = False
    out: Path = Path("benchmarks/results/commands_throughput.json")


def main(options: Benchmark) -> None:
    keep_freed_memory()
    if options.small:
        options = dataclasses.replace(options, network="small", images=24, size=32)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        _write_photographs(folder / "images", options)
        _write_run(folder / "run", options)
        seconds = _timed(folder, options)
    ratios = {
        name: found / seconds[ALONE[name]] for name, found in seconds.items() if name in ALONE
    }
    for name, found in seconds.items():
        ratio = f"  {ratios[name]:.2f} times the network" if name in ratios else ""
        print(f"{name:20} {found:9.2f} s  {options.images / found:9.1f} images/s{ratio}")
    result = {
        **{f.name: str(getattr(options, f.name)) for f in dataclasses.fields(options)},
        "machine": machine(),
        "date": datetime.date.today().isoformat(),
        "seconds": seconds,
        "ratios": ratios,
    }
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(result, indent=2) + "\n")


def _timed(folder: Path, options: Benchmark) -> dict[str, float]:
    """Seconds of each command, and of the network alone just before or after it."""
    images, out, run = (folder / "images",), folder / "out", folder / "run"
    model, _ = network_of_run(run / "isnet")
    shape = (options.images, options.size, options.size, 3)
    pixels = np.random.default_rng(0).random(shape, np.float32)
    predicting = predict.Predict(run, images, out=folder / "p.csv")
    drawing = dataclasses.replace(predicting, heatmaps=out / "predicted")
    explaining = explain.Explain(images=images, checkpoint=run / "isnet", out=out / "explained")
    calls: dict[str, Callable[[Any], Any]] = {
        "forward": lambda x: logits_of(model, x, batch_size=32),
        "predict": lambda files: predict.run(dataclasses.replace(predicting, images=files), QUIET),
        "relevance, by 32": lambda x: explain_classes(model, x, batch_size=32),
        "predict --heatmaps": lambda files: predict.run(
            dataclasses.replace(drawing, images=files), QUIET
        ),
        "relevance, by 8": lambda x: explain_classes(model, x, batch_size=8),
        "explain": lambda files: explain.run(dataclasses.replace(explaining, images=files), QUIET),
    }
    few = min(32, options.images)
    first = tuple(sorted((folder / "images").iterdir())[:few])
    seconds = {}
    for name, call in calls.items():
        bare = name in ALONE.values()
        if not any(name in (row, ALONE[row]) for row in options.rows):
            continue
        call(pixels[:few] if bare else first)  # compiles
        started = time.perf_counter()
        call(pixels if bare else images)
        seconds[name] = time.perf_counter() - started
    return seconds


def _write_photographs(folder: Path, options: Benchmark) -> None:
    """Smooth random pictures with a little noise, as large as the network takes them."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    side = options.size
    for number in range(options.images):
        coarse = Image.fromarray(rng.integers(0, 256, (9, 9, 3), dtype=np.uint8))
        smooth = np.asarray(coarse.resize((side, side), Image.Resampling.BICUBIC), np.float32)
        noisy = np.clip(smooth + rng.normal(0, 6, smooth.shape), 0, 255).astype(np.uint8)
        Image.fromarray(noisy).save(folder / f"{number:04d}.jpg", quality=90)


def _write_run(folder: Path, options: Benchmark) -> None:
    """A run of `isnet-jax train`, as far as its network is needed, after one step."""
    rng = np.random.default_rng(0)
    images = rng.random((2, options.size, options.size, 3), np.float32)
    data = Split(
        images, np.ones((*images.shape[:3], 1), np.float32), np.arange(2), ("0", "1"), CLASSES
    )
    training = TrainConfig(
        objective=Classification(),
        optimiser=OptimiserConfig(),
        epochs=1,
        batch_size=2,
        augmentation=Augmentation(),
        seed=0,
    )
    run_folder.claim(folder, {"isnet": to_dict(ISNetConfig())}, {})
    description = ModelDescription(options.network, 2, CLASSES, images.shape[1:])
    fit(description, training, data, data, folder / "isnet", Unobserved())


if __name__ == "__main__":
    main(tyro.cli(Benchmark))
