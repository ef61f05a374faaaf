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
from typing import Any

import numpy as np
from workers import one_heap_that_is_kept, serve

CLIP, LEARNING_RATE, MOMENTUM = 1.0, 1e-2, 0.9


@dataclasses.dataclass(frozen=True)
class Row:
    """A workload: network, images a step, their side in pixels, classes; the network's options."""

    network: str
    batch: int
    size: int
    classes: int
    options: tuple[tuple[str, Any], ...] = ()


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


def jax_model(row: Row, options: Mapping[str, Any] | None = None) -> Any:
    """The network with the shared weights, as NumPy arrays.

    Args:
      options: of `models.create`, besides the row's.
    """
    import jax
    from flax import nnx

    from isnet_jax import models

    given = dict(row.options) | dict(options or {})
    # Without values: drawing them one by one compiles a program for each shape.
    model: Any = nnx.eval_shape(
        lambda: models.create(row.network, num_classes=row.classes, rngs=nnx.Rngs(0), **given)
    )
    order = {4: (3, 2, 0, 1), 2: (1, 0)}
    shapes = {name: v.get_value().shape for name, v in models.torch_names(model).items()}
    shapes = {n: tuple(s[i] for i in order.get(len(s), range(len(s)))) for n, s in shapes.items()}
    with jax.default_device(jax.devices("cpu")[0]):
        models.load_torch(model, weights(shapes))
    graph, state = nnx.split(model)
    return nnx.merge(graph, jax.tree.map(np.asarray, state))


def jax_training(
    row: Row, mode: str, *, options: Mapping[str, Any] | None = None, flat: bool = False
) -> tuple[Callable[..., Any], Any, dict[str, Any]]:
    """The step, the state before the first one and the batch, as NumPy arrays.

    Args:
      mode: of `MODES`; or "quarter", Selective for a quarter of the batch.
      options: of `models.create`, besides the row's.
      flat: the optimiser sees one vector.
    """
    import jax
    import jax.numpy as jnp
    import optax
    from flax import nnx

    from isnet_jax import Classification, ISNetConfig
    from isnet_jax.training import TrainState, build_step, loss_function

    model = jax_model(row, options)
    _, parameters, rest = nnx.split(model, nnx.Param, ...)
    optimiser = optax.chain(
        optax.clip_by_global_norm(CLIP), optax.sgd(LEARNING_RATE, momentum=MOMENTUM)
    )
    if flat:
        optimiser = optax.flatten(optimiser)
    if mode == "plain":
        config = Classification()
    elif mode == "quarter":
        config = ISNetConfig(variant="selective", batch_stats="gradient", heatmap_fraction=0.25)
    else:
        config = ISNetConfig(variant=mode, batch_stats="gradient")  # pyright: ignore[reportArgumentType]
    step = build_step(model, loss_function(config), optimiser)
    started = jax.jit(optimiser.init)(parameters)
    state = TrainState(jnp.zeros((), jnp.int32), jax.random.key(0), parameters, rest, started)
    images, mask, labels = data(row)
    return step, state, {"image": images, "mask": mask, "label": labels.astype(np.int32)}


def jax_side(row: Row, mode: str) -> Callable[[], float]:
    import jax

    from isnet_jax.memory import keep_freed_memory
    from isnet_jax.training import compile_step

    keep_freed_memory()
    step, first, batch = jax_training(row, mode)
    run = compile_step(step)
    # Copies: arrays made from NumPy's may share its memory, and these are donated.
    state, batch = [jax.tree.map(jax.numpy.copy, first)], jax.device_put(batch)

    def call() -> float:
        state[0], metrics = run(state[0], batch)
        return float(metrics["loss"])

    return call


def torch_training(
    row: Row,
    mode: str,
    *,
    device: str = "cpu",
    explained: bool = True,
    autocast: bool = False,
    compiled: bool = False,
) -> Callable[[], Any]:
    """A step that returns its loss, a tensor on the device.

    Args:
      explained: the network is ready for LRP; otherwise it is torchvision's own.
      autocast: to bfloat16.
      compiled: forward and backward pass by `torch.compile`.
    """
    import torch
    import torch_isnet

    model = torch_isnet.create(row.network, row.classes, explained=explained, **dict(row.options))
    drawn = weights({n: tuple(v.shape) for n, v in model.state_dict().items() if v.ndim})
    model.load_state_dict({n: torch.from_numpy(v) for n, v in drawn.items()}, strict=False)
    model = model.to(device, memory_format=torch.channels_last)
    images, mask, labels = data(row)
    x = torch.from_numpy(images.transpose(0, 3, 1, 2)).to(device)
    x = x.contiguous(memory_format=torch.channels_last)
    m = torch.from_numpy(mask.transpose(0, 3, 1, 2).copy()).to(device)
    y = torch.from_numpy(labels).to(device)
    optimiser = torch.optim.SGD(model.parameters(), LEARNING_RATE, momentum=MOMENTUM, foreach=True)
    network = torch.compile(model) if compiled else model

    def step() -> torch.Tensor:
        optimiser.zero_grad(set_to_none=True)
        with torch.autocast(device, torch.bfloat16, enabled=autocast):
            loss = torch_isnet.loss(network, mode, x, m, y)  # pyright: ignore[reportArgumentType]
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        optimiser.step()
        return loss.detach()

    return step


def torch_side(row: Row, mode: str) -> Callable[[], float]:
    import torch

    one_heap_that_is_kept()
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    step = torch_training(row, mode)
    return lambda: step().item()


SIDES = {"jax": jax_side, "torch": torch_side}


def main(side: str, row: str, mode: str) -> None:
    started = time.perf_counter()
    step = SIDES[side](ROWS[row], mode)
    first = step()
    serve(step, {"loss": first, "first_step": time.perf_counter() - started})


if __name__ == "__main__":
    main(*sys.argv[1:])
