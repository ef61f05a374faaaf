"""Where a classifier's relevance lies: on the object, or on the background."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from isnet_jax import lrp
from isnet_jax.evaluation.predict import in_chunks
from isnet_jax.models.network import in_mode

# One LRP for every network that is judged, whatever it was trained with.
JUDGE = lrp.ISNetFlex(1e-2, first=lrp.ZBox(0.0, 1.0), batch_statistics="constant")


class Explained(NamedTuple):
    """For N images: logits (N, classes), the explained classes (N,), relevance like the images."""

    logits: Any
    targets: Any
    relevance: Any


def explain_classes(
    model: nnx.Module,
    images: Float[np.ndarray, "n h w c"],
    *,
    target: int | None = None,
    rules: lrp.Composite | lrp.Rule = JUDGE,
    batch_size: int = 100,
    on_chunk: Callable[[Explained], None] = lambda found: None,
) -> Explained:
    """Relevance of each image for one logit, in eval mode.

    Args:
      target: the class to explain; None: each image's highest logit.
      on_chunk: given what was found for each batch.
    """
    graph, state = nnx.split(in_mode(model, training=False))

    def run(chunk: Array) -> Explained:
        return _explain(graph, state, chunk, target, rules)

    return in_chunks(run, (images,), batch_size, on_chunk)


def highest_logit_relevance(
    model: nnx.Module, images: Float[np.ndarray, "n h w c"], *, batch_size: int = 100
) -> Float[np.ndarray, "n h w c"]:
    """Relevance of each image for its highest logit: LRP-epsilon with z^B, in eval mode."""
    return explain_classes(model, images, batch_size=batch_size).relevance


@functools.partial(jax.jit, static_argnums=(0, 3, 4))
def _explain(
    graph: nnx.GraphDef,
    state: nnx.State,
    images: Array,
    target: int | None,
    rules: lrp.Composite | lrp.Rule,
) -> Explained:
    logits, pullback = lrp.vjp(nnx.merge(graph, state), images, rules=rules)
    predicted = jnp.argmax(logits, 1)
    targets = predicted if target is None else jnp.full_like(predicted, target)
    seed = jax.nn.one_hot(targets, logits.shape[1], dtype=logits.dtype)
    return Explained(logits, targets, pullback(seed))


def background_share(
    relevance: Float[np.ndarray, "n h w c"], masks: Float[np.ndarray, "n h w 1"]
) -> float:
    """Mean over samples of the share of |relevance| outside the mask, in [0, 1]."""
    return float(background_shares(relevance, masks).mean())


def background_shares(
    relevance: Float[np.ndarray, "n h w c"], masks: Float[np.ndarray, "n h w 1"]
) -> Float[np.ndarray, " n"]:
    """Of each sample the share of |relevance| outside the mask, in [0, 1]; 0 without relevance."""
    return (relevance_shares(relevance) * (masks[..., 0] < 0.5)).sum((1, 2))


def relevance_shares(relevance: Float[np.ndarray, "n h w c"]) -> Float[np.ndarray, "n h w"]:
    """The share of a sample's |relevance| at each place, 1 in all; 0 without relevance."""
    magnitude = np.abs(relevance.astype(np.float64)).sum(-1)
    total = magnitude.sum((1, 2), keepdims=True)
    return magnitude / np.where(total > 0, total, 1)


def relevance_mass(
    relevance: Float[np.ndarray, "n h w c"], masks: Float[np.ndarray, "n h w 1"]
) -> Float[np.ndarray, " n"]:
    """Of each sample the share of positive relevance on the object, in [0, 1].

    Relevance mass accuracy (Arras, Osman and Samek, Information Fusion 81:14, 2022), with channels
    summed and negative pixels left out. NaN without positive relevance or without an object.
    """
    positive = np.maximum(relevance.astype(np.float64).sum(3, keepdims=True), 0)
    total, objects = positive.sum((1, 2, 3)), masks >= 0.5
    known = (total > 0) & objects.any((1, 2, 3))
    inside = (positive * objects).sum((1, 2, 3))
    return np.where(known, inside / np.where(total > 0, total, 1), np.nan)


def relevance_rank(
    relevance: Float[np.ndarray, "n h w c"], masks: Float[np.ndarray, "n h w 1"]
) -> Float[np.ndarray, " n"]:
    """Of each sample the share of the k most relevant pixels on the object, in [0, 1].

    Relevance rank accuracy (see `relevance_mass`), with channels summed; k is the number of the
    object's pixels. NaN where all pixels are alike or there is no object.
    """
    pixels = relevance.astype(np.float64).sum(3).reshape(len(relevance), -1)
    objects = (masks >= 0.5).reshape(len(masks), -1)
    found = np.full(len(pixels), np.nan)
    for number, (values, inside) in enumerate(zip(pixels, objects, strict=True)):
        if inside.any() and np.ptp(values) > 0:
            highest = np.argsort(-values, kind="stable")[: inside.sum()]
            found[number] = inside[highest].mean()
    return found
