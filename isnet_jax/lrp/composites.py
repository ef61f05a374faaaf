"""Which rule goes where: composites by kind of site, name and place."""

from __future__ import annotations

import dataclasses
from typing import Literal

from isnet_jax.errors import UserError
from isnet_jax.lrp.rules import Epsilon, Gradient, Pass, Rule, Zero

Treatment = Literal["constant", "gradient"]


@dataclasses.dataclass(frozen=True)
class Composite:
    """An assignment of rules to the sites of a network.

    Attributes:
      layer: at layers (convolution, dense), batch norm and bias folded in.
      activation: at elementwise nonlinearities. The stabiliser of an activation stands for the
        layer before it: where that layer has a rule of its own, the activation passes.
      first: at the layers that read the input; None: like any layer.
      names: (pattern, rule) pairs in the order they are tried, before all else; patterns are
        those of `fnmatch` on the names that `inspect` shows. A pattern that matches nothing is an
        error.
      product: at products of two relevant values: `Zero()` gives half of the relevance to each,
        `Gradient()` is the plain VJP (twice the relevance leaves the product).
      batch_statistics: mean and variance of batch norm in train mode: "constant", LRP as the
        theory has it, or "gradient", the plain VJP through them (samples are coupled).
      norm_statistics: the scale of layer, group and RMS norms, likewise.
    """

    layer: Rule = Zero()
    activation: Rule = Pass()
    first: Rule | None = None
    names: tuple[tuple[str, Rule], ...] = ()
    product: Rule = Zero()
    batch_statistics: Treatment = "constant"
    norm_statistics: Treatment = "constant"

    def __post_init__(self):
        for field in ("batch_statistics", "norm_statistics"):
            value = getattr(self, field)
            if value not in ("constant", "gradient"):
                raise UserError(
                    f'Composite: {field} is {value!r}; expected "constant" or "gradient".'
                )


GRADIENT_INPUT = Composite(
    layer=Gradient(),
    activation=Gradient(),
    product=Gradient(),
    batch_statistics="gradient",
    norm_statistics="gradient",
)


def as_composite(rules: Rule | Composite) -> Composite:
    """A single rule as a composite.

    `Epsilon(e)` is LRP-Flex (the stabiliser at the activations), `Epsilon(0.0)` and `Gradient()`
    are Gradient*Input, any other rule goes to every layer.
    """
    if isinstance(rules, Composite):
        return rules
    if rules == Epsilon(0.0) or isinstance(rules, Gradient):
        return GRADIENT_INPUT
    if isinstance(rules, Epsilon):
        return Composite(activation=rules)
    if isinstance(rules, Rule):
        return Composite(layer=rules)
    raise UserError(
        f"rules is a {type(rules).__name__}; expected a rule such as lrp.Epsilon(1e-2) or a "
        "composite such as lrp.ISNetFlex()."
    )


def ISNetFlex(  # noqa: N802
    epsilon: float = 1e-2,
    first: Rule | None = None,
    batch_statistics: Treatment = "gradient",
) -> Composite:
    """LRP-Flex, the Faster ISNet's LRP: `y / (y + epsilon)` at every ReLU, all else plain.

    Args:
      epsilon: stabiliser; 0 makes every activation and product the plain VJP.
      first: rule of the layers that read the input, such as `ZBox(0.0, 1.0)`.
      batch_statistics: see `Composite`.

    Source: Bassi, Decherchi, Cavalli, IEEE Access 12, 2024.
    """
    if epsilon == 0:
        return dataclasses.replace(
            GRADIENT_INPUT, first=first, batch_statistics=batch_statistics
        )
    return Composite(
        activation=Epsilon(epsilon), first=first, batch_statistics=batch_statistics
    )
