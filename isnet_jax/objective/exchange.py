"""Backgrounds exchanged between the images of a batch: what decides by them learns nothing."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Shaped

from isnet_jax.errors import UserError
from isnet_jax.objective.batch import Batch


@dataclasses.dataclass(frozen=True)
class Exchange:
    """Which training images get the background of another image in the batch.

    Attributes:
      probability: share of the images whose background is exchanged, in [0, 1]; 0 leaves all as
        they are. A background that is always another image's tells nothing about the class.
      max_shrink: the part of an image that stays is its mask, shrunk by a random number of pixels
        from 0 to this: for masks that are wider than the object, whose rim would go with it.
      consistency: above 0, images are classified both as they are and exchanged, and this times
        the mean squared difference of their logits is added to the loss. A step costs twice.
      unexchanged: with consistency, the share of the classification loss that is of the images as
        they are, in [0, 1]. At 0 they are only asked for the logits they have when exchanged, and
        their own backgrounds, which may give the class away, have no label to answer for: what
        `isnet-jax train` does.
    """

    probability: float = 0.0
    max_shrink: int = 0
    consistency: float = 0.0
    unexchanged: float = 0.5

    def __post_init__(self):
        limits_of = {
            "probability": 1,
            "max_shrink": np.inf,
            "consistency": np.inf,
            "unexchanged": 1,
        }
        for field, high in limits_of.items():
            value = getattr(self, field)
            if not (0 <= value <= high and value < np.inf):
                limits = "in [0, 1]" if high == 1 else "finite, at least 0"
                raise UserError(f"Exchange: {field} is {value}; expected {limits}.")
        if self.consistency and not self.probability:
            raise UserError(
                f"Exchange: consistency is {self.consistency}, but no background is exchanged. "
                "Set probability to 1."
            )


def exchanged(batch: Mapping[str, Any] | Batch, config: Exchange, rng: Array) -> Batch:
    """The batch with backgrounds exchanged.

    Each image keeps what its mask shows; the rest comes from another image of the batch, drawn
    uniformly, whose own foreground is filled in by `filled_background`. Samples without a
    mask (see `isnet_jax.isnet_loss`) stay as they are, and give no background.

    Args:
      batch: random choices go by its numbers.
      rng: a JAX key.
    """
    batch = Batch.of(batch)
    image, mask = batch.image, batch.mask.astype(batch.image.dtype)
    there = jnp.ones(len(batch), bool) if batch.has_mask is None else batch.has_mask.astype(bool)
    choice_key, donor_key, shrink_key = jax.random.split(rng, 3)
    numbers = batch.numbers(None)
    draws = jax.vmap(lambda n: jax.random.uniform(jax.random.fold_in(choice_key, n)))(numbers)
    chosen = (draws < config.probability) & there & (there.sum() > 1)
    kept = shrunk(mask, config.max_shrink, shrink_key, numbers) if config.max_shrink else mask
    donor = filled_background(image, mask)[_donors(there, numbers, donor_key)]
    composed = image * kept + donor * (1 - kept)
    shown = jnp.where(chosen[:, None, None, None], composed, image)
    return dataclasses.replace(batch, image=shown)


def filled_background(
    image: Float[Array, "batch h w c"], mask: Float[Array, "batch h w 1"]
) -> Float[Array, "batch h w c"]:
    """The image without its object, which no silhouette shows.

    The foreground shows the background half a picture away, down and to the right, and where that
    is foreground too the mean colour of the background.
    """
    outside = 1 - mask
    count = jnp.maximum(outside.sum((1, 2), keepdims=True), 1)
    mean = (image * outside).sum((1, 2), keepdims=True) / count
    half = (image.shape[1] // 2, image.shape[2] // 2)
    far, far_outside = (jnp.roll(a, half, (1, 2)) for a in (image, outside))
    return image * outside + mask * (far * far_outside + mean * (1 - far_outside))


def shrunk(
    mask: Shaped[Array, "batch h w 1"], most: int, rng: Array, numbers: Shaped[Array, " batch"]
) -> Shaped[Array, "batch h w 1"]:
    """Masks without a rim of 0 to `most` pixels, drawn for each sample, but never empty."""

    def draw(number: Array) -> Array:
        return jax.random.randint(jax.random.fold_in(rng, number), (), 0, most + 1)

    wanted = jax.vmap(draw)(numbers)[:, None, None, None]

    def shrink_once(turn: Array, mask: Array) -> Array:
        # What is outside of the picture counts as foreground: objects may be cut off by its edge.
        smaller = lax.reduce_window(mask, jnp.inf, lax.min, (1, 3, 3, 1), (1, 1, 1, 1), "SAME")
        usable = smaller.any((1, 2, 3), keepdims=True) & (turn < wanted)
        return jnp.where(usable, smaller, mask)

    # What is left after as many turns as the longer side has pixels stays.
    return lax.fori_loop(0, min(most, max(mask.shape[1:3])), shrink_once, mask)


def _donors(there: Array, numbers: Array, rng: Array) -> Array:
    """For each sample the index of another one that has a mask."""
    count = len(there)

    def draw(index: Array, number: Array) -> Array:
        gumbel = jax.random.gumbel(jax.random.fold_in(rng, number), (count,))
        return jnp.argmax(jnp.where(there & (jnp.arange(count) != index), gumbel, -jnp.inf))

    return jax.vmap(draw)(jnp.arange(count), numbers)


def both_views(batch: Mapping[str, Any] | Batch, config: Exchange, rng: Array) -> Batch:
    """The batch as it is, and behind it the same samples with backgrounds exchanged."""
    one = dataclasses.replace(Batch.of(batch), whole=None)
    other = exchanged(one, config, rng)
    joined = jax.tree.map(lambda *views: jnp.concatenate(views), one, other)
    return dataclasses.replace(joined, whole=Batch.of(batch).whole)


def disagreement(logits: Float[Array, "twice_batch classes"]) -> Float[Array, ""]:
    """Mean squared difference between the logits of the two views of `both_views`."""
    one, other = jnp.split(logits, 2)
    return ((one - other) ** 2).mean()
