"""Other ways to the same numbers, timed; a part of accelerator.py.

GWRP takes the 175 largest of 50,176 values (decay 0.9, 224x224). Each way here has the values and
the gradient of `isnet_jax`'s `lax.top_k`, ties included (tests/test_accelerator_leads.py).
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from accelerator_workers import Setting, quiet
from jax import lax
from workers import slot

DECAY, CHUNK = 0.9, 1024


def largest_by_chunks(x: jax.Array, count: int, chunk: int = CHUNK) -> jax.Array:
    """The `count` largest of the last axis: of each chunk first, then of what is left.

    A sort of a chunk fits into a GPU's shared memory, one of the whole row does not.
    """
    while x.shape[-1] > max(chunk, 2 * count):
        short = -x.shape[-1] % chunk
        x = jnp.pad(x, [(0, 0)] * (x.ndim - 1) + [(0, short)], constant_values=-jnp.inf)
        chunks = x.reshape(*x.shape[:-1], -1, chunk)
        x = lax.top_k(chunks, min(count, chunk))[0].reshape(*x.shape[:-1], -1)
    return lax.top_k(x, count)[0]


def largest_by_threshold(x: jax.Array, count: int) -> jax.Array:
    """The `count` largest of the last axis of values that are at least 0, by bisection.

    The bits of such floats are in the order of their values. 31 counts over the row find the last
    that is taken; what is larger, and the first of its equals, go to a short list that is sorted.
    """
    bits = lax.bitcast_convert_type(lax.stop_gradient(x), jnp.int32)

    def narrowed(step: jax.Array, lowest: jax.Array) -> jax.Array:
        higher = lowest | jnp.left_shift(jnp.int32(1), 30 - step)
        enough = (bits >= higher[..., None]).sum(-1) >= count
        return jnp.where(enough, higher, lowest)

    last = lax.fori_loop(0, 31, narrowed, jnp.zeros(x.shape[:-1], jnp.int32))[..., None]
    above, equal = bits > last, bits == last
    place = jnp.where(
        above,
        jnp.cumsum(above, -1) - 1,
        jnp.where(equal, above.sum(-1, keepdims=True) + jnp.cumsum(equal, -1) - 1, count),
    )

    def taken(x: jax.Array, place: jax.Array) -> jax.Array:
        return jnp.zeros(count, x.dtype).at[place].set(x, mode="drop")

    rows = jax.vmap(taken)(x.reshape(-1, x.shape[-1]), place.reshape(-1, x.shape[-1]))
    return lax.top_k(rows, count)[0].reshape(*x.shape[:-1], count)


def largest_by_sort(x: jax.Array, count: int) -> jax.Array:
    return -jnp.sort(-x, -1)[..., :count]


def largest_by_top_k(x: jax.Array, count: int) -> jax.Array:
    return lax.top_k(x, count)[0]


WAYS = {
    "top_k": largest_by_top_k,
    "chunks": largest_by_chunks,
    "threshold": largest_by_threshold,
    "sort": largest_by_sort,
}


def pooled(largest: Callable[[jax.Array, int], jax.Array], x: jax.Array) -> jax.Array:
    """GWRP over the last axis."""
    count = min(x.shape[-1], math.ceil(math.log(1e-9) / math.log(DECAY)))
    weights = jnp.asarray(DECAY, x.dtype) ** jnp.arange(count, dtype=x.dtype)
    return (largest(x, count) * weights).sum(-1) * (1 - DECAY) / (1 - DECAY ** x.shape[-1])


def gwrp(setting: Setting, out: Path) -> Iterator[dict[str, Any]]:
    """Milliseconds of pooling with its gradient, for the heatmaps of 64 images."""
    del out
    rows, places = (6, 2048) if setting.small else (3 * 64, 224 * 224)
    x = jnp.abs(jax.random.normal(jax.random.key(0), (rows, places)))
    found: dict[str, Any] = {}
    for name, way in WAYS.items():
        run = jax.jit(jax.value_and_grad(lambda x, way=way: pooled(way, x).sum()))
        with slot(Path(setting.slots), setting.slot_count):
            jax.block_until_ready(run(x))
        seconds = []
        with quiet(Path(setting.slots), setting.slot_count):
            for _ in range(2 if setting.small else 20):
                started = time.perf_counter()
                jax.block_until_ready(run(x))
                seconds.append(time.perf_counter() - started)
        found[name] = f"{1e3 * statistics.median(seconds):.2f} ms"
        yield found


LEADS = {"gwrp": gwrp}
