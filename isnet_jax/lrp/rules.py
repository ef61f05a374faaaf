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
      nonnegative: x is known to have no negative elements.
    """

    x: Array
    weight: Array
    bias: Array
    z: Array
    low: Array | None = None
    high: Array | None = None
    nonnegative: bool = False


jax.tree_util.register_dataclass(
    Layer,
    data_fields=["x", "weight", "bias", "z", "low", "high"],
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
    same, other = _signed(layer.weight, sign)
    total = apply(layer.x if layer.nonnegative else jnp.maximum(layer.x, 0), same)
    return total if layer.nonnegative else total + apply(jnp.minimum(layer.x, 0), other)


def back(layer: Layer, apply: Apply, sign: int, s: Array) -> Array:
    """`G` with `x_i G_i = sum_j c_ij^+ s_j` (sign 1) or `sum_j c_ij^- s_j` (sign -1)."""
    same, other = _signed(layer.weight, sign)
    result = transpose(apply, layer.x, same, s)
    if layer.nonnegative:
        return result
    return jnp.where(layer.x >= 0, result, transpose(apply, layer.x, other, s))


def _signed(value: Array, sign: int) -> tuple[Array, Array]:
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


@dataclasses.dataclass(frozen=True)
class Epsilon(LayerRule):
    """LRP-epsilon: `R_i = sum_j c_ij / (z_j + epsilon * sign z_j) R_j`, sign(0) = +1.

    Given alone (`rules=Epsilon(1e-2)`) it is LRP-Flex: every activation `y = f(x)` scales
    `G_in = G * y / (x + epsilon * sign x)`, which for a ReLU is `y / (y + epsilon)`, and all else
    is the plain VJP. `Epsilon(0.0)` given alone is Gradient*Input.

    Args:
      epsilon: stabiliser, at least 0, in units of the layer's output; or a function.
      zero_bias: leave the bias out of z.
      constant_bias: biases and batch statistics are constants of the outer gradient.

    Source: Bach et al., PLOS ONE 10(7), 2015, equation 58; the Flex form: Bassi et al., IEEE
    Access 12, 2024.
    """

    epsilon: Stabiliser = 1e-2
    zero_bias: bool = False
    constant_bias: bool = False

    def __post_init__(self):
        check_stabiliser(type(self).__name__, self.epsilon)

    @property
    def folds(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.zero_bias or self.constant_bias

    def scale(self, x: Array, y: Array) -> Array | None:
        if self.epsilon == 0:
            return Pass().scale(x, y)
        return (y / stabilise(x, self.epsilon)).astype(y.dtype)

    def propagate(self, layer: Layer, apply: Apply, relevance: Array) -> Array:
        z = layer.z - layer.bias if self.zero_bias else layer.z
        return transpose(apply, layer.x, layer.weight, relevance / stabilise(z, self.epsilon))


@dataclasses.dataclass(frozen=True)
class Norm(Epsilon):
    """Shares in proportion to the contributions: LRP-epsilon with a mere stabiliser.

    For sums and average pools.
    """

    epsilon: Stabiliser = 1e-6


@dataclasses.dataclass(frozen=True)
class Gamma(LayerRule):
    """LRP-gamma for inputs of any sign: contributions of the output's own sign count more.

    `R_i = sum_j (c_ij + gamma c_ij^s) / (z_j + gamma z_j^s) R_j`, where s is the sign of z_j,
    `z_j^+ = sum_i c_ij^+ + b_j^+` and `z_j^- = sum_i c_ij^- + b_j^-`. Where inputs and output
    are positive this is the weights `w + gamma w+`.

    Args:
      gamma: 0 is LRP-epsilon.
      epsilon: stabiliser.
      zero_bias: leave the bias out of the denominators.

    Source: Montavon et al., Layer-wise relevance propagation: an overview, 2019; generalised:
    Andéol et al., Learning domain invariant representations by joint Wasserstein distance
    minimization, 2021.
    """

    gamma: float = 0.25
    epsilon: Stabiliser = 1e-6
    zero_bias: bool = False

    def __post_init__(self):
        check_stabiliser(type(self).__name__, self.epsilon)

    def propagate(self, layer: Layer, apply: Apply, relevance: Array) -> Array:
        z, positive = layer.z, contributions(layer, apply, 1)
        if self.zero_bias:
            z = z - layer.bias
        else:
            positive = positive + jnp.maximum(layer.bias, 0)
        above = layer.z >= 0
        modified = z + self.gamma * jnp.where(above, positive, z - positive)
        s = relevance / stabilise(modified, self.epsilon)
        same = back(layer, apply, 1, jnp.where(above, s, 0))
        same = same + back(layer, apply, -1, jnp.where(above, 0, s))
        return transpose(apply, layer.x, layer.weight, s) + self.gamma * same


@dataclasses.dataclass(frozen=True)
class AlphaBeta(LayerRule):
    """LRP-alpha-beta: `R_i = sum_j (alpha c_ij^+ / z_j^+ - beta c_ij^- / z_j^-) R_j`.

    `z_j^+ = sum_i c_ij^+ + b_j^+` and `z_j^- = sum_i c_ij^- + b_j^-`, for inputs of any sign.

    Args:
      alpha, beta: at least 0, with alpha - beta = 1.
      epsilon: stabiliser.
      zero_bias: leave the bias out of the denominators.

    Source: Bach et al., PLOS ONE 10(7), 2015, equation 60.
    """

    alpha: float = 2.0
    beta: float = 1.0
    epsilon: Stabiliser = 1e-6
    zero_bias: bool = False

    def __post_init__(self):
        check_stabiliser(type(self).__name__, self.epsilon)
        if self.alpha < 0 or self.beta < 0 or abs(self.alpha - self.beta - 1) > 1e-6:
            raise UserError(
                f"{type(self).__name__}: alpha is {self.alpha} and beta is {self.beta}; expected "
                "numbers of at least 0 with alpha - beta = 1."
            )

    def propagate(self, layer: Layer, apply: Apply, relevance: Array) -> Array:
        result = jnp.zeros_like(layer.x)
        for sign, share in ((1, self.alpha), (-1, -self.beta)):
            if share:
                z = contributions(layer, apply, sign)
                if not self.zero_bias:
                    z = z + _signed(layer.bias, sign)[0]
                # A negative sum that is zero keeps the negative parts' sign.
                s = relevance / (sign * stabilise(sign * z, self.epsilon))
                result = result + share * back(layer, apply, sign, s)
        return result


@dataclasses.dataclass(frozen=True)
class ZPlus(AlphaBeta):
    """z+: `R_i = sum_j c_ij^+ / z_j^+ R_j`, AlphaBeta(1, 0).

    Source: Montavon et al., Pattern Recognition 65, 2017, table 1 (for inputs of any sign).
    """

    alpha: float = dataclasses.field(default=1.0, init=False)
    beta: float = dataclasses.field(default=0.0, init=False)


@dataclasses.dataclass(frozen=True)
class BackwardRule(Rule):
    """Another backward pass for ReLUs; all other activations keep the plain VJP."""

    def backward(self, y: Array, g: Array) -> Array:
        """The gradient at the ReLU's input, from the one at its output y."""
        raise NotImplementedError


@dataclasses.dataclass(frozen=True)
class Guided(BackwardRule):
    """Guided back-propagation: `G_in = max(G, 0)` where the ReLU's input is positive, else 0.

    Source: Springenberg et al., ICLR workshop 2015 (arXiv 1412.6806).
    """

    def backward(self, y: Array, g: Array) -> Array:
        return jnp.where(y > 0, jnp.maximum(g, 0), 0)


@dataclasses.dataclass(frozen=True)
class Deconvolution(BackwardRule):
    """Deconvnet: `G_in = max(G, 0)`, whatever the ReLU's input.

    Source: Zeiler and Fergus, ECCV 2014 (arXiv 1311.2901).
    """

    def backward(self, y: Array, g: Array) -> Array:
        return jnp.maximum(g, 0)


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
