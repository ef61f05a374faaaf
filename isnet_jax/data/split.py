"""A split in memory, and the batches that are taken from one."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, NotRequired, TypedDict

import numpy as np
from jaxtyping import Bool, Float32, Int32, Shaped

from isnet_jax.data.checks import check_examples, mask_warning

_CHUNK: Final = 1024


class BatchDict(TypedDict):
    """What a training step takes, as a mapping: pixels and masks from 0 to 1, channels last.

    Labels are classes, or for multi-label data 0 or 1 for each class. ``has_mask`` is there for
    data that are annotated in part: where it is False nobody drew the mask, and it is all 0.
    ``group`` is there where the split has groups.
    """

    image: Float32[np.ndarray, "batch h w 3"]
    mask: Float32[np.ndarray, "batch h w 1"]
    label: Int32[np.ndarray, " batch"] | Float32[np.ndarray, "batch classes"]
    has_mask: NotRequired[Bool[np.ndarray, " batch"]]
    group: NotRequired[Int32[np.ndarray, " batch"]]


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
        groups: numbers from 0 on: samples of one group share their class and what may mislead
            about it; None where this is not known.
    """

    images: Shaped[np.ndarray, "n h w 3"]
    masks: Shaped[np.ndarray, "n h w 1"]
    labels: Int32[np.ndarray, " n"] | Float32[np.ndarray, "n classes"]
    ids: tuple[str, ...]
    class_names: tuple[str, ...]
    has_mask: Bool[np.ndarray, " n"] | None = None
    groups: Int32[np.ndarray, " n"] | None = None

    def __len__(self) -> int:
        return len(self.images)

    def batch(self, indices: slice | Sequence[int] | np.ndarray) -> BatchDict:
        """The examples at these positions."""
        batch = as_batch(
            self.images[indices],
            self.masks[indices],
            self.labels[indices],
            None if self.has_mask is None else self.has_mask[indices],
        )
        if self.groups is not None:
            batch["group"] = self.groups[indices]
        return batch

    def chosen(self, indices: Sequence[int] | np.ndarray) -> "Split":
        """The samples at these positions, in this order, as a split."""
        numbers = np.asarray(indices, int)
        optional = {"has_mask": self.has_mask, "groups": self.groups}
        return dataclasses.replace(
            self,
            images=self.images[numbers],
            masks=self.masks[numbers],
            labels=self.labels[numbers],
            ids=tuple(self.ids[number] for number in numbers.tolist()),
            **{k: None if values is None else values[numbers] for k, values in optional.items()},
        )

    def without_groups(self) -> "Split":
        """The same samples, for who shall not know their groups."""
        return self if self.groups is None else dataclasses.replace(self, groups=None)

    def mask_warning(self) -> str | None:
        """What to say if these masks are nothing to train by; None if they are."""
        drawn = np.ones(len(self), bool) if self.has_mask is None else self.has_mask
        return mask_warning(drawn, np.asarray(self.masks.all(axis=(1, 2, 3))))

    def check(self) -> None:
        """Runs ``check_examples`` on all of the split.

        Raises:
            UserError: a bad sample, by its id.
        """
        whole = self.without_groups()
        for start in range(0, max(len(self), 1), _CHUNK):
            chunk = slice(start, start + _CHUNK)
            examples: Any = whole.batch(chunk)
            check_examples(**examples, num_classes=len(self.class_names), ids=self.ids[chunk])


def as_batch(
    images: np.ndarray, masks: np.ndarray, labels: np.ndarray, has_mask: np.ndarray | None
) -> BatchDict:
    """A batch of pixels and masks as `Split` has them; grey images get three channels."""
    colour = np.broadcast_to(images, (*images.shape[:3], 3))
    batch: BatchDict = {"image": unit(colour), "mask": unit(masks), "label": labels}
    if has_mask is not None:
        batch["has_mask"] = has_mask
    return batch


def as_labels(labels: list[Any]) -> Int32[np.ndarray, " n"] | Float32[np.ndarray, "n classes"]:
    """Classes, or for multi-label data 0 or 1 for each class."""
    stacked = np.stack(labels)
    return stacked.astype(np.int32 if stacked.ndim == 1 else np.float32)


def unit(pixels: np.ndarray) -> Float32[np.ndarray, "..."]:
    """Pixels from 0 to 1: white is the largest value of an integer type."""
    if pixels.dtype in (np.uint8, np.uint16):
        return pixels.astype(np.float32) / np.float32(np.iinfo(pixels.dtype).max)
    return pixels.astype(np.float32, copy=False)
