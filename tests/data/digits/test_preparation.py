import hashlib
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from isnet_jax.data import (
    SPLITS,
    BackgroundMark,
    BiasedDigits,
    BiasedDigitsConfig,
    load_split,
    prepare,
)
from isnet_jax.errors import UserError

TINY = BiasedDigitsConfig(limit=50, mark=BackgroundMark(kind="position"))
# What conftest prepares.
PREPARED = BiasedDigitsConfig(limit=100, mark=BackgroundMark(kind="colour", size=4))


def digests(folder: Path) -> dict[str, str]:
    return {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.iterdir()
        if "array_record" in path.name
    }


def times(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}


@pytest.fixture
def copied(builder: BiasedDigits, tmp_path: Path) -> Path:
    """A copy of the prepared small data set that may be damaged; its version folder."""
    shutil.copytree(builder.data_path.parent.parent.parent, tmp_path / "copy")
    return next((tmp_path / "copy").glob("*/*/*/dataset_info.json")).parent


def test_the_same_config_gives_the_same_bits(tmp_path: Path):
    first, second = (prepare(TINY, tmp_path / name) for name in "ab")
    assert len(digests(Path(first.data_path))) == len(SPLITS)
    assert digests(Path(first.data_path)) == digests(Path(second.data_path))


def test_progress_counts_to_the_end_and_prepared_data_are_reused(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
):
    seen: list[tuple[int, int]] = []
    builder = prepare(TINY, tmp_path, progress=lambda done, total: seen.append((done, total)))
    total = sum(builder.info.splits[name].num_examples for name in SPLITS)
    assert seen == [(done, total) for done in range(1, total + 1)]
    written = times(Path(builder.data_path))
    again = prepare(TINY, tmp_path, progress=lambda *_: pytest.fail("prepared again"))
    assert again.data_path == builder.data_path
    assert times(Path(again.data_path)) == written
    load_split(again, "train")
    assert capfd.readouterr() == ("", "")


def test_another_config_has_another_folder(tmp_path: Path):
    other = BiasedDigitsConfig(limit=50, mark=BackgroundMark(kind="shape"))
    assert prepare(TINY, tmp_path).data_path != prepare(other, tmp_path).data_path


def test_killed_preparing_does_not_poison_the_next(tmp_path: Path):
    script = f"""
import os, signal
from isnet_jax.data import BackgroundMark, BiasedDigitsConfig, prepare
config = BiasedDigitsConfig(limit=50, mark=BackgroundMark(kind="position"))
prepare(config, {str(tmp_path)!r},
        progress=lambda done, _: done == 40 and os.kill(os.getpid(), signal.SIGKILL))
"""
    killed = subprocess.run([sys.executable, "-c", script], check=False)
    assert killed.returncode == -signal.SIGKILL
    assert list(tmp_path.glob("biased_digits/*/incomplete.*"))
    builder = prepare(TINY, tmp_path)
    assert len(load_split(builder, "train")) == 30
    assert len(load_split(builder, "test_confounding")) == 10


def test_the_faster_of_two_processes_provides_the_data(tmp_path: Path):
    def other_process(done: int, _: int) -> None:
        if done == 30:
            prepare(TINY, tmp_path)

    builder = prepare(TINY, tmp_path, progress=other_process)
    assert len(load_split(builder, "train")) == 30


def test_other_failures_of_the_disk_are_not_hidden(tmp_path: Path):
    def full(*_: int) -> None:
        raise OSError("no space left on device")

    with pytest.raises(OSError, match="no space left"):
        prepare(TINY, tmp_path, progress=full)
    assert len(load_split(prepare(TINY, tmp_path), "train")) == 30


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (BiasedDigitsConfig(limit=20), "class '0' has 2 digits, too few"),
        (BiasedDigitsConfig(limit=50, mask_dilation=30), "leaves no background to a mark"),
        (BiasedDigitsConfig(limit=50, mark=BackgroundMark(size=33)), "does not fit on an image"),
    ],
)
def test_what_cannot_be_made_leaves_nothing_behind(
    tmp_path: Path, config: BiasedDigitsConfig, message: str
):
    with pytest.raises(UserError, match=message):
        prepare(config, tmp_path)
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_missing_shards_are_named(copied: Path):
    (copied / "biased_digits-validation.array_record-00000-of-00001").unlink()
    with pytest.raises(UserError, match=r"1 of 5 files are missing .*-validation.array_record"):
        prepare(PREPARED, copied.parent.parent.parent)


def test_a_missing_description_of_the_data_is_told(copied: Path):
    (copied / "dataset_info.json").unlink()
    with pytest.raises(UserError, match=r"do not have the splits train, .*Delete the folder"):
        prepare(PREPARED, copied.parent.parent.parent)


@pytest.mark.parametrize("length", [0, 100, 40_000])
def test_a_damaged_shard_is_told(copied: Path, length: int):
    os.truncate(copied / "biased_digits-train.array_record-00000-of-00001", length)
    builder = prepare(PREPARED, copied.parent.parent.parent)
    with pytest.raises(UserError, match=r"split 'train' in .* cannot be read .*Delete this folder"):
        load_split(builder, "train")


def test_an_unknown_split(builder: BiasedDigits):
    with pytest.raises(UserError, match="unknown split 'test_bias'; did you mean 'test_biased'"):
        load_split(builder, "test_bias")


def test_tensorflow_is_not_imported(tmp_path: Path):
    script = f"""
import sys
from isnet_jax.data import BiasedDigitsConfig, load_split, prepare, train_iterator
split = load_split(prepare(BiasedDigitsConfig(limit=50), {str(tmp_path)!r}), "train")
next(train_iterator(split, 8, seed=0))
print("tensorflow" in sys.modules)
"""
    result = subprocess.run(
        [sys.executable, "-W", "error", "-c", script], check=True, capture_output=True, text=True
    )
    assert (result.stdout, result.stderr) == ("False\n", "")


def test_a_file_as_the_folder_of_data_sets(tmp_path: Path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"file is no folder; expected the parent.*--data-dir"):
        prepare(TINY, tmp_path / "file")
    with pytest.raises(UserError, match=r"cannot be prepared in .*Choose another --data-dir"):
        prepare(TINY, tmp_path / "file" / "below")
