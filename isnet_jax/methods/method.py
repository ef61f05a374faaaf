"""What a method is: the loss of a batch, and the network before, during and after training."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, NamedTuple, Self

from flax import nnx
from jaxtyping import Array, Float

from isnet_jax.data.split import Split
from isnet_jax.objective.batch import Batch
from isnet_jax.objective.classification import Classification

LossAndAux = tuple[Float[Array, ""], dict[str, Array]]
LossFunction = Callable[
    [nnx.Module, Mapping[str, Any] | Batch, Array, Array | int], tuple[Array, dict[str, Array]]
]
"""(model, batch, key, number of updates so far) -> loss, aux."""


@dataclasses.dataclass(frozen=True)
class Context:
    """What a loss may need beside model and batch.

    Attributes:
      key: the step's JAX key, the same on all devices; random choices of a sample go by
        `fold_in(key, number)` with its number of `batch.numbers(axis_name)`.
      step: the number of updates so far; None where nothing is trained.
      axis_name: the mapped axis over which the batch is split: the mean of the devices' losses
        shall be the loss of the whole batch. None: it is not split.
    """

    key: Array
    step: Array | int | None = None
    axis_name: str | None = None


@dataclasses.dataclass(frozen=True)
class Blueprint:
    """What network is wanted.

    Attributes:
      num_classes: of the logits.
      image_shape: (height, width, channels).
      rngs: draws the weights; a seed gives the same ones each time.
      classifier: makes a network of `isnet_jax.models`, the one that the user chose.
    """

    num_classes: int
    image_shape: tuple[int, ...]
    rngs: nnx.Rngs
    classifier: Callable[[], nnx.Module]


class Earlier(NamedTuple):
    """A stage that is trained before.

    Attributes:
      method: how.
      epochs: passes over the training images; None: as many as the training that follows.
    """

    method: Method
    epochs: int | None = None


class Setup(NamedTuple):
    """How a training begins: the method, knowing its data, and what is trained and validated on."""

    method: Method
    train: Split
    validation: Split


@dataclasses.dataclass(frozen=True, kw_only=True)
class Method:
    """A way to train a classifier. A subclass is a frozen dataclass of its options.

    Only `loss` has to be written: a method that trains the user's network as it is needs no more.
    What is looked up in a run folder is the name and the options, so both have to stay.

    Attributes:
      name: of `--method NAME`, and of the options: `--NAME.weight`.
      classification: the classification loss.
    """

    name: ClassVar[str]

    classification: Classification = dataclasses.field(default_factory=Classification)

    def classified_by(self, classification: Classification) -> Self:
        """The same method with another classification loss."""
        return dataclasses.replace(self, classification=classification)

    def loss(self, model: nnx.Module, batch: Batch, context: Context) -> LossAndAux:
        """The loss of a batch, to be differentiated by the model's `nnx.Param`s.

        Args:
          model: what `network` made, in train mode; its other variables (batch statistics, or a
            state of the method's own) are changed in place and kept.
          batch: of the training images; `batch.annotated()` where masks are needed.

        Returns:
          The mean over the samples, and aux: "logits" (B, classes) of the images; scalars beside
          are averaged and logged by their names.
        """
        raise NotImplementedError

    def validated(self, model: nnx.Module, batch: Batch, context: Context) -> LossAndAux:
        """As `loss`, in eval mode, on validation images: what makes an epoch the best.

        Losses of different epochs have to be comparable, and "accuracy" of the images as they are.
        """
        return self.loss(model, batch, context)

    @property
    def uses_masks(self) -> bool:
        """Whether the loss looks at the masks of training images."""
        return True

    def network(self, blueprint: Blueprint) -> nnx.Module:
        """What is trained: the user's classifier, or a network around it or in its place.

        Called without arrays too (`nnx.eval_shape`), when a network is loaded.
        """
        return blueprint.classifier()

    def deployed(self, model: nnx.Module) -> nnx.Module:
        """What of the network is needed at run time: images (B, H, W, C) to logits (B, classes).

        This is judged, explained and exported. A part of `model`, or a module around it.
        """
        return model

    @property
    def earlier(self) -> Earlier | None:
        """What is trained first, on the same data, by the same step."""
        return None

    def setup(self, train: Split, validation: Split, earlier: nnx.Module | None) -> Setup:
        """How the training begins.

        Args:
          earlier: the network of the stage before, as deployed; None if there is none, or, before
            anything is computed, for a look at shapes: then values do not count.

        Raises:
          UserError: the data lack what the method needs.
        """
        return Setup(self, train.without_groups(), validation.without_groups())

    def begin(self, model: nnx.Module, earlier: nnx.Module) -> None:
        """Take over what the stage before has learnt, in place; `model` as `network` made it."""
