"""Rules for products of two relevant values."""

from __future__ import annotations

import dataclasses

from isnet_jax.lrp.rules.base import Rule


@dataclasses.dataclass(frozen=True)
class SignalTakesAll(Rule):
    """At a gated product the signal gets all of the relevance, the gate none.

    Where neither factor is a gate, or both are, each gets half.

    Args:
      gates: what counts as a gate: factors that are such a function, by what they compute, however
        they are spelt: of "sigmoid", "mirrored sigmoid" (1 - sigmoid), "hard_sigmoid", "softplus",
        "exp", "tanh", "relu", "silu".

    Source: Arras et al., Explaining and interpreting LSTMs, LNCS 11700, 2019, section 11.3.
    """

    gates: tuple[str, ...] = ("sigmoid", "mirrored sigmoid", "hard_sigmoid")
