"""One compiled step: forward pass, LRP, loss, gradient and update in a single function."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jax import lax
from jaxtyping import Array

from isnet_jax.classification import Classification
from isnet_jax.config import ISNetConfig
from isnet_jax.objective import isnet_loss, plain_loss
from isnet_jax.training.compilation import compiler_options

Batch = Mapping[str, Any]
Metrics = dict[str, Array]
Objective = Callable[[nnx.Module, Batch, Array, Array | None], tuple[Array, dict[str, Array]]]
"""(model, batch, key, step or None in evaluation) -> loss, aux."""


@jax.tree_util.register_dataclass
@dataclasses.dataclass
class TrainState:
    """All that a step changes, as one pytree.

    Attributes:
      step: the number of updates so far.
      key: the run's JAX key; each step folds its number in.
      parameters, rest: the model's `nnx.Param`s and its other state.
      optimiser: optax state.
    """

    step: Array
    key: Array
    parameters: nnx.State
    rest: nnx.State
    optimiser: optax.OptState


def objective(config: ISNetConfig | Classification, axis_name: str | None = None) -> Objective:
    """The loss of an ISNet, or of a plain classifier.

    Args:
      axis_name: the mapped axis over which batches are split.
    """
    if isinstance(config, Classification):
        return lambda model, batch, key, step: plain_loss(model, batch, config, axis_name=axis_name)
    # Evaluation explains every sample, so that its losses can be compared.
    whole = dataclasses.replace(config, heatmap_fraction=1.0)
    return lambda model, batch, key, step: isnet_loss(
        model, batch, whole if step is None else config, rng=key, step=step, axis_name=axis_name
    )


def init_state(
    model: nnx.Module, optimiser: optax.GradientTransformation, key: Array
) -> TrainState:
    """The state before the first step; the model itself is not changed by training."""
    _, parameters, rest = nnx.split(model, nnx.Param, ...)
    parameters, rest = jax.tree.map(jnp.copy, (parameters, rest))
    return TrainState(jnp.zeros((), jnp.int32), key, parameters, rest, optimiser.init(parameters))


def make_step(
    model: nnx.Module,
    objective: Objective,
    optimiser: optax.GradientTransformation,
    *,
    axis_name: str | None = None,
) -> Callable[[TrainState, Batch], tuple[TrainState, Metrics]]:
    """The training step of one device, a pure function.

    Args:
      model: its structure; its values come from the state.
      objective: (model, batch, key, step) -> loss, aux. All devices get the same key.
      optimiser: as for `init_state`.
      axis_name: average gradients, metrics and batch statistics over this mapped axis, of pmap
        or of `jax.shard_map(..., check_vma=False)`: with the check on, JAX itself sums the
        gradients of what all devices share.

    Returns:
      `(state, batch) -> (state, metrics)`; metrics are scalars: loss, gradient_norm and those of
      the objective's aux.
    """
    model.train()
    graph, _, _ = nnx.split(model, nnx.Param, ...)

    def step(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        key = jax.random.fold_in(state.key, state.step)

        def loss_of(parameters):
            copy = nnx.merge(graph, parameters, state.rest, copy=True)
            loss, aux = objective(copy, batch, key, state.step)
            return loss, (nnx.state(copy, nnx.Not(nnx.Param)), _scalars(loss, aux))

        gradients, (rest, metrics) = jax.grad(loss_of, has_aux=True)(state.parameters)
        if axis_name is not None:
            gradients, metrics = lax.pmean((gradients, metrics), axis_name)
            rest = jax.tree.map(functools.partial(_averaged, axis_name), rest)
        metrics["gradient_norm"] = optax.tree.norm(gradients)
        updates, optimiser_state = optimiser.update(gradients, state.optimiser, state.parameters)
        parameters: Any = optax.apply_updates(state.parameters, updates)
        return TrainState(state.step + 1, state.key, parameters, rest, optimiser_state), metrics

    return step


def compile_step(step: Callable[..., Any]) -> Callable[..., Any]:
    """`step` under jit with its state donated, for one device."""
    return jax.jit(step, donate_argnums=0, compiler_options=compiler_options())


def compile_evaluation(
    model: nnx.Module, objective: Objective
) -> Callable[[TrainState, Batch, Array], Metrics]:
    """The objective's metrics on a batch in eval mode, without an update."""
    model.eval()
    graph, _, _ = nnx.split(model, nnx.Param, ...)
    model.train()

    def evaluate(state: TrainState, batch: Batch, key: Array) -> Metrics:
        copy = nnx.merge(graph, state.parameters, state.rest, copy=True)
        loss, aux = objective(copy, batch, key, None)
        return _scalars(loss, aux)

    return jax.jit(evaluate, compiler_options=compiler_options())


def _averaged(axis_name: str, leaf: Array) -> Array:
    """Statistics are averaged; counters and keys are alike on all devices."""
    return lax.pmean(leaf, axis_name) if jnp.issubdtype(leaf.dtype, jnp.inexact) else leaf


def _scalars(loss: Array, aux: Mapping[str, Array]) -> Metrics:
    return {"loss": loss, **{name: value for name, value in aux.items() if jnp.ndim(value) == 0}}
