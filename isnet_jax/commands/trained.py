"""A network of a run, for what is done with it afterwards: predictions, an export."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

import numpy as np
from flax import nnx
from jaxtyping import Float32

from isnet_jax.commands import run_folder
from isnet_jax.commands.network import network_of_run
from isnet_jax.data.custom.fitting import Fit
from isnet_jax.data.custom.picture import read_image
from isnet_jax.data.custom.readers.pictures import PixelRules
from isnet_jax.errors import UserError, printable
from isnet_jax.objective.config import ISNetConfig
from isnet_jax.training import ModelDescription


@dataclasses.dataclass(frozen=True)
class Reading:
    """How image files become what a network takes; as its training images were read.

    Attributes:
      fit: how images of another size are brought to the network's.
      white: the value of white in 16-bit grey images; None: 65,535.
      grey: images in colour become grey, because all training images were.
    """

    fit: Fit = "crop"
    white: int | None = None
    grey: bool = False

    def read(self, path: Path, shape: tuple[int, ...]) -> Float32[np.ndarray, "h w c"]:
        """The pixels of a file, (height, width, channels) in [0, 1].

        Raises:
          Rejected: it is no picture that can be used.
        """
        height, width, channels = shape
        rules = PixelRules(white=self.white)
        image = read_image(path, (height, width), 1 if self.grey else channels, self.fit, rules)
        return np.broadcast_to(image, shape)


@dataclasses.dataclass(frozen=True)
class _Known:
    """What is needed of a run's settings; earlier versions did not say how files were read."""

    isnet: ISNetConfig
    method: str = "isnet"
    reading: Reading = dataclasses.field(default_factory=Reading)


@dataclasses.dataclass(frozen=True)
class Trained:
    """A network of a run, in eval mode.

    Attributes:
      folder: of the run.
      name: of its method, or "plain".
      multi_label: any number of classes in an image.
      reading: how files become its images.
    """

    folder: Path
    name: str
    multi_label: bool
    reading: Reading
    model: nnx.Module
    description: ModelDescription

    def probabilities(self, logits: np.ndarray) -> np.ndarray:
        """(N, classes): of the one class, or, multi-label, of each."""
        wide = logits.astype(np.float64)
        if self.multi_label:
            return 1 / (1 + np.exp(-wide))
        exponentials = np.exp(wide - wide.max(1, keepdims=True))
        return exponentials / exponentials.sum(1, keepdims=True)


def trained(place: Path, name: str | None = None) -> Trained:
    """A network by the folder of its run, or by its own in it.

    Args:
      name: of the run's method, or "plain"; None: the one whose folder it is, or the method's.

    Raises:
      UserError: no run there, no such network in it, or one that is not trained yet.
    """
    folder = place
    if not (place / run_folder.RUN_FILE).is_file() and (place / "model.json").is_file():
        whole = Path(os.path.realpath(place))
        folder, own = whole.parent, whole.name
        if name not in (None, own):
            raise UserError(
                f"{printable(place)} is the network {own!r}; expected no --network {name}."
            )
        name = own
    if run_folder.read(folder).get("kind") == run_folder.SEGMENTER:
        raise UserError(
            f"{printable(folder)} is the run of a segmenter; expected one of classifiers. What it "
            "draws are masks: isnet-jax prepare folder IMAGES --masks-by RUN."
        )
    known = run_folder.read_as(_Known, folder)
    name = name or known.method
    model, description = network_of_run(folder / name)
    multi_label = known.isnet.classification.task == "multilabel"
    return Trained(folder, name, multi_label, known.reading, model, description)
