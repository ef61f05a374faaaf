"""How one network is trained."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any, Literal, get_args

import jax
import numpy as np
import optax
from flax import nnx

from isnet_jax.data import Augmentation, Split, train_iterator
from isnet_jax.errors import UserError, suggest
from isnet_jax.methods.losses import Objective, loss_function, method_of
from isnet_jax.methods.method import LossFunction, Method
from isnet_jax.training.checkpoint import CheckpointConfig
from isnet_jax.training.fine_tuning import FineTuneConfig
from isnet_jax.training.mesh import MeshConfig
from isnet_jax.training.optimiser import OptimiserConfig

SelectBy = Literal["loss", "interventions"]
# What networks compute with: float32 (bfloat16 reaches as far), and int32, which counts steps.
_SMALLEST, _LARGEST = float(np.finfo(np.float32).tiny), float(np.finfo(np.float32).max)
_MOST = 2_000_000_000


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """How one network is trained.

    Attributes:
      objective: a method, or the options of an ISNet, of a plain classifier or of a segmenter.
      optimiser: see there.
      epochs: passes over the training split, at least 1.
      batch_size: samples a step, over all devices, at least 1.
      augmentation: random transformations of image and mask together.
      seed: decides weights, order, shifts and the stochastic choices; 0 to 2**32 - 1.
      patience: end after so many epochs without a new best one; 0 never does.
      select_by: what makes an epoch the best, on validation data: the lowest "loss", or the most
        right predictions with backgrounds exchanged, "interventions". Biased validation images
        prefer networks that are biased alike.
      checkpoints: when they are written and how many are kept.
      profile_steps: first and last step, from 1, to write a profile of; None for no profile.
      launch: how the step runs over devices.
      fine_tune: weights to start from, and what moves how far.
    """

    objective: Objective
    optimiser: OptimiserConfig
    epochs: int
    batch_size: int
    augmentation: Augmentation
    seed: int
    patience: int = 0
    select_by: SelectBy = "loss"
    checkpoints: CheckpointConfig = dataclasses.field(default_factory=CheckpointConfig)
    profile_steps: tuple[int, int] | None = None
    launch: MeshConfig = dataclasses.field(default_factory=MeshConfig)
    fine_tune: FineTuneConfig = dataclasses.field(default_factory=FineTuneConfig)

    def __post_init__(self):
        if self.epochs < 1:
            raise UserError(f"training: epochs is {self.epochs}; expected at least 1.")
        if self.batch_size < 1:
            raise UserError(f"training: batch_size is {self.batch_size}; expected at least 1.")
        if not 0 <= self.seed < 2**32:
            raise UserError(f"training: seed is {self.seed}; expected 0 to 2**32 - 1.")
        if self.patience < 0:
            raise UserError(f"training: patience is {self.patience}; expected at least 0.")
        if self.select_by not in get_args(SelectBy):
            raise UserError("training: " + suggest(self.select_by, get_args(SelectBy), "select_by"))
        if self.profile_steps and not 1 <= self.profile_steps[0] <= self.profile_steps[1]:
            raise UserError(
                f"training: profile_steps is {self.profile_steps}; expected the first and the last "
                "step, 1 <= first <= last."
            )
        self._check_reach()

    def _check_reach(self) -> None:
        """All numbers of the options stay what they are where networks compute with them."""
        for name, value in _numbers(self):
            if isinstance(value, int):
                if abs(value) > (2**32 - 1 if name == "seed" else _MOST):
                    raise UserError(f"training: {name} is {value}; expected at most {_MOST:,}.")
            elif value and not _SMALLEST <= abs(value) <= _LARGEST:
                raise UserError(
                    f"training: {name} is {value:g}, beyond float32, which networks compute in; "
                    f"expected {_SMALLEST:.2g} to {_LARGEST:.2g}, or 0 where it has a meaning."
                )

    @property
    def method(self) -> Method:
        """What the objective stands for."""
        return method_of(self.objective)

    def steps_per_epoch(self, samples: int) -> int:
        """Whole batches of so many samples."""
        return samples // self.batch_size

    def make_optimiser(self, model: nnx.Module, steps: int) -> optax.GradientTransformation:
        """The optimiser of a network, for a training of so many steps.

        Raises:
          UserError: more steps than can be counted, or stages that the network does not have.
        """
        if steps > _MOST:
            raise UserError(
                f"training: {self.epochs:,} epochs are {steps:,} steps; expected at most {_MOST:,}."
                " Lower epochs."
            )
        rule, warmup = self.optimiser.make(steps), self.optimiser.warmup_steps(steps)
        return self.fine_tune.optimiser(rule, model, steps, warmup)

    def make_loss(self, model: nnx.Module, axis_name: str | None = None) -> LossFunction:
        """The loss of a network, for `build_step` with the same axis."""
        return self.fine_tune.loss(loss_function(self.objective, axis_name), model)

    def batches(self, train: Split) -> Any:
        """The endless batches of the training split: of each, the rows of this process.

        Raises:
          UserError: the split does not fill a batch, or its images are too small for the shifts.
        """
        return train_iterator(
            train,
            self.batch_size // jax.process_count(),
            seed=self.seed,
            augmentation=self.augmentation,
            shard_index=jax.process_index(),
            shard_count=jax.process_count(),
        )


def _numbers(value: Any, name: str = "") -> Iterator[tuple[str, int | float]]:
    """The numbers in options, each with its path."""
    if dataclasses.is_dataclass(value):
        for field in dataclasses.fields(value):
            path = f"{name}.{field.name}" if name else field.name
            yield from _numbers(getattr(value, field.name), path)
    elif isinstance(value, tuple | list):
        for item in value:
            yield from _numbers(item, name)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield name, value


Training = TrainConfig  # Its former name.
