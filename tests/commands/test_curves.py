"""TensorBoard's files, and what a full disk makes of them."""

import contextlib
import errno
import io
import resource
import struct
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tensorboardX.proto.event_pb2 import (
    Event,  # pyright: ignore[reportAttributeAccessIssue]
    SessionLog,  # pyright: ignore[reportAttributeAccessIssue]
)

from isnet_jax.commands.curves import Curves
from isnet_jax.commands.main import exit_codes


@contextlib.contextmanager
def full_disk(size: int) -> Iterator[None]:
    """No file gets longer than this."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def events(folder: Path) -> list[Event]:
    (file,) = folder.glob("events.out.tfevents.*")
    data, found = file.read_bytes(), []
    while data:
        (length,) = struct.unpack("<Q", data[:8])
        found.append(Event.FromString(data[12 : 12 + length]))
        data = data[16 + length :]
    return found


def test_what_is_written(tmp_path: Path):
    grid = np.zeros((4, 6, 3), np.uint8)
    grid[0, 0] = 255, 128, 0
    with Curves(tmp_path / "logs", purge_step=6) as curves:
        curves.scalars({"train/loss": 0.5}, 7)
        curves.image("heatmaps", grid, 7)
    *_, start, scalar, image = events(tmp_path / "logs")
    assert (start.step, start.session_log.status) == (6, SessionLog.START)
    assert scalar.step == image.step == 7
    (value,) = scalar.summary.value
    assert (value.tag, value.simple_value) == ("train/loss", 0.5)
    picture = Image.open(io.BytesIO(image.summary.value[0].image.encoded_image_string))
    np.testing.assert_array_equal(np.asarray(picture), grid)


def test_a_full_disk_is_an_error_of_the_caller(tmp_path: Path):
    def write() -> None:
        with Curves(tmp_path, purge_step=1) as curves:
            for step in range(100):
                curves.image("heatmaps", np.zeros((4, 6, 3), np.uint8), step)

    with full_disk(400), pytest.raises(OSError, match="File too large"):
        write()


def test_a_full_disk_does_not_hide_the_error_before_it(tmp_path: Path):
    def write() -> None:
        with Curves(tmp_path, purge_step=1) as curves:
            curves.scalars({"train/loss": 0.5}, 1)
            raise KeyError

    with full_disk(100), pytest.raises(KeyError):
        write()


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS])
def test_storage_that_takes_nothing_is_said_in_one_message(number: int, capsys):
    with pytest.raises(SystemExit) as raised, exit_codes():
        raise OSError(number, "said by the system", "runs/a")
    assert raised.value.code == 2
    told = capsys.readouterr().err
    assert "said by the system: 'runs/a'" in told
    assert "Make room" in told
    assert "Traceback" not in told


def test_other_errors_of_the_system_are_bugs_of_ours():
    with pytest.raises(FileNotFoundError), exit_codes():
        raise FileNotFoundError(errno.ENOENT, "no such file")
