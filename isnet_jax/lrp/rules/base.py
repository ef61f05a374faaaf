"""LRP's rules: each a small pure function beside its formula.

With `x` a layer's input, `w` its weights, `b` its bias (batch norm folded into both),
`c_ij = x_i w_ij` its contributions, `z_j = sum_i c_ij + b_j` its output and `R` relevance; `+` and
`-` are positive and negative parts. The engine carries `G`, where `R = x * G`: ordinary
back-propagation of G is LRP-0, and no rule divides by x. The stabilised `z` is
`z + epsilon * sign(z)` with sign(0) = +1; an `epsilon` that is a function is called with z and
returns the stabilised z. Biases and batch norm's factors are differentiated in the outer pass
unless a rule says otherwise.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.core import Tracer

from isnet_jax.errors import UserError

Stabiliser = float | Callable[[Array], Array]

Apply = Callable[[Array, Array], Array]
"""A layer's operation without its bias: `(x, weight) -> weight x`."""


def stabilise(z: Array, epsilon: Stabiliser) -> Array:
    """`z + epsilon * sign(z)` with sign(0) = +1, or `epsilon(z)`, in float32 or wider."""
    z = z.astype(jnp.promote_types(z.dtype, jnp.float32))
    if callable(epsilon):
        return epsilon(z)
    return jnp.where(z >= 0, z + epsilon, z - epsilon)


@dataclasses.dataclass(frozen=True)
class Layer:
    """A linear layer as a rule sees it, with what follows it up to the activation folded in.

    Attributes:
      x: the layer's input.
      weight: folded weights.
      bias: folded bias, broadcastable to the output.
      z: the output.
      low: the smallest input, broadcastable like x; None where it is zero.
      high: the largest input, likewise.
      inside: 0 where x is padding, else 1; None where it has none.
      nonnegative: x is known to have no negative elements.
    """

    x: Array
    weight: Array
    bias: Array
    z: Array
    low: Array | None = None
    high: Array | None = None
    inside: Array | None = None
    nonnegative: bool = False


jax.tree_util.register_dataclass(
    Layer,
    data_fields=["x", "weight", "bias", "z", "low", "high", "inside"],
    meta_fields=["nonnegative"],
)


def transpose(apply: Apply, x: Array, weight: Array, s: Array) -> Array:
    """`weight^T s`, in the shape of x."""

    def linear(x):
        return apply(x, weight)

    # Not `jax.linear_transpose`, which knows no layers with a derivative of their own.
    z, pull = jax.vjp(linear, x)
    return pull(s.astype(z.dtype))[0]


def contributions(layer: Layer, apply: Apply, sign: int) -> Array:
    """`sum_i c_ij^+` (sign 1) or `sum_i c_ij^-` (sign -1), without the bias."""
    same, other = signed(layer.weight, sign)
    total = apply(layer.x if layer.nonnegative else jnp.maximum(layer.x, 0), same)
    return total if layer.nonnegative else total + apply(jnp.minimum(layer.x, 0), other)


def back(layer: Layer, apply: Apply, sign: int, s: Array) -> Array:
    """`G` with `x_i G_i = sum_j c_ij^+ s_j` (sign 1) or `sum_j c_ij^- s_j` (sign -1)."""
    same, other = signed(layer.weight, sign)
    result = transpose(apply, layer.x, same, s)
    if layer.nonnegative:
        return result
    return jnp.where(layer.x >= 0, result, transpose(apply, layer.x, other, s))


def signed(value: Array, sign: int) -> tuple[Array, Array]:
    positive, negative = jnp.maximum(value, 0), jnp.minimum(value, 0)
    return (positive, negative) if sign > 0 else (negative, positive)


@dataclasses.dataclass(frozen=True)
class Rule:
    """How relevance passes a layer, a sum or an activation."""

    def scale(self, x: Array, y: Array) -> Array | None:
        """The factor on G at an activation `y = f(x)`, or at an output (x = y = z).

        None stands for the plain VJP.
        """
        return None

    def __str__(self) -> str:
        values = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        shown = (f"{name}={value}" for name, value in values.items() if value is not False)
        return f"{type(self).__name__}({', '.join(shown)})"


@dataclasses.dataclass(frozen=True)
class Zero(Rule):
    """LRP-0: `R_i = sum_j c_ij / z_j R_j`, the plain VJP of G.

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
class LayerRule(Rule):
    """A rule for a layer; relevance at its input is proportional to the input's value.

    Attributes:
      constant_bias: biases and batch statistics are constants of the outer gradient.
      folds: the rule needs the folded layer; otherwise its `scale` at the output is enough.
    """

    constant_bias = False
    folds = True

    def propagate(self, layer: Layer, apply: Apply, relevance: Array) -> Array:
        """Relevance at the layer's output to G at its input."""
        raise NotImplementedError


def is_plain(rule: Any) -> bool:
    """Whether the rule leaves the VJP of a layer or sum as it is."""
    return isinstance(rule, Zero | Gradient | Pass)


def check_stabiliser(name: str, epsilon: Stabiliser) -> None:
    if isinstance(epsilon, Tracer):
        raise UserError(
            f"{name}: epsilon is traced, but a rule is compared by value; pass it as a function: "
            "lambda z: lrp.stabilise(z, epsilon)."
        )
    if not callable(epsilon) and not epsilon >= 0:
        raise UserError(
            f"{name}: epsilon is {epsilon}; expected a number of at least 0, or a function that "
            "stabilises z."
        )
