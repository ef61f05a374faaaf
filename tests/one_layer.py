"""A network of one dense layer, whose gradients are written down by hand in float64."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from helpers import of_parameters

from isnet_jax.methods import Context, Method
from isnet_jax.objective.batch import Batch

SAMPLES, SIDE, CLASSES = 5, 4, 3
RNG = np.random.default_rng(0)
KERNEL = RNG.normal(size=(SIDE * SIDE * 3, CLASSES))
IMAGE = RNG.uniform(size=(SAMPLES, SIDE, SIDE, 3))
MASK = (RNG.uniform(size=(SAMPLES, SIDE, SIDE, 1)) > 0.5).astype(float)
LABEL = np.arange(SAMPLES) % CLASSES
CONTEXT = Context(jax.random.key(0))


class Line(nnx.Module):
    def __init__(self):
        self.kernel = nnx.Param(jnp.asarray(KERNEL))

    def __call__(self, x):
        return x.reshape(len(x), -1) @ self.kernel[...]


def batch(**more: Any) -> Batch:
    image, mask, label = map(jnp.asarray, (IMAGE, MASK, LABEL))
    return Batch(image, label, mask, **more)


def probabilities(kernel: np.ndarray = KERNEL, image: np.ndarray = IMAGE) -> np.ndarray:
    logits = image.reshape(SAMPLES, -1) @ kernel
    powers = np.exp(logits - logits.max(1, keepdims=True))
    return powers / powers.sum(1, keepdims=True)


def cross_entropies(kernel: np.ndarray = KERNEL) -> np.ndarray:
    return -np.log(probabilities(kernel)[np.arange(SAMPLES), LABEL])


def outside() -> np.ndarray:
    """1 on the background, for each value of an image: (samples, values)."""
    return np.broadcast_to(1 - MASK, IMAGE.shape).reshape(SAMPLES, -1)


def loss_and_slope(method: Method, direction: np.ndarray, **more: Any) -> tuple[float, float]:
    """A method's loss at KERNEL, and its derivative along a direction of kernels."""
    loss, parameters = of_parameters(
        Line(), lambda model: method.loss(model, batch(**more), CONTEXT)
    )
    (value, _), gradient = jax.value_and_grad(loss, has_aux=True)(parameters)
    (kernel,) = jax.tree.leaves(gradient)
    return float(value), float((np.asarray(kernel) * direction).sum())
