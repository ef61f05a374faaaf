"""What a foreign network is, and the parts of hand-written ones."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


@dataclasses.dataclass(frozen=True)
class Made:
    """A network with its parameters and an input.

    Attributes:
      apply: (parameters, x) -> logits (2, classes).
      parameters: a pytree of float64 arrays, batch statistics included.
      x: (2, ...), from -1 to 1.
    """

    apply: Callable[[Any, jax.Array], jax.Array]
    parameters: Any
    x: jax.Array


@dataclasses.dataclass(frozen=True)
class Network:
    """A row of the page.

    Attributes:
      name: what it is.
      library: who wrote it: "by hand" or a package of PyPI.
      make: builds it; ImportError if its library is not installed.
      conserves: AttnLRP conserves relevance if the biases are zero: there is no softmax and no
        constant beside the input, such as the 1 of `1 - gate`.
      written_in: AttnLRP can be written into the network from outside, see `measuring`: no two
        values that depend on the input meet in a product (gates, attention), no batch statistics.
    """

    name: str
    library: str
    make: Callable[[], Made]
    conserves: bool
    written_in: bool


NETWORKS: dict[str, Network] = {}


def network(
    name: str, library: str = "by hand", *, conserves: bool = True, written_in: bool = True
):
    """Register what the decorated function makes."""

    def register(make: Callable[[], Made]) -> Callable[[], Made]:
        NETWORKS[name] = Network(name, library, make, conserves, written_in)
        return make

    return register


def drawn(*shape: int, seed: int = 0) -> jax.Array:
    """An input from -1 to 1."""
    return jnp.asarray(np.random.default_rng(seed).uniform(-1, 1, shape))


class Draw:
    """Random parameters: `draw(3, 3, 4, 8)` by fan-in, `draw.bias(8)`, `draw.scale(8)`."""

    def __init__(self, seed: int = 0):
        self._rng = np.random.default_rng(seed)

    def __call__(self, *shape: int) -> jax.Array:
        fan_in = np.prod(shape[:-1])
        return jnp.asarray(self._rng.normal(size=shape) * np.sqrt(1.5 / fan_in))

    def bias(self, *shape: int) -> jax.Array:
        return jnp.asarray(self._rng.normal(size=shape) * 0.2)

    def scale(self, *shape: int) -> jax.Array:
        return jnp.asarray(self._rng.uniform(0.7, 1.3, size=shape))


def last_name(path: tuple[Any, ...]) -> str:
    """The innermost name on a pytree's path."""
    keys = [getattr(key, "key", getattr(key, "name", None)) for key in path]
    return next((key for key in reversed(keys) if isinstance(key, str) and key != "value"), "")


def shaken(parameters: Any, seed: int = 0) -> Any:
    """A library's initial values in float64: no bias is 0, no scale 1, no variance 1."""
    rng = np.random.default_rng(seed)

    def shake(path, leaf):
        leaf = np.asarray(leaf, np.float64)
        if leaf.size > 1 and np.ptp(leaf) > 0:
            return jnp.asarray(leaf)
        if leaf.size and leaf.flat[0] == 0:
            return jnp.asarray(leaf + rng.normal(size=leaf.shape) * 0.2)
        return jnp.asarray(leaf * rng.uniform(0.7, 1.3, leaf.shape))

    return jax.tree_util.tree_map_with_path(shake, parameters)


def without_biases(parameters: Any) -> Any:
    """All that adds a constant to the network set to 0: biases, shifts, batch means."""
    ends = ("bias", "beta", "offset", "mean", "mean_ema", "average")

    def zero(path, leaf):
        name = last_name(path)
        return leaf * 0 if name == "b" or name.endswith(ends) else leaf

    return jax.tree_util.tree_map_with_path(zero, parameters)
