"""The small network with drawn weights, its batch, and value and gradient of `isnet_loss` on it."""

from __future__ import annotations

import functools
from typing import Any

import golden_values
import jax
from flax import nnx
from helpers import of_parameters

from isnet_jax import ISNetConfig, isnet_loss, lrp, models

CLASSES = 4
KEY = 5


@functools.cache
def drawn_small() -> nnx.Module:
    model = models.create("small", num_classes=CLASSES, rngs=nnx.Rngs(0))
    models.load_torch(model, golden_values.drawn_weights(model, 3))
    return model


def small(train: bool) -> nnx.Module:
    model = nnx.clone(drawn_small())
    (model.train if train else model.eval)()
    return model


def batch_of(size: int = 8) -> dict[str, jax.Array]:
    return golden_values.drawn_batch(2, 3, size, CLASSES)


def compiled(loss: Any) -> Any:
    """A loss of model, batch and config, which would take seconds op by op."""
    return nnx.jit(loss, static_argnums=2)


def stepper(config: ISNetConfig, train: bool) -> tuple[Any, Any]:
    """Value and gradient of isnet_loss on `small`, and the parameters."""
    model, batch = small(train), batch_of()
    loss, parameters = of_parameters(
        model, lambda model: isnet_loss(model, batch, config, rng=jax.random.key(KEY))
    )
    return jax.jit(jax.value_and_grad(loss, has_aux=True)), parameters


def without_aux(step: Any) -> Any:
    def run(parameters):
        (value, _), gradient = step(parameters)
        return value, gradient

    return run


# Without z^B the loss has no constants that the gradient passes over. The foreground's range is
# such that samples fall below C1, between, and beyond C2.
BASE = ISNetConfig(
    box_rule=False,
    foreground_range=(0.3, 0.4),
    gwrp_decay=0.95,
    variant="selective",
    batch_stats="gradient",
)


class Tapped(nnx.Module):
    """Two convolutions and a marked place."""

    supervised_places = ("middle",)

    def __init__(self, rngs: nnx.Rngs, **changes: Any):
        options: dict[str, Any] = {"param_dtype": float, "rngs": rngs, **changes}
        self.first = nnx.Conv(3, 4, (3, 3), **options)
        self.second = nnx.Conv(4, 5, (3, 3), strides=2, **options)
        self.head = nnx.Linear(5, CLASSES, **options)

    def __call__(self, x):
        x = lrp.tap(nnx.relu(self.first(x)), "middle")
        x = lrp.tap(nnx.relu(self.second(x)), "end")
        return self.head(x.mean((1, 2)))
