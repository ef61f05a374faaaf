"""Predictions of the bare model: at run time an ISNet costs what the classifier costs."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from isnet_jax.data.split import Split
from isnet_jax.models.network import in_mode


def chunks(count: int, size: int) -> Iterator[tuple[np.ndarray, int]]:
    """Indices in chunks of one size: the last one is filled up with repetitions of index 0.

    Yields the indices and how many of them count, so that one compiled shape serves all.
    """
    for start in range(0, count, size):
        indices = np.arange(start, min(start + size, count))
        padded = np.zeros(size, int)
        padded[: len(indices)] = indices
        yield padded, len(indices)


def in_chunks(
    function: Callable[..., Any],
    arrays: tuple[np.ndarray, ...],
    size: int,
    on_chunk: Callable[[Any], None] = lambda found: None,
) -> Any:
    """`function(*arrays)` for arrays too long for one call; results are joined on axis 0.

    Args:
      on_chunk: given the results of each call.
    """
    size = min(size, len(arrays[0]))
    parts = []
    for indices, valid in chunks(len(arrays[0]), size):
        result = jax.device_get(function(*(array[indices] for array in arrays)))
        parts.append(jax.tree.map(lambda value, valid=valid: value[:valid], result))
        on_chunk(parts[-1])
    return jax.tree.map(lambda *values: np.concatenate(values), *parts)


def predict(
    model: nnx.Module, images: Float[np.ndarray, "n h w c"], *, batch_size: int = 250
) -> Float[np.ndarray, "n classes"]:
    """Logits in eval mode."""
    graph, state = nnx.split(in_mode(model, training=False))
    return in_chunks(lambda chunk: _logits(graph, state, chunk), (images,), batch_size)


def predict_split(
    model: nnx.Module, split: Split, *, batch_size: int = 250
) -> Float[np.ndarray, "n classes"]:
    """`predict` of all images of a split, with the memory of one batch of them."""
    graph, state = nnx.split(in_mode(model, training=False))

    def logits(places: np.ndarray) -> Array:
        return _logits(graph, state, split.batch(places)["image"])

    return in_chunks(logits, (np.arange(len(split)),), batch_size)


@functools.partial(jax.jit, static_argnums=0)
def _logits(graph: nnx.GraphDef, state: nnx.State, images: Array) -> Array:
    return nnx.merge(graph, state)(images)
