"""A training on one device before its first step."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
from flax import nnx

from isnet_jax.objective.loss import loss_function
from isnet_jax.training.config import TrainConfig
from isnet_jax.training.description import ModelDescription
from isnet_jax.training.step import TrainState, build_step, compile_step, init_state


def start(
    description: ModelDescription, training: TrainConfig, steps: int
) -> tuple[nnx.Module, TrainState, Callable[..., Any]]:
    """The network, its state and the compiled step.

    Args:
      steps: of the whole training, which the learning rate depends on.
    """
    model, optimiser = description.create(training.seed), training.optimiser.make(steps)
    state = init_state(model, optimiser, jax.random.key(training.seed))
    step = build_step(model, loss_function(training.objective), optimiser)
    return model, state, compile_step(step)
