"""Optimisers as data."""

from __future__ import annotations

import dataclasses
import math
from typing import Literal, get_args

import optax

from isnet_jax.errors import UserError, suggest

OptimiserName = Literal["adam", "sgd"]


@dataclasses.dataclass(frozen=True)
class OptimiserConfig:
    """Gradient clipping, then Adam or SGD, with linear warm-up and cosine decay.

    Attributes:
      name: which optimiser.
      learning_rate: its peak, reached after the warm-up; above 0.
      final_fraction: the last step's share of the peak, in [0, 1].
      warmup_fraction: share of all steps in which the learning rate rises from 0, in [0, 1).
      momentum: of SGD; beta1 of Adam; in [0, 1).
      weight_decay: at least 0; decoupled: each update also takes learning rate * weight_decay of
        the parameters, which neither momentum nor Adam's scale see (Loshchilov and Hutter, ICLR
        2019: SGDW, AdamW).
      clip_norm: the gradient's largest global norm; 0 for no clipping.
      average: decay, in [0, 1), of an exponential mean of weights and statistics, such as 0.999,
        which is validated and kept in their place; it follows faster in the first steps. 0: none.
    """

    name: OptimiserName = "adam"
    learning_rate: float = 1e-2
    final_fraction: float = 0.01
    warmup_fraction: float = 0.05
    momentum: float = 0.9
    weight_decay: float = 0.0
    clip_norm: float = 1.0
    average: float = 0.0

    def __post_init__(self):
        if self.name not in get_args(OptimiserName):
            raise UserError("optimiser: " + suggest(self.name, get_args(OptimiserName)))
        for field, low, high in (
            ("final_fraction", 0, 1),
            ("warmup_fraction", 0, 0.999),
            ("momentum", 0, 0.9999),
            ("weight_decay", 0, math.inf),
            ("clip_norm", 0, math.inf),
            ("average", 0, 0.999999),
        ):
            value = getattr(self, field)
            if not (low <= value <= high and value < math.inf):
                limits = f"{low} to {high}" if high < math.inf else f"{low} or more, finite"
                raise UserError(f"optimiser: {field} is {value}; expected {limits}.")
        if not 0 < self.learning_rate < math.inf:
            raise UserError(
                f"optimiser: learning_rate is {self.learning_rate}; expected above 0, finite."
            )

    def warmup_steps(self, steps: int) -> int:
        """In how many of a training's steps the learning rate rises."""
        return max(1, round(self.warmup_fraction * steps))

    def make(self, steps: int) -> optax.GradientTransformation:
        """The transformation for a training of this many steps."""
        schedule = optax.warmup_cosine_decay_schedule(
            init_value=0.0 if self.warmup_fraction else self.learning_rate,
            peak_value=self.learning_rate,
            warmup_steps=self.warmup_steps(steps),
            decay_steps=max(2, steps),
            end_value=self.final_fraction * self.learning_rate,
        )
        clip = optax.clip_by_global_norm(self.clip_norm) if self.clip_norm else optax.identity()
        if self.name == "adam":
            rule = optax.adamw(schedule, b1=self.momentum, weight_decay=self.weight_decay)
        elif self.weight_decay:
            rule = optax.chain(
                optax.trace(self.momentum),
                optax.add_decayed_weights(self.weight_decay),
                optax.scale_by_learning_rate(schedule),
            )
        else:
            # In second place, as checkpoints of earlier versions have it.
            rule = optax.chain(optax.identity(), optax.sgd(schedule, momentum=self.momentum))
        return optax.chain(clip, rule)
