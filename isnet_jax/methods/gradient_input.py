"""The ISNet papers' ablation: input times plain gradient in place of LRP."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

from isnet_jax.errors import UserError
from isnet_jax.methods.isnet import ISNet
from isnet_jax.objective.config import ABLATIONS, ISNetConfig


@dataclasses.dataclass(frozen=True, kw_only=True)
class GradientInput(ISNet):
    """An ISNet whose heatmaps are Gradient*Input: Bassi et al., Nature Communications 15:291, 2024.

    Attributes:
      objective: as of an ISNet, with the variant gradient_input, which explains every logit, or
        softmax_gradient_input, which explains the highest probability.
    """

    name: ClassVar[str] = "gradient-input"

    objective: ISNetConfig = dataclasses.field(
        default_factory=lambda: ISNetConfig(variant="gradient_input")
    )

    def __post_init__(self):
        super().__post_init__()
        if self.objective.variant not in ABLATIONS:
            raise UserError(
                f"gradient-input: objective.variant is {self.objective.variant}; expected "
                f"{' or '.join(ABLATIONS)}. For the others leave --method out."
            )
