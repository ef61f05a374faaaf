"""Prepared data sets on disk: read a split into memory, or open it to be read as one goes."""

import hashlib
import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final

import numpy as np
import tensorflow_datasets as tfds
from PIL import Image

from isnet_jax.data.split import Split, as_labels
from isnet_jax.errors import UserError, printable, suggest
from isnet_jax.memory import require_free_addresses

_CHUNK: Final = 1024
_UNREADABLE: Final = (
    OSError, RuntimeError, ValueError, IndexError, Image.DecompressionBombError,
)  # fmt: skip


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
        raise UserError(f"the split {split!r} in {printable(builder.data_dir)} has no samples.")
    ids = tuple(item["id"].decode() for item in items)
    metadata: Any = builder.info.metadata or {}
    if digest_of(ids) != metadata.get("members", {}).get(split, digest_of(ids)):
        raise UserError(
            f"the prepared split {split!r} in {printable(builder.data_dir)} has other samples than "
            "were written, as if its file were that of another split. Prepare the data again."
        )
    images = np.stack([item["image"] for item in items])
    loaded = Split(
        # Grey images are not copied: all three channels are views of one.
        images=np.broadcast_to(images, (*images.shape[:3], 3)),
        masks=np.stack([item["mask"] for item in items]),
        labels=as_labels([item["label"] for item in items]),
        ids=ids,
        class_names=class_names(builder),
        has_mask=np.array([item["has_mask"] for item in items]) if "has_mask" in items[0] else None,
    )
    loaded.check()
    return loaded


def digest_of(ids: Sequence[str]) -> str:
    """Says which samples a split has, in their order."""
    return hashlib.sha256("\0".join(ids).encode()).hexdigest()


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
        require_free_addresses()
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
        except _UNREADABLE as error:
            raise UserError(
                f"the prepared split {self._split!r} in {printable(self._place)} cannot be read "
                f"({error}). "
                "Delete this folder; it will be prepared anew."
            ) from error


def _decoded(record: dict[str, Any]) -> dict[str, Any]:
    """A record with its pictures as arrays: image (h, w, 1 or 3), mask (h, w, 1)."""
    return {**record, "image": _png(record["image"]), "mask": _png(record["mask"])}


def _png(data: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(data), formats=("PNG",)) as picture:
        pixels = np.asarray(picture)
    return pixels if pixels.ndim == 3 else pixels[..., None]
