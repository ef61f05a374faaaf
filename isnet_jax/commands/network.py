"""Which network a command works on: one of a run, or an architecture with a file of weights."""

from __future__ import annotations

import dataclasses
import functools
import re
from pathlib import Path
from typing import Literal

import jax
import numpy as np
from flax import nnx

from isnet_jax import lrp, models
from isnet_jax.commands import run_folder
from isnet_jax.commands.terminal import console, warn
from isnet_jax.data.custom.readers.names import in_lines
from isnet_jax.data.custom.readers.samples import read_text
from isnet_jax.errors import UserError, printable, suggest
from isnet_jax.evaluation.background import JUDGE
from isnet_jax.models.weight_files import weights_of
from isnet_jax.training import ModelDescription, load_network

_LARGEST_SIDE, _MOST_CHANNELS, _MOST_CLASSES = 8192, 64, 100_000
_ANY_CLASSES = 10  # Of a network without weights, where their number does not matter.
DEFAULT_CHECKPOINT = Path("runs/biased-digits/isnet")

COMPOSITES: dict[str, lrp.Composite | lrp.Rule] = {
    "isnet": JUDGE,
    "gradient": lrp.Gradient(),
    "epsilon": lrp.Epsilon(1e-2),
    "zplus": lrp.ZPlus(),
    "isnet-block": lrp.ISNetBlock(first=lrp.ZBox(0.0, 1.0)),
    "epsilon-plus": lrp.EpsilonPlus(),
    "epsilon-plus-flat": lrp.EpsilonPlusFlat(),
    "epsilon-alpha2-beta1": lrp.EpsilonAlpha2Beta1(),
    "epsilon-alpha2-beta1-flat": lrp.EpsilonAlpha2Beta1Flat(),
    "epsilon-gamma-box": lrp.EpsilonGammaBox(0.0, 1.0),
    "excitation-backprop": lrp.ExcitationBackprop(),
    "guided-backprop": lrp.GuidedBackprop(),
    "deconvnet": lrp.Deconvnet(),
    "attn-lrp": lrp.AttnLRP(),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class NetworkChoice:
    """A network, and the LRP that explains it.

    Attributes:
      checkpoint: a network's folder in a run; runs/biased-digits/isnet if neither this nor a
        model is named.
      architecture: refuse a checkpoint of any other architecture.
      model: instead of a checkpoint, the name of an architecture, such as resnet50.
      weights: the model's weights in PyTorch's names: a .safetensors file, or .pth with torch
        installed.
      classes: the model's class names, a file with one on each line, or their number; the number
        is taken from the weights if left out.
      image_size: side in pixels of the images that the model gets.
      in_channels: the model's input, 1 for grey and 3 for colour images.
      normalisation: of images in [0, 1] inside the model, by the mean and deviation that its
        weights were trained with.
      transition_relu: the papers' DenseNet, with one more ReLU in each transition.
      rules: the LRP composite by name: isnet (z^B, then LRP-epsilon), gradient, epsilon, zplus,
        epsilon-plus-flat, attn-lrp (for transformers) and others; a wrong name lists all.
    """

    checkpoint: Path | None = None
    architecture: str | None = None
    model: str | None = None
    weights: Path | None = None
    classes: str | None = None
    image_size: int = 224
    in_channels: int = 3
    normalisation: Literal["imagenet", "half", "none"] = "imagenet"
    transition_relu: bool = False
    rules: str = "isnet"

    def __post_init__(self):
        for option, value, most in (
            ("--image-size", self.image_size, _LARGEST_SIDE),
            ("--in-channels", self.in_channels, _MOST_CHANNELS),
            ("--classes", self.count, _MOST_CLASSES),
        ):
            if value is not None and not 1 <= value <= most:
                raise UserError(f"{option} is {value}; expected 1 to {most:,}.")

    @property
    def count(self) -> int | None:
        """The number of classes, if `classes` is one."""
        number = re.fullmatch(r"\s*[+-]?\d{1,99}\s*", self.classes or "", re.ASCII)
        return None if number is None else int(number[0])


@dataclasses.dataclass(frozen=True)
class ChosenNetwork:
    """A network in eval mode, its class names, the (height, width, channels) of its images."""

    model: nnx.Module
    class_names: tuple[str, ...]
    image_shape: tuple[int, ...]


def chosen_rules(choice: NetworkChoice) -> lrp.Composite | lrp.Rule:
    """The composite by its name.

    Raises:
      UserError: an unknown name.
    """
    if choice.rules not in COMPOSITES:
        raise UserError(suggest(choice.rules, COMPOSITES, what="composite"))
    return COMPOSITES[choice.rules]


def chosen_network(choice: NetworkChoice, *, random_weights: bool = False) -> ChosenNetwork:
    """Build and load the network that the options name.

    Args:
      random_weights: a model without weights will do.

    Raises:
      UserError: options that contradict each other, no such checkpoint or weights, weights or
        class names that do not fit.
    """
    if choice.model is None:
        if choice.weights is not None or choice.classes is not None:
            raise UserError(
                "--weights and --classes belong to a --model; a checkpoint has its own. Add "
                "--model NAME, such as --model resnet50."
            )
        folder = choice.checkpoint or DEFAULT_CHECKPOINT
        model, description = network_of_run(folder, choice.architecture)
        return ChosenNetwork(model, description.class_names, description.image_shape)
    if choice.checkpoint is not None or choice.architecture is not None:
        raise UserError("--model and --checkpoint name two networks; expected one of them.")
    if choice.model not in models.list():
        raise UserError(suggest(choice.model, models.list(), what="model"))
    if choice.weights is None and not random_weights:
        raise UserError(
            f"--model {choice.model} needs its --weights: a network that was not trained has "
            "nothing to explain."
        )
    weights = None if choice.weights is None else models.read_weights(choice.weights)
    names = _class_names(choice, weights)
    model = _create(choice, len(names))
    if choice.weights is not None and weights is not None:
        with weights_of(choice.weights):
            models.load_torch(model, weights)
    model.eval()
    shape = (choice.image_size, choice.image_size, choice.in_channels)
    return ChosenNetwork(model, names, shape)


def files_of(choice: NetworkChoice) -> list[Path]:
    """The files that `chosen_network` reads, and what else a run keeps beside them."""
    named = [choice.weights, None if choice.classes is None else Path(choice.classes).expanduser()]
    return [*filter(None, named), *run_folder.records(choice.checkpoint or DEFAULT_CHECKPOINT)]


def network_of_run(
    folder: Path, architecture: str | None = None
) -> tuple[nnx.Module, ModelDescription]:
    """`load_network`, which says on stderr what it passed over."""
    told = console(stderr=True)

    return load_network(folder, architecture, functools.partial(warn, told))


def _create(choice: NetworkChoice, num_classes: int) -> models.Network:
    assert choice.model is not None
    options = {
        "in_channels": choice.in_channels,
        "normalisation": None if choice.normalisation == "none" else choice.normalisation,
    }
    if choice.transition_relu:
        options["transition_relu"] = True
    if choice.model.startswith("vit"):
        options["image_size"] = choice.image_size
    return models.create(choice.model, num_classes=num_classes, rngs=nnx.Rngs(0), **options)


def _class_names(choice: NetworkChoice, weights: object) -> tuple[str, ...]:
    """From the file of names, or numbers as many as were given or as the weights have."""
    given, count = choice.classes, choice.count
    if given is None and choice.weights is not None:
        abstract = nnx.eval_shape(lambda: _create(choice, 1))
        with weights_of(choice.weights):
            count = models.number_of_classes(abstract, weights)  # pyright: ignore
            if not 1 <= count <= _MOST_CLASSES:
                raise UserError(
                    f"the last dense layer has {count:,} classes; expected 1 to {_MOST_CLASSES:,}. "
                    "Is this the file of a classifier?"
                )
    if given is None or count is not None:
        return tuple(str(number) for number in range(count or _ANY_CLASSES))
    try:
        path = Path(given).expanduser()
    except RuntimeError as error:
        raise UserError(f"--classes is {given!r} ({error}). Write the whole path.") from error
    text = read_text(path, "a number for --classes, or a text file with a name on each line")
    names = in_lines(text, f"--classes: {given}", outputs=True) if text.strip() else ()
    if not 1 <= len(names) <= _MOST_CLASSES:
        raise UserError(
            f"--classes: {printable(given)} has {len(names)} names; expected 1 to "
            f"{_MOST_CLASSES:,}, one on each line."
        )
    return names


def abstract_images(network: ChosenNetwork) -> jax.ShapeDtypeStruct:
    """One image of the network's size, as far as tracing needs it."""
    return jax.ShapeDtypeStruct((1, *network.image_shape), np.float32)
