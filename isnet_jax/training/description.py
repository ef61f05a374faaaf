"""What a network's checkpoints belong to, in model.json beside them."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax.numpy as jnp
from flax import nnx

from isnet_jax import models
from isnet_jax.errors import UserError
from isnet_jax.files import write_atomically

_DESCRIPTION = "model.json"


@dataclasses.dataclass(frozen=True)
class ModelDescription:
    """What is needed to build the network that a checkpoint's weights belong to.

    Attributes:
      architecture: one of `models.list()`.
      num_classes: at least 1.
      class_names: of each class.
      image_shape: (H, W, C) of the training images; networks of one image size are made for H.
      options: others of `models.create` that differ from its defaults; kept as JSON's values,
        with dtypes by name.

    Raises:
      UserError: an option that JSON cannot hold.
    """

    architecture: str
    num_classes: int
    class_names: tuple[str, ...]
    image_shape: tuple[int, ...]
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict, hash=False)

    def __post_init__(self):
        options = dict(self.options)
        if options.get("dtype") is not None:
            options["dtype"] = jnp.dtype(options["dtype"]).name
        try:
            options = json.loads(json.dumps(options))
        except TypeError as error:
            raise UserError(
                f"ModelDescription: options are {options}; expected values of JSON: numbers, "
                "texts, lists."
            ) from error
        object.__setattr__(self, "options", options)

    def create(self, seed: int = 0) -> nnx.Module:
        """The network with fresh weights."""
        sized = "image_size" in models.options(self.architecture)
        size = {"image_size": self.image_shape[0]} if sized else {}
        return models.create(
            self.architecture,
            num_classes=self.num_classes,
            rngs=nnx.Rngs(seed),
            **size | dict(self.options),
        )


def write_description(folder: Path, description: ModelDescription) -> None:
    """Record beside a network's checkpoints what it is.

    Raises:
      UserError: the folder holds another network.
    """
    if (folder / _DESCRIPTION).exists():
        found = read_description(folder)
        if found != description:
            raise UserError(
                f"{folder} holds another network, {_words(found)}; expected {_words(description)}. "
                "Choose another folder."
            )
        return
    text = json.dumps(dataclasses.asdict(description), indent=2) + "\n"
    write_atomically(folder / _DESCRIPTION, text)


def read_description(folder: Path) -> ModelDescription:
    """What the network in a folder is.

    Raises:
      UserError: there is none.
    """
    try:
        fields = json.loads((folder / _DESCRIPTION).read_text())
        return ModelDescription(
            **fields | {key: tuple(fields[key]) for key in ("class_names", "image_shape")}
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        nearby = sorted(str(path.parent) for path in folder.glob(f"*/{_DESCRIPTION}"))
        hint = f" Did you mean {' or '.join(nearby)}?" if nearby else ""
        raise UserError(
            f"{folder} holds no network; expected {_DESCRIPTION} and best/, as a run's plain/ and "
            f"isnet/ have.{hint}"
        ) from error


def _words(description: ModelDescription) -> str:
    shape = " x ".join(map(str, description.image_shape))
    options = f" with {dict(description.options)}" if description.options else ""
    return (
        f"a {description.architecture!r}{options} for {description.num_classes} classes of {shape} "
        "images"
    )
