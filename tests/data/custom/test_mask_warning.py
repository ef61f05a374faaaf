"""Masks that tell no background from foreground: no error, but said."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import own_pictures as own
import pytest

from isnet_jax.commands.main import main
from isnet_jax.data import FolderSource, OwnDataConfig, load_split, prepare_own
from isnet_jax.methods import named, names
from isnet_jax.methods.isnet import ISNet
from isnet_jax.objective.config import ISNetConfig
from isnet_jax.objective.exchange import Exchange

BARE = OwnDataConfig(allow_missing_masks=True)


def whitened(root: Path, kept: int = 0) -> Path:
    """A folder whose masks are white everywhere, but for some."""
    own.write_folder(root)
    for mask in sorted((root / "masks").glob("*/*"))[kept:]:
        own.write(mask, np.full((own.SIDE, own.SIDE), 255, np.uint8))
    return root


def test_masks_without_background(tmp_path: Path):
    found = prepare_own(FolderSource(whitened(tmp_path / "source")), tmp_path / "out", BARE)
    (said,) = found.warnings
    assert "all masks of the 9 training images are white everywhere" in said
    again = prepare_own(FolderSource(tmp_path / "source"), tmp_path / "out", BARE)
    assert again.reused
    assert again.warnings == found.warnings
    assert load_split(again.builder, "train").mask_warning() == said
    some = prepare_own(FolderSource(whitened(tmp_path / "some", 12)), tmp_path / "other", BARE)
    assert some.warnings == ()
    assert load_split(some.builder, "train").mask_warning() is None


def test_no_masks_at_all_are_said_at_the_start_of_training_too(tmp_path: Path, capsys):
    rows = own.rows().replace("image,mask,", "image,").split()
    text = "\n".join(row.replace(f"m/{row[2:8]},", "") for row in rows)
    table = own.write_table(tmp_path, text)
    main(["prepare", "csv", str(table), "--allow-missing-masks", "--out", str(tmp_path / "out")])
    said = "warning: none of the 9 training images has a mask"
    assert said in capsys.readouterr().out
    train = ["train", "own-data", str(tmp_path / "out"), "--model", "small", "--epochs", "1"]
    for method, expected in (("isnet", True), ("plain", False)):
        run = [*train, "--out", str(tmp_path / method), "--method", method, "--batch-size", "999"]
        with pytest.raises(SystemExit):
            main(run)
        assert (said in capsys.readouterr().out) == expected


def test_who_uses_masks():
    without = {name for name in names() if not named(name)().uses_masks}
    assert without == {"plain", "jtt", "dfr", "group-dro"}
    assert not ISNet(objective=ISNetConfig(heatmap_weight=0)).uses_masks
    swap = ISNetConfig(heatmap_weight=0, exchange=Exchange(probability=0.5))
    assert ISNet(objective=swap).uses_masks
