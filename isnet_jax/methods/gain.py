"""Guided attention inference: Grad-CAM shall be the mask, and nothing beside it may tell."""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax
from jaxtyping import Array, Float

from isnet_jax.errors import UserError
from isnet_jax.methods.maps import network_with_maps, resized, stretched
from isnet_jax.methods.method import Blueprint, Context, LossAndAux, Method
from isnet_jax.models.network import Network
from isnet_jax.objective.batch import Batch
from isnet_jax.objective.classification import classified
from isnet_jax.objective.loss import pure_forward

_STEEPNESS, _THRESHOLD = 10.0, 0.5


@dataclasses.dataclass(frozen=True, kw_only=True)
class GAIN(Method):
    """Extended GAIN: Li, Wu, Peng, Ernst and Fu, CVPR 2018, section 3.

    `classification + mining_weight * mean_n p_n + mask_weight * mean_n mean |A_n - mask_n|^2`.
    A_n is Grad-CAM of the true class at the network's last maps: the ReLU of the maps' sum with the
    weights `mean over places of d logit / d map`, at the image's size, stretched from 0 to 1 in
    each image, which the paper leaves open. p_n is the probability of the true class for the image
    without what is attended, `image * (1 - sigmoid(10 * (A_n - 0.5)))`; running statistics are
    those of whole images alone. The mean over masks is that over the samples that have one.

    Attributes:
      mining_weight: at least 0.
      mask_weight: at least 0.
      constant_weights: Grad-CAM's weights of channels are constants of the outer gradient, as in
        the authors' code; else the loss is of second order.
    """

    name: ClassVar[str] = "gain"

    mining_weight: float = 1.0
    mask_weight: float = 10.0
    constant_weights: bool = True

    def __post_init__(self):
        for field in ("mining_weight", "mask_weight"):
            if not 0 <= getattr(self, field) < float("inf"):
                raise UserError(
                    f"gain: {field} is {getattr(self, field)}; expected finite, at least 0."
                )
        if self.classification.task == "multilabel":
            raise UserError(
                "gain looks at the one true class; expected no multi-label data. Choose another "
                "method, such as ham."
            )

    def network(self, blueprint: Blueprint) -> nnx.Module:
        return network_with_maps(self.name, blueprint.classifier())

    def loss(self, model: nnx.Module, batch: Batch, context: Context) -> LossAndAux:
        batch = batch.annotated()
        network = network_with_maps(self.name, model)
        weights, mask = batch.weighted_masks(context.axis_name)
        logits, attention = self._explained(network, batch)
        erased = batch.image * (1 - jax.nn.sigmoid(_STEEPNESS * (attention - _THRESHOLD)))
        chances = jax.nn.softmax(pure_forward(model)(erased.astype(batch.image.dtype))[0])
        mining = (chances * jax.nn.one_hot(batch.label, chances.shape[1])).sum(1).mean()
        guided = weights @ ((attention - mask) ** 2).mean((1, 2, 3)).astype(weights.dtype)
        right = classified(logits, batch, self.classification, context.axis_name)
        loss = right + self.mining_weight * mining + self.mask_weight * guided
        parts = {"classification": right, "mining": mining, "guided": guided}
        return loss, {"logits": logits, **parts}

    def _explained(
        self, network: Network, batch: Batch
    ) -> tuple[Float[Array, "batch classes"], Float[Array, "batch height width 1"]]:
        """Logits, and Grad-CAM of the true class in [0, 1]."""
        maps = network.maps(network.prepared(batch.image))
        decide = pure_forward(network, _decided)
        logits, pullback, changed = jax.vjp(decide, maps, has_aux=True)
        nnx.update(network, changed)
        (slope,) = pullback(jax.nn.one_hot(batch.label, logits.shape[1], dtype=logits.dtype))
        channels = slope.mean((1, 2))
        if self.constant_weights:
            channels = lax.stop_gradient(channels)
        attention = nnx.relu(jnp.einsum("bhwf,bf->bhw", maps, channels))
        attention = attention.astype(jnp.promote_types(attention.dtype, jnp.float32))
        return logits, stretched(resized(attention, batch.image.shape[1:3]))[..., None]


def _decided(network: Any, maps: Array) -> Array:
    return network.decided(network.pooled(maps))
