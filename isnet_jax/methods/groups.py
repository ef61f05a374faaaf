"""Groups of samples: those of the data, checked for who needs them, and means over each."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

from isnet_jax.data.split import Split
from isnet_jax.errors import UserError
from isnet_jax.objective.batch import Batch


def numbered(method: str, *splits: Split) -> tuple[Split, ...]:
    """The splits with their groups numbered from 0 on, without gaps.

    Raises:
      UserError: a split has no groups.
    """
    found = [split.groups for split in splits if split.groups is not None]
    if len(found) < len(splits):
        raise UserError(
            f"{method} needs to know which samples share their class and what misleads about it, "
            "and these data do not say. Give own data a table, --groups FILE (in Python, "
            "Split its groups), or choose a method that goes by masks, such as isnet or swap."
        )
    _, numbers = np.unique(np.concatenate(found), return_inverse=True)
    ends = np.cumsum([len(split) for split in splits])[:-1]
    return tuple(
        dataclasses.replace(split, groups=groups.astype(np.int32))
        for split, groups in zip(splits, np.split(numbers, ends), strict=True)
    )


def group_shares(
    batch: Batch, groups: int, axis_name: str | None
) -> tuple[Float[Array, "batch groups"], Float[Array, " groups"]]:
    """Each sample's weight in the mean of its group, and the group's share of the whole batch.

    `weights.T @ values` is, in the mean over devices and parts, each group's mean of the values,
    and 0 where the whole batch has none of the group.
    """
    share = jax.nn.one_hot((batch.whole or batch).group, groups).mean(0)
    if axis_name is not None:
        share = lax.pmean(share, axis_name)
    count = jnp.maximum(share * len(batch), 1e-6)
    return jax.nn.one_hot(batch.group, groups) / count, share
