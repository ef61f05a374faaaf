"""LRP's rules: each a small pure function beside its formula.

With `x` a layer's input, `w` its weights, `b` its bias (batch norm folded into both),
`z = w x + b` its output and `R` relevance. The engine carries `G`, where `R = activation * G`:
ordinary back-propagation of G is LRP-0.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from isnet_jax.errors import UserError


def stabilise(z: Array, epsilon: float) -> Array:
    """`z + epsilon * sign(z)` with sign(0) = +1, in float32 or wider."""
    z = z.astype(jnp.promote_types(z.dtype, jnp.float32))
    return jnp.where(z >= 0, z + epsilon, z - epsilon)


@dataclasses.dataclass(frozen=True)
class Layer:
    """A linear layer as a rule sees it, with what follows it up to the activation folded in.

    Attributes:
      x: the layer's input.
      weight: folded weights.
      bias: folded bias, broadcastable to the output; a constant of the outer gradient.
      z: the output from the folded weights.
      low: the smallest input, broadcastable like x; None where it is zero.
      high: the largest input, likewise.
    """

    x: Array
    weight: Array
    bias: Array
    z: Array
    low: Array | None
    high: Array | None


Apply = Callable[[Array, Array], Array]
"""A layer's operation without its bias: `(x, weight) -> weight x`."""


def transpose(apply: Apply, x: Array, weight: Array, s: Array) -> Array:
    """`weight^T s`, in the shape of x."""
    (result,) = jax.linear_transpose(lambda x: apply(x, weight), x)(s)
    return result


@dataclasses.dataclass(frozen=True)
class Rule:
    """How relevance passes a layer or an activation."""

    def scale(self, x: Array, y: Array) -> Array | None:
        """The factor on G at an activation `y = f(x)`, or at a layer's output (x = y = z).

        None stands for the plain VJP.
        """
        return None


@dataclasses.dataclass(frozen=True)
class Zero(Rule):
    """LRP-0 at a layer: `R_in = x * w^T (R / z)`, the plain VJP of G.

    Source: Bach et al., PLOS ONE 10(7), 2015, equation 56 with epsilon 0.
    """


@dataclasses.dataclass(frozen=True)
class Gradient(Rule):
    """The plain VJP, at activations and products too: relevance is input times gradient."""


@dataclasses.dataclass(frozen=True)
class Pass(Rule):
    """The identity rule at an activation: `R_in = R`, so `G_in = G * f(x) / x` (0 where x = 0).

    Source: Ali et al., ICML 2022; Achtibat et al., ICML 2024 (AttnLRP), equation 9.
    """

    def scale(self, x: Array, y: Array) -> Array:
        safe = jnp.where(x == 0, 1, x)
        return jnp.where(x == 0, 0, y / safe)


@dataclasses.dataclass(frozen=True)
class Epsilon(Rule):
    """LRP-epsilon: `R_in = x * w^T (R / (z + epsilon * sign z))`, sign(0) = +1.

    Given alone (`rules=Epsilon(1e-2)`) it is LRP-Flex: every activation `y = f(x)` scales
    `G_in = G * y / (x + epsilon * sign x)`, which for a ReLU is `y / (y + epsilon)`, and all else
    is the plain VJP. `Epsilon(0.0)` given alone is Gradient*Input.

    Args:
      epsilon: stabiliser, at least 0, in units of the layer's output.

    Source: Bach et al., PLOS ONE 10(7), 2015, equation 58; the Flex form: Bassi et al., IEEE
    Access 12, 2024.
    """

    epsilon: float = 1e-2

    def __post_init__(self):
        if not self.epsilon >= 0:
            raise UserError(f"Epsilon: epsilon is {self.epsilon}; expected a number of at least 0.")

    def scale(self, x: Array, y: Array) -> Array | None:
        if self.epsilon == 0:
            return Pass().scale(x, y)
        return (y / stabilise(x, self.epsilon)).astype(y.dtype)


@dataclasses.dataclass(frozen=True)
class RelevanceRule(Rule):
    """A rule for a first layer whose relevance is not proportional to the input's value.

    Args:
      low, high: the range of the model's input.
    """

    low: float = 0.0
    high: float = 1.0

    def redistribute(self, layer: Layer, apply: Apply, relevance: Array) -> Array:
        """Relevance at the layer's output to relevance at its input."""
        raise NotImplementedError


@dataclasses.dataclass(frozen=True)
class ZBox(RelevanceRule):
    """z^B for the first layer, whose inputs lie in a box (pixels).

    With w+ and w- the positive and negative parts,
    `z = w x + b - low (w+ 1 + b+) - high (w- 1 + b-)`, `s = R / (z + epsilon * sign z)` and
    `R_in = x * w^T s - low * w+^T s - high * w-^T s`.

    The biases and the batch statistics are constants of the outer gradient, as in the
    reference.

    Args:
      low, high: the range of the model's input; low < high.
      epsilon: stabiliser, at least 0.

    Source: Montavon et al., Pattern Recognition 65, 2017, table 1; Bassi et al., 2024.
    """

    epsilon: float = 1e-2

    def __post_init__(self):
        if not self.low < self.high:
            raise UserError(
                f"ZBox: low is {self.low} and high is {self.high}; expected low < high, the range "
                "of the model's input."
            )

    def redistribute(self, layer: Layer, apply: Apply, relevance: Array) -> Array:
        sides: list[tuple[Array, Array]] = []
        z = layer.z
        for bound, level, part in (
            (layer.low, self.low, jnp.maximum),
            (layer.high, self.high, jnp.minimum),
        ):
            if bound is not None:
                weight = part(layer.weight, 0)
                z = z - apply(bound, weight) - level * part(layer.bias, 0)
                sides.append((bound, weight))
        s = (relevance / stabilise(z, self.epsilon)).astype(layer.x.dtype)
        result = layer.x * transpose(apply, layer.x, layer.weight, s)
        for bound, weight in sides:
            result = result - bound * transpose(apply, layer.x, weight, s)
        return result


def is_plain(rule: Any) -> bool:
    """Whether the rule leaves a layer's VJP as it is."""
    return isinstance(rule, Zero | Gradient | Pass)
