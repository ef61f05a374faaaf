"""A training on one device before its first step."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
from flax import nnx

from isnet_jax.training.config import TrainConfig
from isnet_jax.training.description import ModelDescription
from isnet_jax.training.step import TrainState, build_step, compile_step, init_state


def start(
    description: ModelDescription, training: TrainConfig, steps: int, *, load: bool = True
) -> tuple[nnx.Module, TrainState, Callable[..., Any]]:
    """The network, its state and the compiled step.

    Args:
      steps: of the whole training, which the learning rate depends on.
      load: False: the weights to start from are left out, where the state will be another.
    """
    model = description.create(training.seed)
    if load:
        training.fine_tune.load(description.deployed(model))
    optimiser, average = training.make_optimiser(model, steps), training.optimiser.average
    state = init_state(model, optimiser, jax.random.key(training.seed), average=average > 0)
    step = build_step(model, training.make_loss(model), optimiser, average=average)
    return model, state, compile_step(step)
