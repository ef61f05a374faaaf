"""What a segmenter finds in images, and how sure it is."""

from __future__ import annotations

import functools

import jax
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from isnet_jax.data.split import Split
from isnet_jax.evaluation.judge import annotated
from isnet_jax.evaluation.predict import in_chunks
from isnet_jax.models.network import in_mode
from isnet_jax.objective.segmentation import overlap


def foreground(
    model: nnx.Module, images: Float[np.ndarray, "n h w c"], *, batch_size: int = 32
) -> Float[np.ndarray, "n h w 1"]:
    """The probability of each pixel that it is foreground, in eval mode."""
    graph, state = nnx.split(in_mode(model, training=False))
    return in_chunks(lambda chunk: _shares(graph, state, chunk), (images,), batch_size)


@functools.partial(jax.jit, static_argnums=0)
def _shares(graph: nnx.GraphDef, state: nnx.State, images: Array) -> Array:
    return jax.nn.sigmoid(nnx.merge(graph, state)(images))  # pyright: ignore[reportCallIssue]


def overlaps(model: nnx.Module, split: Split) -> dict[str, float | None]:
    """Mean Dice coefficient and intersection over union over the samples that have a mask."""
    shown = split.batch(annotated(split))
    if not len(shown["label"]):
        return {"dice": None, "iou": None}
    dice, iou = overlap(foreground(model, shown["image"]) > 0.5, shown["mask"] > 0.5)
    return {"dice": float(np.mean(dice)), "iou": float(np.mean(iou))}


def confidence(shares: Float[np.ndarray, "h w"]) -> float:
    """How sure a segmenter is of the pixels that it takes for foreground, in [0, 1].

    The expected intersection of these pixels with the true ones over their expected union, if
    pixels are right as often as their probability says; 0 where none is taken.
    """
    taken = shares > 0.5
    if not taken.any():
        return 0.0
    return float(shares[taken].sum() / (taken.sum() + shares[~taken].sum()))
