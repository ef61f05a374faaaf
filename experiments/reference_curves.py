"""The authors' code and ours, the same training on textured backgrounds: accuracy over steps.

    git clone https://github.com/PedroRASB/ISNet ../ISNet
    python experiments/reference_curves.py --reference ../ISNet/code
    python experiments/reference_curves.py --reference ../ISNet/code \\
        --fashion /usr/share/datasets/fashion-mnist --epochs 40

Both sides start from the same weights of the authors' ResNet18, take the same batches in the same
order, and have the settings of the authors' run on MNIST: Selective, P 0.7, d 0.9, SGD at 1e-2
with momentum 0.9, gradients clipped at norm 1. Needs PyTorch and torchvision (and what the authors'
files import). Writes table.json and table.md after every epoch; a part of an epoch is not kept.
"""

from __future__ import annotations

import dataclasses
import json
import sys
import time
import types
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import hard_backgrounds
import jax
import jax.numpy as jnp
import numpy as np
import optax
import tyro
from flax import nnx
from rich.console import Console

from isnet_jax import ISNetConfig, models
from isnet_jax.commands.hard import load_data
from isnet_jax.data import Split
from isnet_jax.evaluation import predict
from isnet_jax.files import write_atomically
from isnet_jax.memory import keep_freed_memory
from isnet_jax.training import build_step, compile_step, init_state, loss_function
from isnet_jax.training.provenance import machine

P, DECAY, RANGE, EPSILON = 0.7, 0.9, (1.0, 25.0), 1e-2
LEARNING_RATE, MOMENTUM, CLIP = 1e-2, 0.9, 1.0

Batch = Mapping[str, Any]
Step = Callable[[Batch], float]
Predict = Callable[[np.ndarray], np.ndarray]


@dataclasses.dataclass(frozen=True)
class Experiment:
    """Train the authors' Selective ISNet and ours, side by side.

    Attributes:
      reference: the folder `code` of a clone of the authors' repository.
      fashion: folder with Fashion-MNIST's four files: its objects instead of digits.
      epochs: passes over the training images.
      batch_size: images a step.
      seed: of the data, the weights and the order.
      limit: so many objects of each source only.
      out: folder of table.json and table.md.
      data_dir: where prepared data sets are kept.
    """

    reference: Path
    fashion: Path | None = None
    epochs: int = 40
    batch_size: int = 128
    seed: int = 0
    limit: int | None = None
    out: Path = Path("runs/reference-curves")
    data_dir: Path = Path("datasets")


def main(experiment: Experiment) -> None:
    console = Console()
    drawn = hard_backgrounds.Experiment(fashion=experiment.fashion, limit=experiment.limit)
    made = hard_backgrounds.sets(drawn, experiment.seed)[
        "fashion" if experiment.fashion else "textured"
    ]
    splits = load_data(made, experiment.data_dir, console)
    train = splits["train"]
    weights, *reference = reference_side(experiment, len(train.class_names))
    sides = {"authors": tuple(reference), "ours": our_side(weights, len(train.class_names))}
    curves: dict[str, list[dict[str, float]]] = {name: [] for name in sides}
    for epoch in range(experiment.epochs):
        for name, (step, classify) in sides.items():
            started = time.monotonic()
            losses = [step(batch) for batch in batches(train, experiment, epoch)]
            seconds = round(time.monotonic() - started, 1)
            record = {"epoch": epoch + 1, "steps": len(losses) * (epoch + 1), "seconds": seconds}
            record |= {"first_loss": losses[0], "loss": float(np.mean(losses))}
            record |= {
                test: accuracy(classify, splits[f"test_{test}"]) for test in hard_backgrounds.TESTS
            }
            curves[name].append(record)
            console.print(name, record, highlight=False)
            write(experiment, curves)


def batches(train: Split, experiment: Experiment, epoch: int) -> Iterator[Batch]:
    """Images and masks in [0, 1], in an order of the seed and epoch; whole batches only."""
    order = np.random.default_rng([experiment.seed, epoch]).permutation(len(train))
    for start in range(0, len(order) - experiment.batch_size + 1, experiment.batch_size):
        yield train.batch(order[start : start + experiment.batch_size])


def accuracy(classify: Predict, test: Split, size: int = 250) -> float:
    places = np.array_split(np.arange(len(test)), -(-len(test) // size))
    found = [classify(test.batch(place)["image"]) for place in places]
    return float((np.concatenate(found) == test.labels).mean())


def reference_side(experiment: Experiment, classes: int) -> tuple[dict[str, Any], Step, Predict]:
    """The authors' network: its first weights, by name, its step and what it predicts."""
    import torch  # pyright: ignore[reportMissingImports]

    sys.path.insert(0, str(experiment.reference))
    # Some of the authors' files import what only other parts of them use.
    for name in ("matplotlib", "matplotlib.pyplot"):
        sys.modules.setdefault(name, types.ModuleType(name))
    import ISNetFlexTorch  # pyright: ignore[reportMissingImports]

    torch.manual_seed(experiment.seed)
    network = ISNetFlexTorch.ISNetFlex(
        architecture="resnet18",
        classes=classes,
        e=EPSILON,
        Zb=True,
        multiple=False,
        selective=True,
        selectiveEps=EPSILON,
    )
    weights = {name: v.detach().numpy().copy() for name, v in network.model.state_dict().items()}
    optimiser = torch.optim.SGD(network.parameters(), LEARNING_RATE, MOMENTUM)

    def channels_first(array: np.ndarray) -> Any:
        return torch.from_numpy(np.ascontiguousarray(array.transpose(0, 3, 1, 2)))

    def step(batch: Batch) -> float:
        network.train()
        images = channels_first(batch["image"])
        masks = channels_first(batch["mask"]).float().repeat(1, images.shape[1], 1, 1)
        found = ISNetFlexTorch.CompoundLoss(
            network(images, runLRPFlex=True),
            torch.from_numpy(batch["label"]).long(),
            masks=masks,
            d=DECAY,
            cutFlex=RANGE[0],
            cut2Flex=RANGE[1],
            alternativeForeground="L2",
            norm="absRoIMean",
        )
        loss = (1 - P) * found["classification"] + P * found["LRPFlex"]
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), CLIP)
        optimiser.step()
        return float(loss.detach())

    def classify(images: np.ndarray) -> np.ndarray:
        network.eval()
        with torch.no_grad():
            return network(channels_first(images))["output"].argmax(1).numpy()

    return weights, step, classify


def our_side(weights: dict[str, Any], classes: int) -> tuple[Step, Predict]:
    model = models.create("resnet18", num_classes=classes, rngs=nnx.Rngs(0))
    models.load_torch(model, weights)
    graph, _, _ = nnx.split(model, nnx.Param, ...)
    config = ISNetConfig(
        variant="selective",
        heatmap_weight=P,
        gwrp_decay=DECAY,
        foreground_range=RANGE,
        lrp_epsilon=EPSILON,
        softmax_epsilon=EPSILON,
        batch_stats="gradient",
    )
    optimiser = optax.chain(
        optax.clip_by_global_norm(CLIP), optax.sgd(LEARNING_RATE, momentum=MOMENTUM)
    )
    run = compile_step(build_step(model, loss_function(config), optimiser))
    state = [init_state(model, optimiser, jax.random.key(0))]

    def step(batch: Batch) -> float:
        given = {name: jnp.asarray(batch[name]) for name in ("image", "mask", "label")}
        state[0], metrics = run(state[0], given)
        return float(metrics["loss"])

    def classify(images: np.ndarray) -> np.ndarray:
        trained = nnx.merge(graph, state[0].parameters, state[0].rest, copy=True)
        trained.eval()
        return np.asarray(predict(trained, images)).argmax(1)

    return step, classify


def write(experiment: Experiment, curves: dict[str, list[dict[str, float]]]) -> None:
    settings = {name: str(value) for name, value in dataclasses.asdict(experiment).items()}
    del settings["reference"], settings["out"], settings["data_dir"]
    record = {"machine": machine(), "date": time.strftime("%Y-%m-%d"), "settings": settings}
    write_atomically(
        experiment.out / "table.json", json.dumps(record | {"curves": curves}, indent=1) + "\n"
    )
    columns = ("loss", *hard_backgrounds.TESTS)
    lines = [f"| side | steps | {' | '.join(columns)} |", "|---" * (len(columns) + 2) + "|"]
    for name, records in curves.items():
        for r in records:
            cells = [
                f"{r['loss']:.3f}",
                *(f"{100 * r[test]:.1f} %" for test in hard_backgrounds.TESTS),
            ]
            lines.append(f"| {name} | {r['steps']:.0f} | {' | '.join(cells)} |")
    write_atomically(experiment.out / "table.md", "\n".join(lines) + "\n")


if __name__ == "__main__":
    keep_freed_memory()
    main(tyro.cli(Experiment))
