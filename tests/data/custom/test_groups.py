"""Groups of own images from a table."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from tiny_training import split

from isnet_jax import UserError
from isnet_jax.data.custom.groups import with_groups_of

SPLITS = {"train": split(6), "validation": split(3, 1), "test": split(3, 2)}


def table(folder: Path, rows: str) -> Path:
    path = folder / "groups.csv"
    path.write_text(rows)
    return path


def test_groups_are_classes_and_what_the_table_says(tmp_path: Path):
    """Of the ids 0 to 5, which have the classes 0, 1, 2, 0, 1, 2."""
    rows = "".join(f"{n},x,{'there' if n < 4 else 'here'}\n" for n in range(7))
    found = with_groups_of(SPLITS, table(tmp_path, "image,other,group\n" + rows))
    np.testing.assert_array_equal(found["train"].groups, [1, 3, 5, 1, 2, 4])
    np.testing.assert_array_equal(found["validation"].groups, [1, 3, 5])
    assert found["test"].groups is None


def test_images_with_names_of_a_mac(tmp_path: Path):
    train = SPLITS["train"]
    train = dataclasses.replace(train, ids=["cafe\u0301", *train.ids[1:]])
    rows = "".join(f"{n},x\n" for n in ("caf\u00e9", *range(6)))
    found = with_groups_of(SPLITS | {"train": train}, table(tmp_path, "image,group\n" + rows))
    assert found["train"].groups is not None


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ("image,hospital\n0,a\n", "columns image, hospital; expected image and group"),
        ("image,group\n0,a\n1,b\n", "lacks 4 of 6 images of the split train: 2, 3, 4, ..."),
        ("", "is empty"),
        ("image,group\n0,a\n1,b\n0,a\n", r"line 4 names 0 again\. Keep one row"),
        ("image,group\n0,a\n1\n", "line 3 has 1 cells, but the header 2"),
        ("image,group\n0, \n", "line 2 has no group"),
        ("image,group,group\n0,a,b\n", "has two columns 'group'"),
        ("image,group\n0,NaN\n", "a group is called 'NaN', which tables hold where a value is"),
        ("image,group\n0,water\n1, Water\n", "the groups 'water' and 'Water' differ only in how"),
    ],
)
def test_tables_that_do_not_fit(tmp_path: Path, rows: str, said: str):
    with pytest.raises(UserError, match=said):
        with_groups_of(SPLITS, table(tmp_path, rows))
    with pytest.raises(UserError, match="is missing"):
        with_groups_of(SPLITS, tmp_path / "none.csv")
