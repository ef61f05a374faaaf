"""The loss of a network that finds the foreground: cross-entropy of pixels, and Dice."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jaxtyping import Array, Float

from isnet_jax.errors import UserError
from isnet_jax.objective.batch import Batch

_OVER = (1, 2, 3)


@dataclasses.dataclass(frozen=True)
class Segmentation:
    """The loss of a segmenter.

    Attributes:
      dice_weight: in [0, 1]: the part of one minus the Dice coefficient (Milletari et al., 3DV
        2016, with probabilities in place of decisions, not squared); the rest is the mean
        cross-entropy of the pixels.
    """

    dice_weight: float = 0.5

    def __post_init__(self):
        if not 0 <= self.dice_weight <= 1:
            raise UserError(f"segmentation: dice_weight is {self.dice_weight}; expected in [0, 1].")


def segmentation_loss(
    model: nnx.Module,
    batch: Mapping[str, Any] | Batch,
    config: Segmentation,
    *,
    axis_name: str | None = None,
) -> tuple[Float[Array, ""], dict[str, Array]]:
    """The mean over the samples that have a mask, and "dice", "iou" and "accuracy" of pixels.

    Args:
      model: images (B, H, W, C) to logits (B, H, W, 1), above 0 on the foreground.
      batch: see `isnet_loss`; labels are not read.
      axis_name: a mapped axis over which the batch is split.
    """
    batch = Batch.of(batch).annotated()
    logits = model(batch.image)  # pyright: ignore[reportCallIssue]
    return pixel_loss(logits, batch, config, axis_name=axis_name)


def pixel_loss(
    logits: Float[Array, "batch height width 1"],
    batch: Batch,
    config: Segmentation,
    *,
    axis_name: str | None = None,
) -> tuple[Float[Array, ""], dict[str, Array]]:
    """`segmentation_loss` of logits that are there.

    Args:
      batch: with masks that fit, see `Batch.annotated`.
    """
    weights, mask = batch.weighted_masks(axis_name)
    logits = logits.astype(jnp.promote_types(logits.dtype, jnp.float32))
    mask = mask.astype(logits.dtype)
    cross = optax.sigmoid_binary_cross_entropy(logits, mask).mean(_OVER)
    share = jax.nn.sigmoid(logits)
    both = (share * mask).sum(_OVER)
    soft_dice = (2 * both + 1) / (share.sum(_OVER) + mask.sum(_OVER) + 1)
    losses = config.dice_weight * (1 - soft_dice) + (1 - config.dice_weight) * cross
    found = logits > 0
    dice, iou = overlap(found, mask > 0.5)
    right = (found == (mask > 0.5)).mean(_OVER)
    means = {"dice": dice, "iou": iou, "accuracy": right}
    loss = (weights * losses).sum()
    return loss, {"logits": logits, **{k: (weights * v).sum() for k, v in means.items()}}


def overlap(found: Any, mask: Any) -> tuple[Any, Any]:
    """Dice coefficient and intersection over union of each sample; 1 where both are empty.

    Args:
      found, mask: (B, H, W, 1) bools, of JAX or NumPy.
    """
    both, either = (found & mask).sum(_OVER), (found | mask).sum(_OVER)
    union = jnp.maximum(either, 1)
    iou = jnp.where(either > 0, both / union, 1.0)
    return 2 * iou / (1 + iou), iou
