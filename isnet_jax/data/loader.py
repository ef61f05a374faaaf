"""The endless iterator of training batches, which can be resumed."""

import functools
from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

import grain
import numpy as np
from jaxtyping import Int64

from isnet_jax.data.augmentation import Augmentation
from isnet_jax.data.split import BatchDict, Split, as_batch, as_labels
from isnet_jax.errors import UserError

_READ_THREADS, _READ_AHEAD = 4, 8


@runtime_checkable
class Examples(Protocol):
    """Random access to examples, read one by one: for data too large for memory.

    An item has ``image`` (h, w, 3), or (h, w, 1) for grey, ``mask`` (h, w, 1), ``label`` and
    perhaps ``has_mask``, with the values of ``Split``, as ``builder.as_data_source("train")`` and
    ``open_records`` give them.
    """

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Any: ...


def train_iterator(
    examples: Split | Examples,
    batch_size: int,
    *,
    seed: int,
    augmentation: Augmentation | None = None,
    shard_index: int = 0,
    shard_count: int = 1,
) -> "grain.DatasetIterator[BatchDict]":
    """Endless batches, shuffled anew in every epoch; an incomplete last batch is left out.

    ``get_state()`` gives a small dictionary that JSON can hold, and ``set_state`` continues with
    exactly the batches that would have followed, augmented alike, in another process too. For
    Orbax: ``grain.checkpoint.CheckpointSave(iterator)`` and ``CheckpointRestore(iterator)``.

    Args:
        examples: a split in memory, or records to read one by one.
        batch_size: examples per batch of this shard.
        seed: decides order and augmentation, 0 to 2**32 - 1.
        augmentation: random transformations of image and mask together; none by default.
        shard_index: which part of each whole batch this process reads, from 0.
        shard_count: number of processes that share the examples. One after the other, their
            batches are the batch of ``shard_count * batch_size`` that a single process would
            read, augmented alike.

    Raises:
        UserError: an argument out of its range, or fewer examples than one batch needs.
    """
    in_memory = isinstance(examples, Split)
    _check_arguments(len(examples), batch_size, seed, shard_index, shard_count)
    if augmentation is not None:
        shape = (examples.images[0] if in_memory else examples[0]["image"]).shape
        augmentation.check(*shape[:2])
    batches = _Batches(
        fetch=examples.batch if in_memory else functools.partial(_read, examples),
        examples=len(examples),
        batch_size=batch_size,
        seed=seed,
        shard_index=shard_index,
        shard_count=shard_count,
    )
    dataset = grain.MapDataset.range(len(batches)).repeat(None).map_with_index(batches)
    if augmentation:
        part = functools.partial(augmentation, start=shard_index * batch_size)
        dataset = dataset.random_map(part, seed=seed)
    threads, ahead = (0, 0) if in_memory else (_READ_THREADS, _READ_AHEAD)
    read_options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=ahead)
    return dataset.to_iter_dataset(read_options).__iter__()


class _Batches:
    """Batches by their number since the start of training.

    Grain's own shuffle costs 0.06 ms per example, four times all else that a batch needs.
    """

    def __init__(
        self,
        fetch: Callable[[np.ndarray], BatchDict],
        examples: int,
        batch_size: int,
        seed: int,
        shard_index: int,
        shard_count: int,
    ) -> None:
        self._fetch, self._examples, self._batch_size = fetch, examples, batch_size
        self._seed, self._shard_index, self._shard_count = seed, shard_index, shard_count
        self._latest = (0, self._shuffled(0))

    def __len__(self) -> int:
        """Batches per epoch."""
        return self._examples // (self._batch_size * self._shard_count)

    def __call__(self, number: int, _: object) -> BatchDict:
        epoch, step = divmod(number, len(self))
        latest_epoch, order = self._latest
        if epoch != latest_epoch:
            order = self._shuffled(epoch)
            self._latest = (epoch, order)
        start = (step * self._shard_count + self._shard_index) * self._batch_size
        return self._fetch(order[start : start + self._batch_size])

    def _shuffled(self, epoch: int) -> Int64[np.ndarray, " n"]:
        return np.random.default_rng((self._seed, epoch)).permutation(self._examples)


def _read(records: Examples, indices: np.ndarray) -> BatchDict:
    items = [records[index] for index in indices.tolist()]
    return as_batch(
        np.stack([item["image"] for item in items]),
        np.stack([item["mask"] for item in items]),
        as_labels([item["label"] for item in items]),
        np.array([item["has_mask"] for item in items]) if "has_mask" in items[0] else None,
    )


def _check_arguments(
    examples: int, batch_size: int, seed: int, shard_index: int, shard_count: int
) -> None:
    if batch_size < 1:
        raise UserError(f"the batch size is {batch_size}, but must be at least 1.")
    if not 0 <= seed < 2**32:
        raise UserError(f"the seed is {seed}, but must be from 0 to 2**32 - 1.")
    if not 0 <= shard_index < shard_count:
        raise UserError(
            f"shard {shard_index} of {shard_count}: the index must be from 0 to the count - 1."
        )
    per_shard = examples // shard_count
    if per_shard < batch_size:
        shards = f" in each of {shard_count} shards" if shard_count > 1 else ""
        raise UserError(
            f"{per_shard} examples{shards} do not fill one batch of {batch_size}. Lower the batch "
            "size, or use more data."
        )
