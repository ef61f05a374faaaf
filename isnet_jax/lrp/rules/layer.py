"""Rules for layers; relevance at the input is proportional to the input's value."""

from __future__ import annotations

import dataclasses

import jax.numpy as jnp
from jax import Array

from isnet_jax.errors import UserError
from isnet_jax.lrp.rules.base import (
    Apply,
    Layer,
    LayerRule,
    Pass,
    Stabiliser,
    back,
    check_stabiliser,
    contributions,
    signed,
    stabilise,
    transpose,
)


@dataclasses.dataclass(frozen=True)
class Epsilon(LayerRule):
    """LRP-epsilon: `R_i = sum_j c_ij / (z_j + epsilon * sign z_j) R_j`, sign(0) = +1.

    Given alone (`rules=Epsilon(1e-2)`) it is LRP-Flex, whatever its options: `Flex(epsilon)` at
    every activation, `y / (y + epsilon)` at a ReLU; statistics of norms are constants and all else
    is the plain VJP. `Epsilon(0.0)` given alone is Gradient*Input. For LRP-epsilon at every layer,
    the last one too, see `LayerEpsilon`. At an activation `y = f(x)` of a composite it is the
    identity rule with a stabiliser, `G_in = G * y / (x + epsilon * sign x)`.

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
class Flex(Epsilon):
    """LRP-Flex at an activation `y = f(x)`: the gradient, damped where x is not far above epsilon.

    `G_in = G * f'(x) * x / (x + epsilon * sign x)`, sign(0) = +1; for a ReLU `y / (y + epsilon)`,
    which stands for LRP-epsilon at the layer before it. With epsilon 0 it is the gradient, without
    a step. For a function that `register_rule` or `as_activation` declares an activation it is
    `y / (x + epsilon * sign x)`.

    Source: Bassi et al., IEEE Access 12, 2024, for ReLUs.
    """

    def damping(self, x: Array) -> Array:
        """The factor on the gradient at an activation of x."""
        if self.epsilon == 0:
            return jnp.ones_like(x)
        return (x / stabilise(x, self.epsilon)).astype(x.dtype)


@dataclasses.dataclass(frozen=True)
class LayerEpsilon(Epsilon):
    """LRP-epsilon at every layer, also given alone: the epsilon rule of zennit and others.

    Activations pass relevance, products of two relevant values share it in halves.
    """


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
                    z = z + signed(layer.bias, sign)[0]
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
