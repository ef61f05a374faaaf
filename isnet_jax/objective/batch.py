"""A batch, and where it stands in the whole that it is a part of."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Int

from isnet_jax.errors import UserError


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Whole:
    """What a mean over the samples of a whole batch needs, where a part of it is at hand.

    Attributes:
      label, has_mask: as those of `Batch`, of all samples.
    """

    label: Any
    has_mask: Any = None


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Batch:
    """What one call of the objective is given. Fields are arrays; None where there is nothing.

    Attributes:
      image: (B, H, W, C) in [0, 1].
      label: (B,) ints, or (B, classes) in [0, 1] for multi-label heads.
      mask: (B, H, W, 1) in {0, 1}; the plain objective needs none.
      has_mask: (B,) bools: samples where it is false have no mask and are only classified. None:
        all have one.
      number: (B,) ints, each sample's place in the batch of all devices and parts, which random
        choices go by. None: the batch is all that this device has.
      whole: of the batch that this is one of the equal parts of: the mean of the parts' losses is
        then the loss of the whole. None: it is the whole, up to a mapped axis.
    """

    image: Any
    label: Any
    mask: Any = None
    has_mask: Any = None
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

    def parts(self, count: int, axis_name: str | None) -> tuple[Batch, Whole]:
        """So many equal parts, on a new leading axis of each array, and the whole they make."""
        size = len(self) // count
        numbered = dataclasses.replace(self, number=self.numbers(axis_name), whole=None)
        stacked = jax.tree.map(lambda a: a.reshape(count, size, *a.shape[1:]), numbered)
        return stacked, Whole(self.label, self.has_mask)
