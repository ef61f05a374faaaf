"""A network as a program of its own, which needs JAX and nothing of this package."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.export
import jax.numpy as jnp
from flax import nnx

from isnet_jax.models.convolution import lowered_for
from isnet_jax.models.network import in_mode

PLATFORMS = ("cpu", "cuda", "rocm", "tpu")


def exported(
    model: nnx.Module, image_shape: Sequence[int], platforms: Sequence[str] = PLATFORMS
) -> jax.export.Exported:
    """Images to logits in eval mode, with the weights inside and for batches of any size.

    `exported(...).serialize()` gives bytes that `jax.export.deserialize` reads: StableHLO with
    the compatibility that `jax.export` promises.

    Args:
      image_shape: (height, width, channels).
      platforms: what it can run on.
    """
    graph, state = nnx.split(in_mode(model, training=False))

    def logits(images: jax.Array) -> jax.Array:
        return nnx.merge(graph, state)(images)  # pyright: ignore[reportCallIssue]

    (batch,) = jax.export.symbolic_shape("batch")
    images = jax.ShapeDtypeStruct((batch, *image_shape), jnp.float32)
    with lowered_for("gpu"):  # XLA's own convolutions: ours are made for the machine at hand.
        return jax.export.export(jax.jit(logits), platforms=tuple(platforms))(images)
