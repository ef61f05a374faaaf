"""RRR where it is worst: the gradient by the background, at backgrounds that raise it most."""

from __future__ import annotations

import dataclasses
from typing import ClassVar, Literal, get_args

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax
from jaxtyping import Array, Float

from isnet_jax.errors import UserError, suggest
from isnet_jax.methods.gradients import Images
from isnet_jax.methods.method import Context, LossAndAux, Method
from isnet_jax.objective.batch import Batch
from isnet_jax.objective.classification import classified, each_loss
from isnet_jax.objective.loss import pure_forward

Norm = Literal["sum", "max"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class R4(Method):
    """Ghitu, Piratla and Wicker, Transactions on Machine Learning Research, 9/2025, by an attack.

    `classification + weight * mean_n |(1 - mask_n) * dl_n(x'_n)/dx|`, l_n the sample's
    classification loss and x'_n the image whose background was changed by at most `radius` to make
    this gradient large: so many steps of sign ascent on its squared norm, as in the authors' code,
    within [0, 1]. The attack is a constant of the gradient.

    Attributes:
      weight: of the gradients, at least 0.
      radius: of the change of each background pixel, in (0, 1].
      steps: of the attack, at least 1; the authors take 10. Each costs as much as two of RRR.
      norm: "sum" of the absolute gradients over pixels and channels, or their "max", the worst
        pixel alone.
    """

    name: ClassVar[str] = "r4"

    weight: float = 1.0
    radius: float = 0.1
    steps: int = 3
    norm: Norm = "sum"

    def __post_init__(self):
        if not 0 <= self.weight < float("inf"):
            raise UserError(f"r4: weight is {self.weight}; expected finite, at least 0.")
        if not 0 < self.radius <= 1:
            raise UserError(f"r4: radius is {self.radius}; expected above 0, at most 1.")
        if self.steps < 1:
            raise UserError(f"r4: steps is {self.steps}; expected at least 1.")
        if self.norm not in get_args(Norm):
            raise UserError("r4: " + suggest(self.norm, get_args(Norm), what="norm"))

    def loss(self, model: nnx.Module, batch: Batch, context: Context) -> LossAndAux:
        batch = batch.annotated()
        weights, mask = batch.weighted_masks(context.axis_name)
        forward = pure_forward(model)
        logits = model(batch.image)  # pyright: ignore[reportCallIssue]

        def outside(image: Images) -> Images:
            def total(image):
                return each_loss(forward(image)[0], batch.label, self.classification).sum()

            return jax.grad(total)(image) * (1 - mask)

        attacked = lax.stop_gradient(self._attacked(batch.image, mask, outside))
        reasons = weights @ self._norm(outside(attacked)).astype(weights.dtype)
        right = classified(logits, batch, self.classification, context.axis_name)
        loss = right + self.weight * reasons
        return loss, {"logits": logits, "classification": right, "reasons": reasons}

    def _attacked(self, image: Images, mask: Array, outside) -> Images:
        raise_by = jax.grad(lambda changed: (outside(changed) ** 2).sum())

        def step(_: int, changed: Images) -> Images:
            moved = changed + self.radius * (1 - mask) * jnp.sign(raise_by(changed))
            near = image + jnp.clip(moved - image, -self.radius, self.radius)
            return jnp.clip(near, 0, 1)

        return lax.fori_loop(0, self.steps, step, image)

    def _norm(self, gradient: Images) -> Float[Array, " batch"]:
        size = jnp.abs(gradient).reshape(len(gradient), -1)
        return size.sum(1) if self.norm == "sum" else lax.top_k(size, 1)[0][:, 0]
