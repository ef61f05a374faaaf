"""How much of a classifier's relevance lies on the background."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from isnet_jax import lrp
from isnet_jax.evaluation.predict import in_chunks

# One LRP for every network that is judged, whatever it was trained with.
JUDGE = lrp.ISNetFlex(1e-2, first=lrp.ZBox(0.0, 1.0), batch_statistics="constant")


def highest_logit_relevance(
    model: nnx.Module, images: Float[np.ndarray, "n h w c"], *, batch_size: int = 100
) -> Float[np.ndarray, "n h w c"]:
    """Relevance of each image for its highest logit: LRP-epsilon with z^B, in eval mode."""
    model.eval()
    graph, state = nnx.split(model)
    return in_chunks(lambda chunk: _relevance(graph, state, chunk), (images,), batch_size)


@functools.partial(jax.jit, static_argnums=0)
def _relevance(graph: nnx.GraphDef, state: nnx.State, images: Array) -> Array:
    logits, pullback = lrp.vjp(nnx.merge(graph, state), images, rules=JUDGE)
    return pullback(jax.nn.one_hot(jnp.argmax(logits, 1), logits.shape[1]))


def background_share(
    relevance: Float[np.ndarray, "n h w c"], masks: Float[np.ndarray, "n h w 1"]
) -> float:
    """Mean over samples of the share of |relevance| outside the mask, in [0, 1].

    A sample without any relevance counts as 0.
    """
    magnitude = np.abs(relevance.astype(np.float64))
    total = magnitude.sum((1, 2, 3))
    outside = (magnitude * (masks < 0.5)).sum((1, 2, 3))
    return float(np.mean(outside / np.where(total > 0, total, 1)))
