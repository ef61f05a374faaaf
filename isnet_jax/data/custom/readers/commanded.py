"""Masks that a program of the user's makes, called once for each image."""

import contextlib
import os
import re
import shlex
import shutil
import signal
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from jaxtyping import Bool
from PIL import Image

from isnet_jax.data.custom.readers.made_masks import NoMask
from isnet_jax.data.custom.readers.pictures import MaskFile, PixelRules, is_turned
from isnet_jax.data.custom.readers.samples import Contents, Record, Rejected, without_addresses
from isnet_jax.errors import UserError, printable

_PLACES: Final = ("{image}", "{mask}")
_TOLD: Final = 400  # of a program's own words, from the end
_REMEDY: Final = "Try the command by hand"


@dataclass(frozen=True)
class ByCommand:
    """Masks of a command such as `tool --in {image} --out {mask}`.

    It is started once for each image, without a shell: words are separated, and quoted, as a shell
    has them, and nothing else is expanded. {image} becomes the image's file, or, of a picture that
    is stored turned (EXIF), an upright PNG of its name; {mask} the file to write the mask to, which
    is read as masks of `prepare folder` are. No file means no mask.

    Attributes:
        command: the words.
        seconds: that it may take for an image; then it is ended, with all it has started.

    Raises:
        UserError: the words lack a place, or name no program.
    """

    command: str
    seconds: float = 60.0

    def __post_init__(self) -> None:
        try:
            words = shlex.split(self.command)
        except ValueError as error:
            raise UserError(f"masks_command is {self.command!r} ({error}).") from error
        lacking = [place for place in _PLACES if not any(place in word for word in words[1:])]
        if lacking:
            raise UserError(
                f"masks_command is {self.command!r}; expected a program followed by {{image}} and "
                f"{{mask}}, of which {' and '.join(lacking)} is missing."
            )
        if shutil.which(words[0]) is None:
            raise UserError(
                f"masks_command: there is no program {printable(repr(words[0]))}. Correct its "
                "name, or give its whole path."
            )
        if not 0 < self.seconds < float("inf"):
            raise UserError(f"mask_seconds is {self.seconds}; expected above 0, finite.")

    @property
    def options(self) -> dict[str, Any]:
        return {"masks_command": self.command}

    def make(
        self, image: Path | Record, pixels: np.ndarray, rules: PixelRules
    ) -> Bool[np.ndarray, "h w"]:
        """The mask that the command writes; see `MaskMaker`."""
        with tempfile.TemporaryDirectory() as folder:
            mask = Path(folder, "mask.png")
            if isinstance(image, Record) or is_turned(image):
                stem = "image" if isinstance(image, Record) else image.stem
                given = Path(folder, "image", f"{stem}.png")
                given.parent.mkdir()
                Image.fromarray(pixels).save(given)
            else:
                given = Path(os.path.abspath(image))
            self._run(given, mask, Path(folder, "errors"))
            if not os.path.lexists(mask):
                raise NoMask(
                    "has no mask, and the masks' command wrote none",
                    "Draw one, or take images without a mask too: --allow-missing-masks",
                )
            try:
                height, width = pixels.shape[:2]
                found = MaskFile(mask, (), rules).read(height, width, Contents())
            except Rejected as error:
                raise Rejected(
                    f"got a mask by the masks' command that {error.wrong}", _REMEDY
                ) from error
        assert found.mask is not None
        return found.mask

    def _run(self, image: Path, mask: Path, errors: Path) -> None:
        """Runs the command; what it says on stderr goes into a file, so that it never waits."""
        files = {"{image}": str(image), "{mask}": str(mask)}
        places = re.compile("|".join(map(re.escape, _PLACES)))
        words = [
            places.sub(lambda found: files[found.group()], word)
            for word in shlex.split(self.command)
        ]
        with errors.open("wb") as told:
            try:
                process = subprocess.Popen(
                    words,
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=told,
                    start_new_session=True,
                )
            except (OSError, ValueError) as error:
                raise Rejected(f"cannot be given to the masks' command ({error})", _REMEDY) from (
                    error
                )
            try:
                code = process.wait(self.seconds)
            except subprocess.TimeoutExpired as error:
                raise Rejected(
                    f"gets no mask: the masks' command took more than {self.seconds:g} seconds",
                    "Give it more time (--mask-seconds)",
                ) from error
            finally:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        if code:
            ended = f"with exit code {code}" if code > 0 else f"by signal {-code}"
            raise Rejected(
                f"gets no mask: the masks' command ended {ended}: {_end(errors)}", _REMEDY
            )


def _end(file: Path) -> str:
    """The last words that a program has said, in one line, the same words each time."""
    with file.open("rb") as said:
        said.seek(0, os.SEEK_END)
        said.seek(max(0, said.tell() - _TOLD))
        text = said.read().decode(errors="replace").replace(f"{file.parent}{os.sep}", "")
    words = " ".join(without_addresses(text).split())
    return words.rstrip(".") or "it said nothing"
