import gzip
import urllib.error
from pathlib import Path

import numpy as np
import pytest
import tensorflow_datasets as tfds

from isnet_jax.data.digits.sources import IDX_NAMES, MNIST_URL, fingerprint, load_digits
from isnet_jax.errors import UserError


def idx_bytes(array: np.ndarray) -> bytes:
    header = [0x800 + array.ndim, *array.shape]
    return np.array(header, dtype=">i4").tobytes() + array.astype(np.uint8).tobytes()


@pytest.fixture
def idx_folder(tmp_path: Path) -> Path:
    """30 training and 10 test images of five classes, the training images compressed."""
    rng = np.random.default_rng(1)
    folder = tmp_path / "idx"
    folder.mkdir()
    for name, count in zip(IDX_NAMES, (30, 30, 10, 10), strict=True):
        if "labels" in name:
            content = idx_bytes(np.arange(count) % 5)
        else:
            content = idx_bytes(rng.integers(0, 256, (count, 28, 28)))
        if name == "train-images-idx3-ubyte":
            (folder / f"{name}.gz").write_bytes(gzip.compress(content, mtime=0))
        else:
            (folder / name).write_bytes(content)
    return folder


def test_packaged_digits_are_mnist():
    digits = load_digits()
    assert digits.images.shape == (5000, 28, 28)
    assert digits.images.dtype == np.uint8
    assert digits.images.max() == 255
    assert digits.labels.dtype == np.int32
    assert np.bincount(digits.labels).tolist() == [500] * 10
    assert digits.class_names == tuple("0123456789")


def test_a_limit_keeps_the_classes_in_equal_shares():
    full, some = load_digits(), load_digits(limit=23)
    assert len(some) == 23
    assert sorted(np.bincount(some.labels).tolist()) == [2] * 7 + [3] * 3
    first_zero = full.images[np.flatnonzero(full.labels == 0)[0]]
    np.testing.assert_array_equal(some.images[0], first_zero)


@pytest.mark.parametrize("limit", [9, 0, 5001])
def test_a_limit_out_of_range(limit: int):
    with pytest.raises(UserError, match=rf"limit is {limit}, but must be between 10, .* and 5,000"):
        load_digits(limit=limit)


def test_an_unknown_source():
    message = r"unknown source of digits 'mnist-mimi'; did you mean 'mnist-mini'\?"
    with pytest.raises(UserError, match=message):
        load_digits("mnist-mimi")  # pyright: ignore[reportArgumentType]
    with pytest.raises(UserError, match=message):
        fingerprint("mnist-mimi")  # pyright: ignore[reportArgumentType]


def test_packaged_digits_read_no_folder(tmp_path: Path):
    with pytest.raises(UserError, match="reads no folder"):
        load_digits("mnist-mini", tmp_path)


def test_idx_joins_training_and_test_files(idx_folder: Path):
    digits = load_digits("idx", idx_folder)
    assert digits.images.shape == (40, 28, 28)
    assert digits.labels.tolist() == [i % 5 for i in range(30)] + [i % 5 for i in range(10)]
    assert len(digits.class_names) == 5
    compressed = (idx_folder / f"{IDX_NAMES[0]}.gz").read_bytes()
    pixels = np.frombuffer(gzip.decompress(compressed), np.uint8)[16:]
    np.testing.assert_array_equal(digits.images[:30].ravel(), pixels)


def test_idx_needs_a_folder():
    with pytest.raises(UserError, match="needs a folder"):
        load_digits("idx")


def test_idx_names_the_missing_files(idx_folder: Path):
    (idx_folder / IDX_NAMES[1]).unlink()
    (idx_folder / IDX_NAMES[2]).unlink()
    with pytest.raises(UserError, match=f": {IDX_NAMES[1]}, {IDX_NAMES[2]}. Expected the four"):
        load_digits("idx", idx_folder)
    with pytest.raises(UserError, match="which is not a folder: train-images"):
        load_digits("idx", idx_folder / "absent")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (IDX_NAMES[1], idx_bytes(np.zeros((30, 28, 28))), "starts with the number 2051, expected"),
        (IDX_NAMES[2], idx_bytes(np.zeros((10, 32, 32))), "images of 32 x 32 pixels, expected 28"),
        (IDX_NAMES[2], idx_bytes(np.zeros((10, 28, 28)))[:-1], "promises 10 items"),
        (IDX_NAMES[3], idx_bytes(np.zeros(11)), "10 images but .* 11 labels"),
        (IDX_NAMES[3], b"\0\0\x08", "has 3 bytes, less than the 8 of its header"),
        (f"{IDX_NAMES[0]}.gz", b"no gzip", "is not a whole gzip file"),
        (f"{IDX_NAMES[0]}.gz", gzip.compress(bytes(99), mtime=0)[:-9], "is not a whole gzip file"),
    ],
)
def test_malformed_idx_files(idx_folder: Path, name: str, content: bytes, message: str):
    (idx_folder / name).write_bytes(content)
    with pytest.raises(UserError, match=message) as caught:
        load_digits("idx", idx_folder)
    assert name in str(caught.value)


def test_idx_files_without_images(idx_folder: Path):
    for name in IDX_NAMES:
        shape = (0,) if "labels" in name else (0, 28, 28)
        (idx_folder / name).write_bytes(idx_bytes(np.zeros(shape)))
    (idx_folder / f"{IDX_NAMES[0]}.gz").unlink()
    with pytest.raises(UserError, match="hold no images"):
        load_digits("idx", idx_folder)


def test_fingerprint_follows_the_content_of_the_files(idx_folder: Path, tmp_path: Path):
    before = fingerprint("idx", idx_folder)
    moved = idx_folder.rename(tmp_path / "moved")
    assert fingerprint("idx", moved) == before
    (moved / IDX_NAMES[3]).write_bytes(idx_bytes(np.zeros(10)))
    assert fingerprint("idx", moved) != before
    assert fingerprint("mnist") == "mnist"
    assert fingerprint("mnist", moved) not in ("mnist", before)


def test_mnist_is_read_from_a_folder_with_its_files(idx_folder: Path):
    assert len(load_digits("mnist", idx_folder)) == 40


def test_mnist_is_found_among_the_downloads_of_tfds(idx_folder: Path):
    for path in list(idx_folder.iterdir()):
        raw = path.read_bytes()
        content = raw if path.suffix == ".gz" else gzip.compress(raw, mtime=0)
        cached = f"cvdf-datasets_mnist_{path.name.removesuffix('.gz')}Ab3_x.gz"
        (idx_folder / cached).write_bytes(content)
        path.unlink()
    assert len(load_digits("mnist", idx_folder)) == 40


def test_mnist_without_network_says_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def unreachable(*_: object, **__: object) -> None:
        raise urllib.error.URLError("no route")

    monkeypatch.setattr("urllib.request.urlopen", unreachable)
    with pytest.raises(UserError, match=r"cannot be downloaded from .*no route.*'mnist-mini'"):
        load_digits("mnist", tmp_path)


def test_mnist_is_downloaded_with_its_checksums(
    idx_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    class Manager:
        def __init__(self, *, download_dir: Path, force_checksums_validation: bool):
            assert download_dir == tmp_path / "downloads"
            assert force_checksums_validation

        def download(self, urls: list[str]) -> list[Path]:
            names = [url.removeprefix(MNIST_URL).removesuffix(".gz") for url in urls]
            return [next(idx_folder.glob(f"{name}*")) for name in names]

    class Answer:
        def close(self) -> None: ...

    monkeypatch.setattr("urllib.request.urlopen", lambda *_, **__: Answer())
    monkeypatch.setattr(tfds.download, "DownloadManager", Manager)
    assert len(load_digits("mnist", tmp_path / "downloads")) == 40
