"""A batch, and where it stands in the whole that it is a part of."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.core import Tracer
from jaxtyping import Array, Int

from isnet_jax.errors import UserError


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Whole:
    """What a mean over the samples of a whole batch needs, where a part of it is at hand.

    Attributes:
      label, has_mask, group: as those of `Batch`, of all samples.
    """

    label: Any
    has_mask: Any = None
    group: Any = None


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Batch:
    """What one call of the objective is given. Fields are arrays; None where there is nothing.

    Attributes:
      image: (B, H, W, C) in [0, 1].
      label: (B,) ints, or (B, classes) in [0, 1] for multi-label heads.
      mask: (B, H, W, 1) in {0, 1}, or integers that are not 0 on the foreground; the plain
        objective needs none.
      has_mask: (B,) bools: samples where it is false have no mask and are only classified. None:
        all have one.
      group: (B,) ints from 0 on: the samples' groups, for methods that go by them.
      number: (B,) ints, each sample's place in the batch of all devices and parts, which random
        choices go by. None: the batch is all that this device has.
      whole: of the batch that this is one of the equal parts of: the mean of the parts' losses is
        then the loss of the whole. None: it is the whole, up to a mapped axis.
    """

    image: Any
    label: Any
    mask: Any = None
    has_mask: Any = None
    group: Any = None
    number: Any = None
    whole: Whole | None = None

    @classmethod
    def of(cls, batch: Mapping[str, Any] | Batch) -> Batch:
        """The batch that a mapping with the fields' names means; other keys are left aside.

        Raises:
          UserError: it lacks "image" or "label".
        """
        if isinstance(batch, Batch):
            return batch
        missing = [name for name in ("image", "label") if name not in batch]
        if missing:
            raise UserError(
                f"the batch lacks {', '.join(missing)}; expected image (B, H, W, C), label (B,) "
                "and, for an ISNet, mask (B, H, W, 1)."
            )
        return cls(**{f.name: batch[f.name] for f in dataclasses.fields(cls) if f.name in batch})

    def annotated(self) -> Batch:
        """The batch with its mask as floating point, once it is known to fit.

        Shapes and dtypes are always checked, values where they are known: under jit they are not.

        Raises:
          UserError: no mask, shapes or dtypes that do not fit; a mask beyond [0, 1], or of
            integers with several values on the foreground.
        """
        image, mask, label = self.image, self.mask, self.label
        if mask is None:
            raise UserError(
                "isnet_loss: the batch lacks mask; expected image (B, H, W, C), mask (B, H, W, 1) "
                "and label (B,)."
            )
        expected = (*image.shape[:3], 1)
        if image.ndim != 4 or mask.shape != expected or label.shape[:1] != image.shape[:1]:
            raise UserError(
                f"isnet_loss: image {image.shape}, mask {mask.shape}, label {label.shape}; "
                "expected image (B, H, W, C), mask (B, H, W, 1) and label (B,) or, multi-label, "
                "(B, classes)."
            )
        if self.has_mask is not None and self.has_mask.shape != image.shape[:1]:
            raise UserError(
                f"isnet_loss: has_mask {self.has_mask.shape}; expected {image.shape[:1]}."
            )
        if not jnp.issubdtype(image.dtype, jnp.floating):
            raise UserError(
                f"isnet_loss: the images are {image.dtype}; expected floating point in [0, 1]: "
                "divide by 255."
            )
        _check_mask(mask)
        if jnp.issubdtype(mask.dtype, jnp.integer):
            return dataclasses.replace(self, mask=(mask != 0).astype(image.dtype))
        return self

    def __len__(self) -> int:
        return len(self.image)

    def __getitem__(self, name: str) -> Any:
        """A field by its name, for loss functions that take a mapping."""
        return getattr(self, name)

    def numbers(self, axis_name: str | None) -> Int[Array, " batch"]:
        """Each sample's place in the batch of all devices along the axis."""
        if self.number is not None:
            return self.number
        offset = 0 if axis_name is None else lax.axis_index(axis_name) * len(self)
        return offset + jnp.arange(len(self))

    def weighted_masks(self, axis_name: str | None) -> tuple[Array, Array]:
        """Each sample's weight in the mean over those with a mask, and the masks.

        Of a sample without a mask all counts as foreground, so that its heatmap loss is finite.
        """
        dtype = jnp.promote_types(self.image.dtype, jnp.float32)
        if self.has_mask is None:
            return jnp.full(len(self), 1 / len(self), dtype), self.mask
        there = self.has_mask.astype(bool)
        share = (self.whole or self).has_mask.astype(bool).mean(dtype=dtype)
        count = share * len(self)
        if axis_name is not None:
            count = lax.pmean(count, axis_name)
        weights = jnp.where(there, 1 / jnp.maximum(count, 1e-6), 0)
        return weights, jnp.where(there[:, None, None, None], self.mask, 1)

    def parts(self, count: int, axis_name: str | None) -> tuple[Batch, Whole]:
        """So many equal parts, on a new leading axis of each array, and the whole they make."""
        size = len(self) // count
        numbered = dataclasses.replace(self, number=self.numbers(axis_name), whole=None)
        stacked = jax.tree.map(lambda a: a.reshape(count, size, *a.shape[1:]), numbered)
        return stacked, Whole(self.label, self.has_mask, self.group)


def known(values: Any) -> np.ndarray | None:
    """An array's values, None where they cannot be looked at: while a function is traced."""
    if isinstance(values, Tracer):
        return None
    if isinstance(values, jax.Array) and not values.is_fully_addressable:
        return None
    return np.asarray(values)


def _check_mask(mask: Any) -> None:
    integers = jnp.issubdtype(mask.dtype, jnp.integer)
    if not (integers or mask.dtype == bool or jnp.issubdtype(mask.dtype, jnp.floating)):
        raise UserError(f"isnet_loss: the mask is {mask.dtype}; expected 0 and 1, or bool.")
    values = known(mask)
    if values is None or mask.dtype == bool or not values.size:
        return
    low, high = values.min(), values.max()
    if integers and len(np.unique(values[values != 0])) > 1:
        raise UserError(
            f"isnet_loss: the mask holds several {mask.dtype} values from {low} to {high}; "
            "expected 0 on the background and one other value on the foreground. Give "
            "mask == the object's value."
        )
    if not integers and not (low >= 0 and high <= 1):
        raise UserError(
            f"isnet_loss: the mask holds {mask.dtype} values from {low:g} to {high:g}; expected 0 "
            "and 1. Give mask > 0, or divide it by 255."
        )
