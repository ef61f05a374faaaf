"""Other backward passes for ReLUs: no relevance, a modified gradient."""

from __future__ import annotations

import dataclasses

import jax.numpy as jnp
from jax import Array

from isnet_jax.lrp.rules.base import Rule


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
