"""Batches: a prepared split in memory, and an endless training iterator that can be resumed."""

import functools
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol, TypedDict, runtime_checkable

import grain
import numpy as np
import tensorflow_datasets as tfds
from jaxtyping import Float32, Int32, Int64, Shaped
from PIL import Image

from isnet_jax.data.validation import check_examples
from isnet_jax.errors import UserError, suggest

_CHUNK: Final = 1024
_READ_THREADS, _READ_AHEAD = 4, 8


class Batch(TypedDict):
    """What a training step takes: pixels and masks from 0 to 1, channels last."""

    image: Float32[np.ndarray, "batch h w 3"]
    mask: Float32[np.ndarray, "batch h w 1"]
    label: Int32[np.ndarray, " batch"]


@dataclass(frozen=True, eq=False)
class Split:
    """All examples of one split, in memory.

    Attributes:
        images: uint8 from 0 to 255, or float32 from 0 to 1.
        masks: uint8, 255 on the foreground, or float32, 1 on the foreground; 0 elsewhere.
        labels: classes.
        ids: names of the samples.
        class_names: names of the classes.
    """

    images: Shaped[np.ndarray, "n h w 3"]
    masks: Shaped[np.ndarray, "n h w 1"]
    labels: Int32[np.ndarray, " n"]
    ids: tuple[str, ...]
    class_names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.images)

    def batch(self, indices: slice | Sequence[int] | np.ndarray) -> Batch:
        """The examples at these positions."""
        return {
            "image": _unit(self.images[indices]),
            "mask": _unit(self.masks[indices]),
            "label": self.labels[indices],
        }

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

    An item has ``image`` (h, w, 3), ``mask`` (h, w, 1) and ``label``, with the values of ``Split``,
    as ``builder.as_data_source("train")`` gives them.
    """

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Any: ...


def load_split(builder: tfds.core.DatasetBuilder, split: str) -> Split:
    """Decodes a prepared split into memory and checks it.

    Args:
        builder: as returned by ``prepare``.
        split: name of the split, such as ``"train"``.

    Raises:
        UserError: no such split, unreadable files, or an example that ``check_examples`` rejects.
    """
    splits = builder.info.splits
    if split not in splits:
        raise UserError(suggest(split, splits, what="split"))
    undecoded = {"image": tfds.decode.SkipDecoding(), "mask": tfds.decode.SkipDecoding()}
    images, masks, labels, ids = [], [], [], []
    try:
        untyped: Any = builder
        source = untyped.as_data_source(split, decoders=undecoded)
        for start in range(0, len(source), _CHUNK):
            for record in source.__getitems__(range(start, min(start + _CHUNK, len(source)))):
                images.append(_decoded(record["image"]))
                masks.append(_decoded(record["mask"])[..., None])
                labels.append(record["label"])
                ids.append(record["id"].decode())
    except (OSError, RuntimeError, ValueError, IndexError) as error:
        raise UserError(
            f"the prepared split {split!r} in {builder.data_dir} cannot be read ({error}). Delete "
            "this folder; it will be prepared anew."
        ) from error
    features: Any = builder.info.features
    loaded = Split(
        images=np.stack(images),
        masks=np.stack(masks),
        labels=np.array(labels, dtype=np.int32),
        ids=tuple(ids),
        class_names=tuple(features["label"].names),
    )
    loaded.check()
    return loaded


def train_iterator(
    examples: Split | Records,
    batch_size: int,
    *,
    seed: int,
    max_shift: int = 0,
    shard_index: int = 0,
    shard_count: int = 1,
) -> "grain.DatasetIterator[Batch]":
    """Endless batches, shuffled anew in every epoch; an incomplete last batch is left out.

    ``get_state()`` gives a small dictionary that JSON can hold, and ``set_state`` continues with
    exactly the batches that would have followed, shifts included, in another process too. For
    Orbax: ``grain.checkpoint.CheckpointSave(iterator)`` and ``CheckpointRestore(iterator)``.

    Args:
        examples: a split in memory, or records to read one by one.
        batch_size: examples per batch of this shard.
        seed: decides order and shifts, 0 to 2**32 - 1.
        max_shift: each image moves with its mask by up to this many pixels in each direction,
            uniformly at random; zeros come in at the edges. 0 leaves the images alone. Foreground
            that is moved out of the image is lost, so keep this below its distance to the edge.
        shard_index: which share of the examples this process reads, from 0.
        shard_count: number of processes that share the examples. All shares are equally large, so
            that all processes have the same number of steps in an epoch; up to
            ``shard_count - 1`` examples, others in each epoch, are left out.

    Raises:
        UserError: an argument out of its range, or fewer examples than one batch needs.
    """
    _check_arguments(len(examples), batch_size, seed, shard_index, shard_count)
    _check_shift(examples, max_shift)
    in_memory = isinstance(examples, Split)
    batches = _Batches(
        fetch=examples.batch if in_memory else functools.partial(_read, examples),
        examples=len(examples),
        batch_size=batch_size,
        seed=seed,
        shard=slice(shard_index, len(examples) // shard_count * shard_count, shard_count),
    )
    dataset = grain.MapDataset.range(len(batches)).repeat(None).map_with_index(batches)
    if max_shift:
        # Else all shards would draw the same shifts.
        shift_seed = int(np.random.SeedSequence((seed, shard_index)).generate_state(1)[0])
        dataset = dataset.random_map(_Shift(max_shift), seed=shift_seed)
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
        shard: slice,
    ) -> None:
        self._fetch, self._examples, self._batch_size = fetch, examples, batch_size
        self._seed, self._shard = seed, shard
        self._latest = (0, self._shuffled(0))

    def __len__(self) -> int:
        """Batches per epoch."""
        return len(self._latest[1]) // self._batch_size

    def __call__(self, number: int, _: object) -> Batch:
        epoch, step = divmod(number, len(self))
        latest_epoch, order = self._latest
        if epoch != latest_epoch:
            order = self._shuffled(epoch)
            self._latest = (epoch, order)
        return self._fetch(order[step * self._batch_size : (step + 1) * self._batch_size])

    def _shuffled(self, epoch: int) -> Int64[np.ndarray, " n"]:
        return np.random.default_rng((self._seed, epoch)).permutation(self._examples)[self._shard]


@dataclass(frozen=True)
class _Shift:
    pixels: int

    def __call__(self, batch: Batch, rng: np.random.Generator) -> Batch:
        n = self.pixels
        shifts = rng.integers(-n, n + 1, size=(len(batch["label"]), 2)).tolist()
        return {
            "image": _moved(batch["image"], shifts),
            "mask": _moved(batch["mask"], shifts),
            "label": batch["label"],
        }


def _moved(images: np.ndarray, shifts: list[list[int]]) -> np.ndarray:
    height, width = images.shape[1:3]
    moved = np.zeros_like(images)
    for image, source, (down, right) in zip(moved, images, shifts, strict=True):
        image[max(down, 0) : height + down, max(right, 0) : width + right] = source[
            max(-down, 0) : height - down, max(-right, 0) : width - right
        ]
    return moved


def _read(records: Records, indices: np.ndarray) -> Batch:
    items = [records[index] for index in indices.tolist()]
    return {
        "image": _unit(np.stack([item["image"] for item in items])),
        "mask": _unit(np.stack([item["mask"] for item in items])),
        "label": np.array([item["label"] for item in items], dtype=np.int32),
    }


def _unit(pixels: np.ndarray) -> Float32[np.ndarray, "..."]:
    if pixels.dtype == np.uint8:
        return pixels.astype(np.float32) / np.float32(255)
    return pixels.astype(np.float32, copy=False)


def _decoded(png: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(png)) as picture:
        return np.asarray(picture)


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


def _check_shift(examples: Split | Records, max_shift: int) -> None:
    if max_shift == 0:
        return
    image = examples.images[0] if isinstance(examples, Split) else examples[0]["image"]
    height, width = image.shape[:2]
    if not 0 < max_shift < min(height, width):
        raise UserError(
            f"max_shift is {max_shift} pixels, but must be 0 or more and less than the images' "
            f"{height} x {width}; keep it below the usual distance of foreground and edge."
        )
