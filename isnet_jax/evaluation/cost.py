"""What a network costs where it is used."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import numpy as np
from flax import nnx

from isnet_jax.models.network import in_mode


@dataclasses.dataclass(frozen=True)
class RunTime:
    """What an answer costs.

    Attributes:
      parameters: numbers that were learnt, those of every part that is needed.
      flop: floating point operations for an image, as XLA counts them before it optimises; None
        where it does not say.
    """

    parameters: int
    flop: float | None


def run_time(network: nnx.Module, image_shape: tuple[int, ...]) -> RunTime:
    """Of a network as it is deployed, images (B, H, W, C) to logits, in eval mode.

    Args:
      image_shape: (height, width, channels).
    """
    graph, state = nnx.split(in_mode(network, training=False))

    def answer(state: nnx.State, images: Any) -> Any:
        return nnx.merge(graph, state)(images)  # pyright: ignore[reportCallIssue]

    image = jax.ShapeDtypeStruct((1, *image_shape), np.float32)
    costs = jax.jit(answer).lower(state, image).cost_analysis()
    parameters = sum(leaf.size for leaf in jax.tree.leaves(nnx.state(network, nnx.Param)))
    return RunTime(int(parameters), (costs or {}).get("flops"))
