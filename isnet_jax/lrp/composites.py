"""Which rule goes where: composites by kind of site, name and place."""

from __future__ import annotations

import dataclasses
from typing import Literal

from isnet_jax.errors import UserError
from isnet_jax.lrp.rules import (
    AlphaBeta,
    Deconvolution,
    Epsilon,
    Flat,
    Flex,
    Gamma,
    Gradient,
    Guided,
    LayerRule,
    Level,
    Norm,
    Pass,
    RelevanceRule,
    Rule,
    SignalTakesAll,
    Stabiliser,
    ZBox,
    Zero,
    ZPlus,
)

_ZERO, _PASS = Zero(), Pass()
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
        `SignalTakesAll()` all to what a gate multiplies, `Gradient()` is the plain VJP (twice the
        relevance leaves the product).
      batch_statistics: mean and variance of batch norm in train mode: "constant", LRP as the
        theory has it, or "gradient", the plain VJP through them (samples are coupled).
      norm_statistics: the scale of layer, group and RMS norms, likewise.
      softmax: attention weights where they multiply values: "gradient", a product like any other,
        or "constant", all of the relevance goes to the values.
      convolution: at convolutions; None: like any layer. A product with a kernel that was stored
        with four or more axes counts as one.
      dense: at dense layers; None: like any layer.
      sum: at sums of two relevant values (residual connections); `Zero()` is the plain VJP.
      average: at averages and average pools, likewise.
      times_input: what the pullback returns: relevance, or G itself, the (modified) gradient.
    """

    layer: Rule = _ZERO
    activation: Rule = _PASS
    first: Rule | None = None
    names: tuple[tuple[str, Rule], ...] = ()
    product: Rule = _ZERO
    batch_statistics: Treatment = "constant"
    norm_statistics: Treatment = "constant"
    softmax: Treatment = "gradient"
    convolution: Rule | None = None
    dense: Rule | None = None
    sum: Rule = _ZERO
    average: Rule = _ZERO
    times_input: bool = True

    def __post_init__(self):
        for field in ("batch_statistics", "norm_statistics", "softmax"):
            value = getattr(self, field)
            if value not in ("constant", "gradient"):
                raise UserError(
                    f'Composite: {field} is {value!r}; expected "constant" or "gradient".'
                )
        if not isinstance(self.product, Zero | Gradient | SignalTakesAll):
            raise UserError(
                f"Composite: product is {self.product}; expected Zero(), Gradient() or "
                "SignalTakesAll()."
            )
        for field in ("sum", "average", "activation"):
            rule = getattr(self, field)
            folded = isinstance(rule, LayerRule) and rule.folds
            if field == "activation" and type(rule) in (Epsilon, Flex):
                folded = False  # its options concern the layer before the activation
            if folded or isinstance(rule, RelevanceRule):
                raise UserError(
                    f"Composite: {rule} is a rule for layers, not for {field}; use Norm() or "
                    "Epsilon(e) there."
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

    `Epsilon(e)` is LRP-Flex (the stabiliser at the activations, products by their plain VJP),
    whatever its options; `Epsilon(0.0)` and `Gradient()` are Gradient*Input; any other rule, such
    as `LayerEpsilon(e)`, goes to every layer.
    """
    if isinstance(rules, Composite):
        return rules
    if rules == Epsilon(0.0) or isinstance(rules, Gradient):
        return GRADIENT_INPUT
    if type(rules) is Epsilon:
        activation = Flex(rules.epsilon, rules.zero_bias, rules.constant_bias)
        return Composite(activation=activation, product=Gradient())
    if isinstance(rules, Guided | Deconvolution):
        return dataclasses.replace(GRADIENT_INPUT, activation=rules, times_input=False)
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
      epsilon: stabiliser; 0 makes every activation the plain VJP, too.
      first: rule of the layers that read the input, such as `ZBox(0.0, 1.0)`.
      batch_statistics: see `Composite`.

    Source: Bassi, Decherchi, Cavalli, IEEE Access 12, 2024.
    """
    if epsilon == 0:
        return dataclasses.replace(GRADIENT_INPUT, first=first, batch_statistics=batch_statistics)
    return Composite(
        activation=Flex(epsilon),
        first=first,
        product=Gradient(),
        batch_statistics=batch_statistics,
    )


def ISNetBlock(epsilon: float = 1e-2, first: Rule | None = None) -> Composite:  # noqa: N802
    """The LRP Block, the first ISNet's LRP: explicit LRP-epsilon at every layer.

    Batch norm is folded into its convolution, biases and batch statistics are constants of the
    outer gradient, sums and average pools have the same epsilon, max pools give all to the
    winner, activations pass. A batch norm that does not follow a layer is LRP-0.

    Args:
      epsilon: stabiliser of layers, sums and averages, each in units of its own output; 0 is
        LRP-0, the plain VJP of G, which divides by nothing.
      first: rule of the layers that read the input, such as `ZBox(0.0, 1.0)`.

    Source: Bassi, Dertkigil, Cavalli, Nature Communications 15:291, 2024.
    """
    if epsilon == 0:
        return Composite(first=first)
    return Composite(
        layer=Epsilon(epsilon, constant_bias=True),
        first=first,
        sum=Epsilon(epsilon),
        average=Epsilon(epsilon),
    )


def _presets(
    convolution: Rule, epsilon: Stabiliser, zero_bias: bool, first: Rule | None = None
) -> Composite:
    return Composite(
        convolution=convolution,
        dense=Epsilon(epsilon, zero_bias),
        first=first,
        sum=Norm(),
        average=Norm(),
    )


def EpsilonPlus(epsilon: Stabiliser = 1e-6, zero_bias: bool = False) -> Composite:  # noqa: N802
    """z+ at convolutions, LRP-epsilon at dense layers.

    Args:
      epsilon: stabiliser of the dense layers.
      zero_bias: leave biases out of all denominators.

    Source: Kohlbrenner et al., IJCNN 2020 (arXiv 1910.09840).
    """
    return _presets(ZPlus(zero_bias=zero_bias), epsilon, zero_bias)


def EpsilonPlusFlat(epsilon: Stabiliser = 1e-6, zero_bias: bool = False) -> Composite:  # noqa: N802
    """`EpsilonPlus` with equal shares at the layers that read the input.

    Source: Lapuschkin et al., Nature Communications 10:1096, 2019.
    """
    return _presets(ZPlus(zero_bias=zero_bias), epsilon, zero_bias, Flat())


def EpsilonAlpha2Beta1(  # noqa: N802
    epsilon: Stabiliser = 1e-6, zero_bias: bool = False
) -> Composite:
    """LRP-alpha2-beta1 at convolutions, LRP-epsilon at dense layers.

    Args and source: as for `EpsilonPlus`.
    """
    return _presets(AlphaBeta(2.0, 1.0, zero_bias=zero_bias), epsilon, zero_bias)


def EpsilonAlpha2Beta1Flat(  # noqa: N802
    epsilon: Stabiliser = 1e-6, zero_bias: bool = False
) -> Composite:
    """`EpsilonAlpha2Beta1` with equal shares at the layers that read the input."""
    return _presets(AlphaBeta(2.0, 1.0, zero_bias=zero_bias), epsilon, zero_bias, Flat())


def EpsilonGammaBox(  # noqa: N802
    low: Level,
    high: Level,
    epsilon: Stabiliser = 1e-6,
    gamma: float = 0.25,
    zero_bias: bool = False,
) -> Composite:
    """z^B at the layers that read the input, gamma at convolutions, epsilon at dense layers.

    Args:
      low, high: the range of the model's input; numbers, or tuples of them, one a channel.
      epsilon, gamma: of the rules.
      zero_bias: leave biases out of all denominators. z^B's always leaves them out.

    Source: Montavon et al., Layer-wise relevance propagation: an overview, 2019.
    """
    box = ZBox(low, high, epsilon=1e-6, zero_bias=True)
    return _presets(Gamma(gamma, zero_bias=zero_bias), epsilon, zero_bias, box)


def ExcitationBackprop() -> Composite:  # noqa: N802
    """z+ without biases at every layer: marginal winning probabilities.

    Source: Zhang et al., Top-down neural attention by excitation backprop, IJCV 126, 2018.
    """
    return Composite(layer=ZPlus(zero_bias=True), sum=Norm(), average=Norm())


def GuidedBackprop() -> Composite:  # noqa: N802
    """Guided back-propagation; returns the modified gradient, not relevance.

    Source: Springenberg et al., ICLR workshop 2015.
    """
    return as_composite(Guided())


def Deconvnet() -> Composite:  # noqa: N802
    """The deconvnet's backward pass; returns the modified gradient, not relevance.

    Source: Zeiler and Fergus, ECCV 2014.
    """
    return as_composite(Deconvolution())


def AttnLRP(epsilon: Stabiliser = 0.0, first: Rule | None = None) -> Composite:  # noqa: N802
    """LRP for transformers.

    Elementwise nonlinearities pass relevance (identity rule), products of two relevant values give
    half to each, the scale of norms is a constant, softmax has its plain VJP.

    Args:
      epsilon: stabiliser of layers and sums; 0 is LRP-0, the plain VJP of G.
      first: rule of the layers that read the input, such as the patch embedding.

    Source: Achtibat et al., AttnLRP, ICML 2024 (arXiv 2402.05602).
    """
    rule = Zero() if epsilon == 0 else Epsilon(epsilon)
    return Composite(layer=rule, sum=rule, first=first)


def CPLRP(epsilon: Stabiliser = 0.0, first: Rule | None = None) -> Composite:  # noqa: N802
    """Conservative propagation: `AttnLRP` with attention weights as constants.

    Args: as for `AttnLRP`.

    Source: Ali et al., XAI for transformers, ICML 2022 (arXiv 2202.07304).
    """
    return dataclasses.replace(AttnLRP(epsilon, first), softmax="constant")


def GatedLRP(epsilon: Stabiliser = 0.0, first: Rule | None = None) -> Composite:  # noqa: N802
    """LRP for recurrent networks with gates: the signal takes all, gates get nothing.

    Args: as for `AttnLRP`.

    Source: Arras et al., Explaining and interpreting LSTMs, LNCS 11700, 2019.
    """
    return dataclasses.replace(AttnLRP(epsilon, first), product=SignalTakesAll())


def MambaLRP(epsilon: Stabiliser = 0.0, first: Rule | None = None) -> Composite:  # noqa: N802
    """LRP for selective state-space models.

    The step size (softplus) and the decay (an exponential) of the recurrence are constants, an
    output gate shares in halves, SiLU passes relevance, norms' scales are constants. The input and
    output matrices B and C that are computed from the input look like any other value: write
    `lrp.mark(B, "constant")` to leave them out as well.

    Args: as for `AttnLRP`.

    Source: Jafari et al., MambaLRP, NeurIPS 2024 (arXiv 2406.07592).
    """
    rule = SignalTakesAll(("softplus", "exp"))
    return dataclasses.replace(AttnLRP(epsilon, first), product=rule)
