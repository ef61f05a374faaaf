"""One stage of a training: what its method makes of network, options and data."""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

from flax import nnx

from isnet_jax.data.split import Split
from isnet_jax.methods.method import Earlier, Method
from isnet_jax.training.config import TrainConfig
from isnet_jax.training.description import ModelDescription
from isnet_jax.training.serial import to_dict

EARLIER = "earlier"  # The folder, in that of a network, of the stage before.


class Stage(NamedTuple):
    """What a `Trainer` is made of."""

    description: ModelDescription
    training: TrainConfig
    train: Split
    validation: Split


def set_up(
    description: ModelDescription,
    training: TrainConfig,
    train: Split,
    validation: Split,
    earlier: nnx.Module | None,
) -> Stage:
    """The stage as its method sets it up.

    Args:
      description: of the architecture.
      earlier: the network of the stage before, see `Method.setup`.

    Raises:
      UserError: the data lack what the method needs.
    """
    setup = training.method.setup(train, validation, earlier)
    if setup.method != training.method:
        training = dataclasses.replace(training, objective=setup.method)
    if type(setup.method).network is not Method.network:
        description = dataclasses.replace(description, method=to_dict(setup.method))
    return Stage(description, training, setup.train, setup.validation)


def before(training: TrainConfig) -> TrainConfig | None:
    """How the stage before is trained, if there is one."""
    earlier: Earlier | None = training.method.earlier
    if earlier is None:
        return None
    epochs = training.epochs if earlier.epochs is None else earlier.epochs
    return dataclasses.replace(training, objective=earlier.method, epochs=epochs)
