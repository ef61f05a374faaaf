"""Rules whose relevance is not proportional to the layer's input: z^B, w^2 and flat.

The notation is that of `rules.base`.
"""

from __future__ import annotations

import dataclasses

import jax.numpy as jnp
import numpy as np
from jax import Array

from isnet_jax.errors import UserError
from isnet_jax.lrp.rules.base import (
    Apply,
    Layer,
    Rule,
    Stabiliser,
    check_stabiliser,
    stabilise,
    transpose,
)

Level = float | tuple[float, ...]


@dataclasses.dataclass(frozen=True)
class RelevanceRule(Rule):
    """A rule for a layer; relevance at its input is not proportional to the input's value.

    Meant for first layers. At deeper ones the relevance itself, not G, is carried on to the next
    layer or sum, which divides by its own stabilised output.
    """

    constant_bias = False
    low = high = None

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
      low, high: the range of the model's input (at deeper layers: of the layer's); low < high;
        numbers, or tuples of them along the last axis.
      epsilon: stabiliser, at least 0, or a function.
      zero_bias: leave the bias out of z.

    Source: Montavon et al., Pattern Recognition 65, 2017, table 1; Bassi et al., 2024.
    """

    low: Level = 0.0
    high: Level = 1.0
    epsilon: Stabiliser = 1e-2
    zero_bias: bool = False
    constant_bias = True

    def __post_init__(self):
        check_stabiliser(type(self).__name__, self.epsilon)
        if not np.all(np.asarray(self.low) < np.asarray(self.high)):
            raise UserError(
                f"ZBox: low is {self.low} and high is {self.high}; expected low < high, the range "
                "of the model's input."
            )
        if (np.ndim(self.low) or np.ndim(self.high)) and not self.zero_bias:
            raise UserError(
                "ZBox: with low and high of several numbers the bias has no level of its own; "
                "pass zero_bias=True, or put the normalisation into the model and use 0 and 1."
            )

    def redistribute(self, layer: Layer, apply: Apply, relevance: Array) -> Array:
        sides: list[tuple[Array, Array]] = []
        z = layer.z - layer.bias if self.zero_bias else layer.z
        for bound, level, part in (
            (layer.low, self.low, jnp.maximum),
            (layer.high, self.high, jnp.minimum),
        ):
            if bound is not None:
                weight = part(layer.weight, 0)
                z = z - apply(bound, weight)
                if not self.zero_bias:
                    assert not isinstance(level, tuple)
                    z = z - level * part(layer.bias, 0)
                sides.append((bound, weight))
        s = (relevance / stabilise(z, self.epsilon)).astype(layer.x.dtype)
        result = layer.x * transpose(apply, layer.x, layer.weight, s)
        for bound, weight in sides:
            result = result - bound * transpose(apply, layer.x, weight, s)
        return result


@dataclasses.dataclass(frozen=True)
class WSquare(RelevanceRule):
    """w^2: `R_i = sum_j w_ij^2 / (sum_i w_ij^2 + b_j^2) R_j`, whatever the input.

    Args:
      epsilon: stabiliser.
      zero_bias: leave the bias out of the denominator.

    Source: Montavon et al., Pattern Recognition 65, 2017, table 1.
    """

    epsilon: Stabiliser = 1e-6
    zero_bias: bool = False

    def __post_init__(self):
        check_stabiliser(type(self).__name__, self.epsilon)

    def redistribute(self, layer: Layer, apply: Apply, relevance: Array) -> Array:
        weight = layer.weight**2
        z = apply(_ones(layer), weight)
        if not self.zero_bias:
            z = z + layer.bias**2
        return transpose(apply, layer.x, weight, relevance / stabilise(z, self.epsilon))


@dataclasses.dataclass(frozen=True)
class Flat(RelevanceRule):
    """Equal shares for all inputs of an output: w^2 with all weights 1 and no bias.

    Args:
      epsilon: stabiliser.

    Source: Lapuschkin et al., Nature Communications 10:1096, 2019.
    """

    epsilon: Stabiliser = 1e-6

    def __post_init__(self):
        check_stabiliser(type(self).__name__, self.epsilon)

    def redistribute(self, layer: Layer, apply: Apply, relevance: Array) -> Array:
        weight = jnp.ones_like(layer.weight)
        z = apply(_ones(layer), weight)
        return transpose(apply, layer.x, weight, relevance / stabilise(z, self.epsilon))


def _ones(layer: Layer) -> Array:
    """One for each input that can have a share, however the padding is written."""
    ones = jnp.ones_like(layer.x)
    return ones if layer.inside is None else ones * layer.inside
