"""What a network's checkpoints belong to, in model.json beside them."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax.numpy as jnp
from flax import nnx

from isnet_jax import models
from isnet_jax.errors import UserError, printable
from isnet_jax.methods.method import Blueprint, Method
from isnet_jax.training.serial import method_from, read_record, write_record

DESCRIPTION = "model.json"
_LARGEST_SIDE = 16_384


@dataclasses.dataclass(frozen=True)
class ModelDescription:
    """What is needed to build the network that a checkpoint's weights belong to.

    Attributes:
      architecture: one of `models.list()`.
      num_classes: at least 1.
      class_names: of each class.
      image_shape: (H, W, C) of the training images, sides of 1 to 16,384; networks of one image
        size are made for H.
      options: others of `models.create` that differ from its defaults; kept as JSON's values,
        with dtypes by name.
      method: name and options, as `to_dict` gives them, of a method that trains another network
        than that of the architecture alone; None: the method makes no difference.

    Raises:
      UserError: an unknown architecture or option, an option that JSON cannot hold, names of
        another number of classes, or a shape out of its range.
    """

    architecture: str
    num_classes: int
    class_names: tuple[str, ...]
    image_shape: tuple[int, ...]
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict, hash=False)
    method: Mapping[str, Any] | None = dataclasses.field(default=None, hash=False)

    def __post_init__(self):
        options = dict(self.options)
        models.check_options(self.architecture, options)
        try:
            if options.get("dtype") is not None:
                options["dtype"] = jnp.dtype(options["dtype"]).name
            options = json.loads(json.dumps(options))
        except TypeError as error:
            raise UserError(
                f"ModelDescription: options are {options}; expected values of JSON: numbers, "
                "texts, lists; and dtypes by name."
            ) from error
        object.__setattr__(self, "options", options)
        self._method()
        if not 1 <= self.num_classes == len(self.class_names):
            raise UserError(
                f"ModelDescription: num_classes is {self.num_classes} and there are "
                f"{len(self.class_names)} class_names; expected as many, at least 1."
            )
        shape, channels = self.image_shape, options.get("in_channels", 3)
        if (
            len(shape) != 3
            or not all(1 <= side <= _LARGEST_SIDE for side in shape[:2])
            or shape[2] != channels
        ):
            raise UserError(
                f"ModelDescription: image_shape is {shape}; expected height and width of 1 to "
                f"{_LARGEST_SIDE:,} and {channels} channels."
            )

    def create(self, seed: int = 0) -> nnx.Module:
        """The network with fresh weights, as it is trained.

        Raises:
          UserError: options that make no network.
        """
        sized = "image_size" in models.options(self.architecture)
        options = ({"image_size": self.image_shape[0]} if sized else {}) | dict(self.options)
        rngs = nnx.Rngs(seed)

        def classifier() -> nnx.Module:
            return models.create(
                self.architecture, num_classes=self.num_classes, rngs=rngs, **options
            )

        blueprint = Blueprint(self.num_classes, self.image_shape, rngs, classifier)
        try:
            return self._method().network(blueprint)
        except (TypeError, ValueError, OverflowError) as error:
            if isinstance(error, UserError):
                raise
            raise UserError(
                f"ModelDescription: {self.architecture} cannot be made with the options {options} "
                f"({error})."
            ) from error

    def deployed(self, model: nnx.Module) -> nnx.Module:
        """What is needed at run time of the network that `create` made: images to logits."""
        return self._method().deployed(model)

    def _method(self) -> Method:
        return Method() if self.method is None else method_from(self.method, "ModelDescription")


@dataclasses.dataclass(frozen=True)
class _Record(ModelDescription):
    """What model.json holds.

    Attributes:
      training: its `identity`, which its checkpoints hold too; None: of an earlier version.
    """

    training: str | None = None


def write_description(
    folder: Path,
    description: ModelDescription,
    training: Callable[[], str | None] = lambda: None,
) -> None:
    """Record beside a network's checkpoints what it is; a record that is there stays.

    Args:
      training: gives the `identity` of its training; not called for a record that is there.

    Raises:
      UserError: the folder holds another network.
    """
    if (folder / DESCRIPTION).exists():
        found = read_description(folder)
        if found != description:
            raise UserError(
                f"{printable(folder)} holds another network, {_words(found)}; expected "
                f"{_words(description)}. "
                "Choose another folder."
            )
        return
    write_record(folder / DESCRIPTION, dataclasses.asdict(description) | {"training": training()})


def read_description(folder: Path) -> ModelDescription:
    """What the network in a folder is.

    Raises:
      UserError: there is none, or its record is incomplete.
    """
    names = [field.name for field in dataclasses.fields(ModelDescription)]
    record = _read(folder)
    return ModelDescription(**{name: getattr(record, name) for name in names})


def training_in(folder: Path) -> str | None:
    """`identity` of the training in a folder; None where it is not known.

    Raises:
      UserError: the network's record is incomplete.
    """
    return _read(folder).training if (folder / DESCRIPTION).is_file() else None


def _read(folder: Path) -> _Record:
    file = folder / DESCRIPTION
    if not file.is_file():
        nearby = sorted(str(path.parent) for path in folder.glob(f"*/{DESCRIPTION}"))
        hint = f" Did you mean {' or '.join(nearby)}?" if nearby else ""
        raise UserError(
            f"{printable(folder)} holds no network; expected {DESCRIPTION} and best/, as a run's "
            "plain/ and "
            f"isnet/ have.{hint}"
        )
    return read_record(
        _Record,
        file,
        "Delete it and the run's metrics.json, and give the command of its training again: both "
        "are written anew.",
    )


def _words(description: ModelDescription) -> str:
    shape = " x ".join(map(str, description.image_shape))
    options = f" with {dict(description.options)}" if description.options else ""
    return (
        f"a {description.architecture!r}{options} for {description.num_classes} classes of {shape} "
        "images"
    )
