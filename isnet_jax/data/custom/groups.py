"""Groups of own images, from a table beside the prepared data."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from isnet_jax.data.custom.readers.cells import BLANK, rows_of
from isnet_jax.data.custom.readers.names import normal, require_distinct, require_values
from isnet_jax.data.split import Split
from isnet_jax.errors import UserError, printable

_COLUMNS = ("image", "group")
_GROUPED = ("train", "validation")
_SHOWN = 3


def with_groups_of(splits: Mapping[str, Split], table: Path) -> dict[str, Split]:
    """The splits; train and validation know their groups: class, and what the table says.

    Args:
      table: CSV with the columns image, the id of a prepared sample, and group, any text: where
        the image comes from, or what else may mislead about its class. Other columns and images
        are passed over.

    Raises:
      UserError: no such table, other columns, an image in two rows or without a group, groups that
        differ only in how they are written, or training or validation images that it lacks.
    """
    named = _read(table)
    found = dict(splits)
    for name in _GROUPED:
        split = found[name]
        lacking = [sample for sample in split.ids if normal(sample) not in named]
        if lacking:
            shown = ", ".join(map(printable, lacking[:_SHOWN]))
            more = ", ..." if len(lacking) > _SHOWN else ""
            raise UserError(
                f"{printable(table)} lacks {len(lacking):,} of {len(split):,} images of the split "
                f"{name}: {shown}{more}. Expected a row for each, with its name in the column "
                "image."
            )
    texts = sorted(set(named.values()))
    for name in _GROUPED:
        told = np.searchsorted(texts, [named[normal(sample)] for sample in found[name].ids])
        labels = found[name].labels
        classes = labels if labels.ndim == 1 else np.zeros(len(labels), int)
        groups = (classes * len(texts) + told).astype(np.int32)
        found[name] = dataclasses.replace(found[name], groups=groups)
    return found


def _read(table: Path) -> dict[str, str]:
    """The group of each image."""
    header, rows = rows_of(table)
    if not set(_COLUMNS) <= set(header):
        raise UserError(
            f"{printable(table)} has the columns {', '.join(map(printable, header)) or 'none'}; "
            f"expected {' and '.join(_COLUMNS)}."
        )
    found: dict[str, str] = {}
    for number, row in rows:
        place = f"{printable(table)} line {number}"
        if len(row) != len(header):
            raise UserError(
                f"{place} has {len(row)} cells, but the header {len(header)}. Add or remove cells; "
                "quote cells that hold commas."
            )
        image, group = (row[header.index(column)] for column in _COLUMNS)
        image, group = normal(image), normal(group.strip(BLANK))
        if not group:
            raise UserError(f"{place} has no group. Write it.")
        if image in found:
            raise UserError(f"{place} names {printable(image)} again. Keep one row.")
        found[image] = group
    require_distinct(found.values(), table, "groups")
    require_values(set(found.values()), table, "group")
    return found
