"""Batches: a prepared split in memory, and an endless training iterator that can be resumed."""

import functools
import io
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final, NotRequired, Protocol, TypedDict, runtime_checkable

import grain
import numpy as np
import tensorflow_datasets as tfds
from jaxtyping import Bool, Float32, Int32, Int64, Shaped
from PIL import Image

from isnet_jax.data.augmentation import Augmentation
from isnet_jax.data.validation import check_examples
from isnet_jax.errors import UserError, suggest

_CHUNK: Final = 1024
_READ_THREADS, _READ_AHEAD = 4, 8


class Batch(TypedDict):
    """What a training step takes: pixels and masks from 0 to 1, channels last.

    Labels are classes, or for multi-label data 0 or 1 for each class. ``has_mask`` is there for
    data that are annotated in part: where it is False nobody drew the mask, and it is all 0.
    """

    image: Float32[np.ndarray, "batch h w 3"]
    mask: Float32[np.ndarray, "batch h w 1"]
    label: Int32[np.ndarray, " batch"] | Float32[np.ndarray, "batch classes"]
    has_mask: NotRequired[Bool[np.ndarray, " batch"]]


@dataclass(frozen=True, eq=False)
class Split:
    """All examples of one split, in memory.

    Attributes:
        images: uint8 from 0 to 255, uint16 from 0 to 65,535, or float32 from 0 to 1.
        masks: uint8, 255 on the foreground, or float32, 1 on the foreground; 0 elsewhere.
        labels: classes, or for multi-label data 0 or 1 for each class.
        ids: names of the samples.
        class_names: names of the classes.
        has_mask: False where nobody drew the mask; None if all samples have one.
    """

    images: Shaped[np.ndarray, "n h w 3"]
    masks: Shaped[np.ndarray, "n h w 1"]
    labels: Int32[np.ndarray, " n"] | Float32[np.ndarray, "n classes"]
    ids: tuple[str, ...]
    class_names: tuple[str, ...]
    has_mask: Bool[np.ndarray, " n"] | None = None

    def __len__(self) -> int:
        return len(self.images)

    def batch(self, indices: slice | Sequence[int] | np.ndarray) -> Batch:
        """The examples at these positions."""
        return _batch(
            self.images[indices],
            self.masks[indices],
            self.labels[indices],
            None if self.has_mask is None else self.has_mask[indices],
        )

    def check(self) -> None:
        """Runs ``check_examples`` on all of the split.

        Raises:
            UserError: a bad sample, by its id.
        """
        for start in range(0, max(len(self), 1), _CHUNK):
            chunk = slice(start, start + _CHUNK)
            check_examples(
                **self.batch(chunk), num_classes=len(self.class_names), ids=self.ids[chunk]
            )


@runtime_checkable
class Records(Protocol):
    """Random access to examples, read one by one: for data too large for memory.

    An item has ``image`` (h, w, 3), or (h, w, 1) for grey, ``mask`` (h, w, 1), ``label`` and
    perhaps ``has_mask``, with the values of ``Split``, as ``builder.as_data_source("train")`` and
    ``open_records`` give them.
    """

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Any: ...


def load_split(builder: tfds.core.DatasetBuilder, split: str) -> Split:
    """Decodes a prepared split into memory and checks it.

    Args:
        builder: as returned by ``prepare`` or ``open_prepared``.
        split: name of the split, such as ``"train"``.

    Raises:
        UserError: no such split, unreadable files, or an example that ``check_examples`` rejects.
    """
    records = open_records(builder, split)
    items = [item for start in range(0, len(records), _CHUNK) for item in records.chunk(start)]
    if not items:
        raise UserError(f"the split {split!r} in {builder.data_dir} has no samples.")
    images = np.stack([item["image"] for item in items])
    loaded = Split(
        # Grey images are not copied: all three channels are views of one.
        images=np.broadcast_to(images, (*images.shape[:3], 3)),
        masks=np.stack([item["mask"] for item in items]),
        labels=_labels([item["label"] for item in items]),
        ids=tuple(item["id"].decode() for item in items),
        class_names=class_names(builder),
        has_mask=np.array([item["has_mask"] for item in items]) if "has_mask" in items[0] else None,
    )
    loaded.check()
    return loaded


def open_records(builder: tfds.core.DatasetBuilder, split: str) -> "PreparedRecords":
    """A prepared split for ``train_iterator`` to read as it goes: for data too large for memory.

    Raises:
        UserError: no such split, or unreadable files.
    """
    if split not in builder.info.splits:
        raise UserError(suggest(split, builder.info.splits, what="split"))
    return PreparedRecords(builder, split)


def class_names(builder: tfds.core.DatasetBuilder) -> tuple[str, ...]:
    """The classes of prepared data in the order of their numbers."""
    features: Any = builder.info.features
    metadata: Any = builder.info.metadata or {}
    label = features["label"]
    names = label.names if isinstance(label, tfds.features.ClassLabel) else metadata["class_names"]
    return tuple(names)


class PreparedRecords:
    """The examples of a prepared split, decoded when they are asked for."""

    def __init__(self, builder: tfds.core.DatasetBuilder, split: str) -> None:
        self._place, self._split = builder.data_dir, split
        undecoded = {"image": tfds.decode.SkipDecoding(), "mask": tfds.decode.SkipDecoding()}
        untyped: Any = builder
        with self._told():
            self._source = untyped.as_data_source(split, decoders=undecoded)
            self._count = len(self._source)

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int, /) -> dict[str, Any]:
        with self._told():
            return _decoded(self._source[index])

    def chunk(self, start: int) -> list[dict[str, Any]]:
        """The examples from ``start`` on, some thousand at most."""
        with self._told():
            indices = range(start, min(start + _CHUNK, len(self)))
            return [_decoded(record) for record in self._source.__getitems__(indices)]

    @contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except (OSError, RuntimeError, ValueError, IndexError) as error:
            raise UserError(
                f"the prepared split {self._split!r} in {self._place} cannot be read ({error}). "
                "Delete this folder; it will be prepared anew."
            ) from error


def train_iterator(
    examples: Split | Records,
    batch_size: int,
    *,
    seed: int,
    augmentation: Augmentation | None = None,
    shard_index: int = 0,
    shard_count: int = 1,
) -> "grain.DatasetIterator[Batch]":
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
        fetch: Callable[[np.ndarray], Batch],
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

    def __call__(self, number: int, _: object) -> Batch:
        epoch, step = divmod(number, len(self))
        latest_epoch, order = self._latest
        if epoch != latest_epoch:
            order = self._shuffled(epoch)
            self._latest = (epoch, order)
        start = (step * self._shard_count + self._shard_index) * self._batch_size
        return self._fetch(order[start : start + self._batch_size])

    def _shuffled(self, epoch: int) -> Int64[np.ndarray, " n"]:
        return np.random.default_rng((self._seed, epoch)).permutation(self._examples)


def _read(records: Records, indices: np.ndarray) -> Batch:
    items = [records[index] for index in indices.tolist()]
    return _batch(
        np.stack([item["image"] for item in items]),
        np.stack([item["mask"] for item in items]),
        _labels([item["label"] for item in items]),
        np.array([item["has_mask"] for item in items]) if "has_mask" in items[0] else None,
    )


def _batch(
    images: np.ndarray, masks: np.ndarray, labels: np.ndarray, has_mask: np.ndarray | None
) -> Batch:
    colour = np.broadcast_to(images, (*images.shape[:3], 3))
    batch: Batch = {"image": _unit(colour), "mask": _unit(masks), "label": labels}
    if has_mask is not None:
        batch["has_mask"] = has_mask
    return batch


def _labels(labels: list[Any]) -> Int32[np.ndarray, " n"] | Float32[np.ndarray, "n classes"]:
    stacked = np.stack(labels)
    return stacked.astype(np.int32 if stacked.ndim == 1 else np.float32)


def _unit(pixels: np.ndarray) -> Float32[np.ndarray, "..."]:
    if pixels.dtype in (np.uint8, np.uint16):
        return pixels.astype(np.float32) / np.float32(np.iinfo(pixels.dtype).max)
    return pixels.astype(np.float32, copy=False)


def _decoded(record: dict[str, Any]) -> dict[str, Any]:
    """A record with its pictures as arrays: image (h, w, 1 or 3), mask (h, w, 1)."""
    return {**record, "image": _png(record["image"]), "mask": _png(record["mask"])}


def _png(data: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(data)) as picture:
        pixels = np.asarray(picture)
    return pixels if pixels.ndim == 3 else pixels[..., None]


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
