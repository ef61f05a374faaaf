"""The authors' reference values and the networks they belong to (tests/golden, see its README)."""

from __future__ import annotations

import dataclasses
import json
import zlib
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from isnet_jax import ISNetConfig, models

FOLDER = Path(__file__).parent / "golden"


@dataclasses.dataclass(frozen=True)
class Golden:
    config: dict[str, Any]
    arrays: dict[str, np.ndarray]

    @property
    def gradient_names(self) -> list[str]:
        return [str(name) for name in self.arrays["grad_names"]]

    def isnet_config(self, **changes: Any) -> ISNetConfig:
        c = self.config
        values = {
            "variant": c["mode"],
            "heatmap_weight": c["P"],
            "gwrp_decay": c["d"],
            "background_scale": c["E"],
            "foreground_range": (c["C1"], c["C2"]),
            "background_weight": c["w1"],
            "foreground_weight": c["w2"],
            "foreground_loss": c["foreground"].lower(),
            "lrp_epsilon": c.get("e", 1e-2),
            "softmax_epsilon": c.get("selectiveEps", 1e-2),
            "box_rule": c["zb"],
            "batch_stats": "gradient",
            "deep_supervision": c["deep_supervision"],
            "deep_supervision_decay": c.get("dLoss", 0.8),
        }
        return ISNetConfig(**(values | changes))

    def model(self) -> nnx.Module:
        """The network with the reference's weights, in float64."""
        arch = self.config["arch"]
        options = {"transition_relu": True} if arch.startswith("densenet") else {}
        model = models.create(arch, num_classes=self.config["classes"], rngs=nnx.Rngs(0), **options)
        models.load_torch(model, drawn_weights(model, self.config["seed"]))
        if self.config["bn"] == "eval":
            model.eval()
        else:
            model.train()
        return model

    def batch(self) -> dict[str, jax.Array]:
        return drawn_batch(*(self.config[key] for key in ("seed", "batch", "size", "classes")))


def load(name: str) -> Golden:
    with np.load(FOLDER / f"{name}.npz") as file:
        arrays = {key: file[key] for key in file.files}
    return Golden(json.loads(str(arrays.pop("config"))), arrays)


def drawn_weights(model: nnx.Module, seed: int) -> dict[str, np.ndarray]:
    """The golden README's weights for each name of the state dict, as float64."""
    drawn = {}
    for name, variable in models.torch_names(model).items():
        shape = np.shape(variable[...])
        shape = {4: lambda s: (s[3], s[2], s[0], s[1]), 2: lambda s: (s[1], s[0])}.get(
            len(shape), lambda s: s
        )(shape)
        r = np.random.default_rng([seed, zlib.crc32(name.encode())])
        if name.endswith("running_var"):
            value = r.uniform(0.5, 1.5, shape)
        elif name.endswith(("running_mean", "bias")):
            value = 0.1 * r.standard_normal(shape)
        elif len(shape) >= 2:
            gain = 2 if len(shape) == 4 else 1
            value = r.standard_normal(shape) * np.sqrt(gain / np.prod(shape[1:]))
        else:
            value = r.uniform(0.3, 0.7, shape)
        drawn[name] = value.astype(np.float32).astype(np.float64)
    return drawn


def drawn_batch(seed: int, batch: int, size: int, classes: int) -> dict[str, jax.Array]:
    r = np.random.default_rng([seed, 7])
    x = r.random((batch, 3, size, size)).astype(np.float32)
    y = r.integers(0, classes, batch)
    mask = np.zeros((batch, size, size, 1))
    for sample in mask:
        top, left = r.integers(0, size // 2, 2)
        height, width = r.integers(size // 4, size // 2 + 1, 2)
        sample[top : top + height, left : left + width] = 1
    return {
        "image": jnp.asarray(x.transpose(0, 2, 3, 1), jnp.float64),
        "mask": jnp.asarray(mask, jnp.float64),
        "label": jnp.asarray(y, jnp.int32),
    }
