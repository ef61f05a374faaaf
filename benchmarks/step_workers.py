"""One side of step_throughput.py in a process of its own: `python step_workers.py SIDE ROW MODE`.

Ready, it tells the loss of the first step on the shared weights and data, and the seconds to get
there.
"""

from __future__ import annotations

import dataclasses
import os
import sys
import time
import zlib
from collections.abc import Callable, Mapping

import numpy as np
from workers import one_heap_that_is_kept, serve

CLIP, LEARNING_RATE, MOMENTUM = 1.0, 1e-2, 0.9


@dataclasses.dataclass(frozen=True)
class Row:
    """A workload: network, images a step, their side in pixels, classes."""

    network: str
    batch: int
    size: int
    classes: int


ROWS = {
    "resnet18-64": Row("resnet18", 8, 64, 10),
    "densenet121-128": Row("densenet121", 4, 128, 3),
    "densenet121-224": Row("densenet121", 4, 224, 3),
    "compact-32": Row("compact", 128, 32, 10),
}
MODES = ("plain", "selective", "original")


def weights(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
    """The same weights for both sides, by the names and layouts of the PyTorch state dict."""
    drawn = {}
    for name, shape in shapes.items():
        r = np.random.default_rng(zlib.crc32(name.encode()))
        if name.endswith("running_mean") or name.endswith("bias"):
            value = np.zeros(shape)
        elif len(shape) >= 2:
            gain = 2 if len(shape) == 4 else 1
            value = r.standard_normal(shape) * np.sqrt(gain / np.prod(shape[1:]))
        else:
            value = np.ones(shape)
        drawn[name] = value.astype(np.float32)
    return drawn


def data(row: Row) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Images (B, H, W, 3) in [0, 1], masks of the middle, labels."""
    r = np.random.default_rng(0)
    images = r.random((row.batch, row.size, row.size, 3), np.float32)
    mask = np.zeros((row.batch, row.size, row.size, 1), np.float32)
    mask[:, row.size // 4 : -row.size // 4, row.size // 4 : -row.size // 4] = 1
    return images, mask, r.integers(0, row.classes, row.batch)


def jax_side(row: Row, mode: str) -> Callable[[], float]:
    import jax
    import jax.numpy as jnp
    import optax
    from flax import nnx

    from isnet_jax import Classification, ISNetConfig, models
    from isnet_jax.memory import keep_freed_memory
    from isnet_jax.training import compile_step, init_state, make_step, objective

    keep_freed_memory()
    model = models.create(row.network, num_classes=row.classes, rngs=nnx.Rngs(0))
    names = models.torch_names(model)
    order = {4: (3, 2, 0, 1), 2: (1, 0)}
    shapes = {n: np.shape(v[...]) for n, v in names.items()}
    shapes = {n: tuple(s[i] for i in order.get(len(s), range(len(s)))) for n, s in shapes.items()}
    models.load_torch(model, weights(shapes))
    optimiser = optax.chain(
        optax.clip_by_global_norm(CLIP), optax.sgd(LEARNING_RATE, momentum=MOMENTUM)
    )
    config = Classification() if mode == "plain" else ISNetConfig(variant=mode)
    run = compile_step(make_step(model, objective(config), optimiser))
    images, mask, labels = data(row)
    batch = jax.device_put({"image": images, "mask": mask, "label": labels.astype(np.int32)})
    state = [init_state(model, optimiser, jax.random.key(0))]

    def step() -> float:
        state[0], metrics = run(state[0], batch)
        return float(jnp.asarray(metrics["loss"]))

    return step


def torch_side(row: Row, mode: str) -> Callable[[], float]:
    import torch
    import torch_isnet

    one_heap_that_is_kept()
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    model = torch_isnet.create(row.network, row.classes)
    drawn = weights({n: tuple(v.shape) for n, v in model.state_dict().items() if v.ndim})
    model.load_state_dict({n: torch.from_numpy(v) for n, v in drawn.items()}, strict=False)
    model = model.to(memory_format=torch.channels_last)
    images, mask, labels = data(row)
    x = torch.from_numpy(images.transpose(0, 3, 1, 2)).contiguous(memory_format=torch.channels_last)
    m, y = torch.from_numpy(mask.transpose(0, 3, 1, 2).copy()), torch.from_numpy(labels)
    optimiser = torch.optim.SGD(model.parameters(), LEARNING_RATE, momentum=MOMENTUM, foreach=True)

    def step() -> float:
        optimiser.zero_grad(set_to_none=True)
        loss = torch_isnet.loss(model, mode, x, m, y)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        optimiser.step()
        return loss.item()

    return step


SIDES = {"jax": jax_side, "torch": torch_side}


def main(side: str, row: str, mode: str) -> None:
    started = time.perf_counter()
    step = SIDES[side](ROWS[row], mode)
    first = step()
    serve(step, {"loss": first, "first_step": time.perf_counter() - started})


if __name__ == "__main__":
    main(*sys.argv[1:])
