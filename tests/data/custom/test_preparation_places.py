"""Where prepared data may lie: over nothing that is there, and not among their own images."""

from pathlib import Path

import own_pictures as own
import pytest

from isnet_jax.data import FolderSource, OwnDataConfig, VocSource, prepare_own
from isnet_jax.errors import UserError

AMONG = "lies where the images are looked for"


@pytest.fixture
def source(tmp_path: Path) -> FolderSource:
    return FolderSource(own.write_folder(tmp_path / "source"))


@pytest.mark.parametrize("kind", ["folder", "file", "loop", "damaged record"])
def test_other_things_in_the_place_are_not_overwritten(
    source: FolderSource, tmp_path: Path, kind: str
):
    out = tmp_path / "out"
    if kind == "folder":
        own.write(out / "thesis.tex", b"x")
    elif kind == "file":
        own.write(out, b"x")
    elif kind == "loop":
        out.symlink_to("out")
    else:
        own.write(out / "preparation.json", b"[")
    with pytest.raises(UserError, match="holds no prepared data; nothing was overwritten"):
        prepare_own(source, out, OwnDataConfig())


@pytest.mark.parametrize("inside", ["images/out", "masks/a/out", "images/new/out", "test_far"])
def test_no_data_are_prepared_among_the_images(source: FolderSource, inside: str):
    """They would be taken for pictures, classes or a split the next time."""
    before = sorted(source.root.rglob("*"))
    with pytest.raises(UserError, match=AMONG):
        prepare_own(source, source.root / inside, OwnDataConfig())
    assert sorted(source.root.rglob("*")) == before


def test_nor_through_links_or_among_other_sources(source: FolderSource, tmp_path: Path):
    linked = FolderSource(tmp_path / "linked")
    linked.root.mkdir()
    for kind in ("images", "masks"):
        (linked.root / kind).symlink_to(source.root / kind)
    voc = VocSource(own.write_voc(tmp_path / "voc"))
    in_splits = FolderSource(tmp_path / "in_splits")
    for number, split in enumerate(("train", "test")):
        own.write_folder(in_splits.root / split, 5, first=10 * number)
    for among, inside in ((linked, "images/out"), (voc, "JPEGImages/out"), (in_splits, "out")):
        with pytest.raises(UserError, match=AMONG):
            prepare_own(among, among.root / inside, OwnDataConfig())


@pytest.mark.parametrize("inside", ["out", "images/.out", "new/out"])
def test_data_can_be_prepared_beside_the_images(source: FolderSource, inside: str):
    first, again = (prepare_own(source, source.root / inside, OwnDataConfig()) for _ in range(2))
    assert not first.reused
    assert again.reused
