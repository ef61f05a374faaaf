"""ISNet's options: what is explained, and how background relevance is punished."""

from __future__ import annotations

import dataclasses
from typing import Literal, get_args

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from isnet_jax import lrp
from isnet_jax.errors import UserError, suggest
from isnet_jax.objective.classification import Classification
from isnet_jax.objective.exchange import Exchange
from isnet_jax.objective.losses import BackgroundNorm, ForegroundLoss

Variant = Literal[
    "selective", "stochastic", "original", "dual", "gradient_input", "softmax_gradient_input"
]
Engine = Literal["flex", "block", "attention"]
BatchStats = Literal["gradient", "constant"]
Bounds = tuple[float, float]

ABLATIONS = ("gradient_input", "softmax_gradient_input")


@dataclasses.dataclass(frozen=True)
class ISNetConfig:
    """What is explained and how background relevance is punished.

    The defaults are the recommended objective; the reference's is selective, with the gradient
    through batch statistics.

    Attributes:
      variant: "selective" explains, for each sample, the log-odds of its least probable class;
        "stochastic" the highest logit or, as often, a random other one; "original" every logit;
        "dual" all logits at once, by LRP-z+ and by LRP-epsilon; "gradient_input" and
        "softmax_gradient_input" are the papers' ablations: input times the plain gradient of
        every logit, or of the highest probability.
      heatmap_weight: P in [0, 1]: the loss is (1 - P) * classification + P * heatmap loss.
      gwrp_decay: d in [0, 1]: 0.9 looks at about ten pixels of a heatmap, 1 at all alike.
      background_scale: E > 0: the ratio of background to foreground at which the loss is log 2.
      foreground_range: (C1, C2), 0 < C1 < C2: the natural range of the foreground's relevance;
        or one pair for the input and each supervised place (for "dual" two for each, z+ first).
        `isnet-jax calibrate` measures it.
      background_weight: w1 >= 0, of the background loss.
      foreground_weight: w2 >= 0, of the foreground loss.
      foreground_loss: beyond the range, "l2" grows quadratically, "hybrid" soon linearly.
      lrp_epsilon: the stabiliser of LRP; 0 is LRP-0, with `engine="flex"` Gradient*Input.
      softmax_epsilon: s of the selective variant's log-odds.
      box_rule: z^B at the first layer, for images in [0, 1], with lrp_epsilon; or another rule for
        that layer. The ablations have none.
      batch_stats: whether the explanation passes through batch norm's statistics in train mode
        ("gradient", the reference's LRP-Flex) or takes them as constants ("constant", LRP as the
        theory has it, and always with other engines than "flex" and with LRP-z+).
      deep_supervision: also supervise relevance at hidden places: True for the model's own
        `supervised_places`, or the names of places marked with `lrp.tap`.
      deep_supervision_decay: decay of GWRP over the places' losses.
      engine: "flex" has LRP-epsilon at the activations, all else is the plain VJP; "block" is
        explicit LRP-epsilon at every layer with batch norm folded in; "attention" is AttnLRP, for
        transformers, with LRP-epsilon at layers and sums.
      background_norm: what relevance is measured by: "absolute", the mean |R| in the mask;
        "signed", the mean R there; "none", by 1 / (C * H * W).
      heatmap_schedule: (step, P) pairs in order: P of training steps, linear in between and
        constant beyond. () is heatmap_weight throughout, which evaluation always has.
      heatmap_fraction: in (0, 1]: the share of each batch that is explained, evenly spread from
        a random start. The step is cheaper and the loss the same in expectation; in train mode
        the explained samples and the others have batch statistics of their own.
      heatmap_chunk: with a heatmap for each class, so many at a time: memory of that many, the
        same result. 0: all at once; None: the faster way, one on CPUs and all at once elsewhere.
      classification: the classification loss.
      exchange: backgrounds exchanged within the batch, by the masks, before all else. With
        heatmap_weight 0 it stands alone: nothing is explained, and a step costs what a plain one
        does.
    """

    variant: Variant = "stochastic"
    heatmap_weight: float = 0.7
    gwrp_decay: float = 0.9
    background_scale: float = 1.0
    foreground_range: Bounds | tuple[Bounds, ...] = (1.0, 25.0)
    background_weight: float = 1.0
    foreground_weight: float = 1.0
    foreground_loss: ForegroundLoss = "l2"
    lrp_epsilon: float = 1e-2
    softmax_epsilon: float = 1e-2
    box_rule: bool | lrp.Rule = True
    batch_stats: BatchStats = "constant"
    deep_supervision: bool | tuple[str, ...] = False
    deep_supervision_decay: float = 0.8
    engine: Engine = "flex"
    background_norm: BackgroundNorm = "absolute"
    heatmap_schedule: tuple[tuple[int, float], ...] = ()
    heatmap_fraction: float = 1.0
    heatmap_chunk: int | None = None
    classification: Classification = dataclasses.field(default_factory=Classification)
    exchange: Exchange = dataclasses.field(default_factory=Exchange)

    def __post_init__(self):
        self._check_words()
        self._check_numbers()
        self._check_schedule()
        for low, high in self._ranges():
            if not 0 < low < high < np.inf:
                raise UserError(
                    f"ISNetConfig: foreground_range holds ({low}, {high}); expected 0 < C1 < C2, "
                    "both finite."
                )
        if self.classification.task == "multilabel" and self.variant in (
            "selective",
            "softmax_gradient_input",
        ):
            raise UserError(
                f'ISNetConfig: variant "{self.variant}" explains a softmax, which a multi-label '
                'head does not have. Use "stochastic", "original" or "dual".'
            )
        if isinstance(self.deep_supervision, str):
            raise UserError(
                f"ISNetConfig: deep_supervision is the text {self.deep_supervision!r}; expected "
                f"True, False or names: ({self.deep_supervision!r},)."
            )
        if self.heatmap_chunk and self.deep_supervision:
            raise UserError(
                "ISNetConfig: heatmap_chunk cannot go with deep_supervision: the places' losses "
                "are ranked over all classes. Leave heatmap_chunk None."
            )

    def _check_words(self) -> None:
        for field, kind in (
            ("variant", Variant),
            ("foreground_loss", ForegroundLoss),
            ("batch_stats", BatchStats),
            ("engine", Engine),
            ("background_norm", BackgroundNorm),
        ):
            value = getattr(self, field)
            if value not in get_args(kind):
                raise UserError("ISNetConfig: " + suggest(str(value), get_args(kind), what=field))

    def _check_numbers(self) -> None:
        for field, low, high in (
            ("heatmap_weight", 0, 1),
            ("gwrp_decay", 0, 1),
            ("background_weight", 0, np.inf),
            ("foreground_weight", 0, np.inf),
            ("lrp_epsilon", 0, np.inf),
            ("softmax_epsilon", 0, np.inf),
            ("deep_supervision_decay", 0, 1),
            ("heatmap_chunk", 0, np.inf),
        ):
            value = getattr(self, field)
            if value is not None and not (low <= value <= high and value < np.inf):
                limits = f"in [{low}, {high}]" if high < np.inf else f"finite, at least {low}"
                raise UserError(f"ISNetConfig: {field} is {value}; expected {limits}.")
        if not 0 < self.background_scale < np.inf:
            raise UserError(
                f"ISNetConfig: background_scale is {self.background_scale}; expected above 0, "
                "finite."
            )
        if not 0 < self.heatmap_fraction <= 1:
            raise UserError(
                f"ISNetConfig: heatmap_fraction is {self.heatmap_fraction}; expected in (0, 1]."
            )

    def _check_schedule(self) -> None:
        steps = [step for step, _ in self.heatmap_schedule]
        if steps != sorted(set(steps)) or any(step < 0 for step in steps):
            raise UserError(
                f"ISNetConfig: heatmap_schedule has the steps {steps}; expected numbers from 0 "
                "that increase."
            )
        for _, weight in self.heatmap_schedule:
            if not 0 <= weight <= 1:
                raise UserError(
                    f"ISNetConfig: heatmap_schedule holds P = {weight}; expected in [0, 1]."
                )

    def _ranges(self) -> tuple[Bounds, ...]:
        pairs = np.asarray(self.foreground_range, float)
        if pairs.ndim not in (1, 2) or pairs.shape[-1] != 2:
            raise UserError(
                f"ISNetConfig: foreground_range is {self.foreground_range}; expected (C1, C2) or "
                "one such pair for the input and each supervised place."
            )
        return tuple((float(low), float(high)) for low, high in pairs.reshape(-1, 2))

    def foreground_ranges(self, places: int) -> tuple[tuple[Bounds, ...], ...]:
        """The (C1, C2) of each map, for the input and each of the other supervised places.

        Args:
          places: the number of places, the input among them.

        Returns:
          For each place one pair, or with "dual" two: of LRP-z+ and of LRP-epsilon.
        """
        pairs, maps = self._ranges(), 2 if self.variant == "dual" else 1
        if len(pairs) == 1:
            return (pairs * maps,) * places
        if len(pairs) != places * maps:
            each = "two for each place" if maps == 2 else "one for each supervised place"
            raise UserError(
                f"ISNetConfig: foreground_range has {len(pairs)} pairs; expected one, or "
                f"{places * maps}: the input's and {each}."
            )
        return tuple(pairs[start : start + maps] for start in range(0, len(pairs), maps))

    @property
    def explains(self) -> bool:
        """Whether heatmaps have a part in the loss."""
        return self.heatmap_weight > 0 or any(weight > 0 for _, weight in self.heatmap_schedule)

    def weight_at(self, step: Array | int | None) -> float | Float[Array, ""]:
        """P at a training step; None: where nothing is trained."""
        if step is None or not self.heatmap_schedule:
            return self.heatmap_weight
        steps, weights = zip(*self.heatmap_schedule, strict=True)
        return jnp.interp(jnp.asarray(step, jnp.float32), jnp.array(steps), jnp.array(weights))

    def composites(self) -> tuple[lrp.Composite, ...]:
        """The LRP that explains the network; "dual" has two."""
        box = lrp.ZBox(0.0, 1.0, self.lrp_epsilon)
        first = box if self.box_rule is True else self.box_rule or None
        if self.variant in ABLATIONS:
            return (lrp.ISNetFlex(0.0, batch_statistics=self.batch_stats),)
        match self.engine:
            case "block":
                epsilon = lrp.ISNetBlock(self.lrp_epsilon, first=first)
            case "attention":
                epsilon = lrp.AttnLRP(self.lrp_epsilon, first)
            case "flex":
                epsilon = lrp.ISNetFlex(self.lrp_epsilon, first, batch_statistics=self.batch_stats)
        if self.variant == "dual":
            return lrp.Composite(layer=lrp.ZPlus(), first=first), epsilon
        return (epsilon,)
