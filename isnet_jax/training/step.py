"""One compiled step: forward pass, LRP, loss, gradient and update in a single function."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax import lax
from jaxtyping import Array

from isnet_jax.methods.losses import loss_function
from isnet_jax.methods.method import LossFunction
from isnet_jax.models.network import in_mode
from isnet_jax.objective.batch import Batch
from isnet_jax.training.compilation import compiler_options

Metrics = dict[str, Array]


@jax.tree_util.register_dataclass
@dataclasses.dataclass
class TrainState:
    """All that a step changes, as one pytree.

    Attributes:
      step: the number of updates so far.
      key: the run's JAX key; each step folds its number in.
      parameters, rest: the model's `nnx.Param`s and its other state.
      optimiser: optax state.
      average: exponential means of parameters and rest; None where none are kept.
    """

    step: Array
    key: Array
    parameters: nnx.State
    rest: nnx.State
    optimiser: optax.OptState
    average: tuple[nnx.State, nnx.State] | None = None

    def averaged(self) -> TrainState:
        """The state to judge and to keep: with the means in their place, where there are some."""
        if self.average is None:
            return self
        parameters, rest = self.average
        return dataclasses.replace(self, parameters=parameters, rest=rest)


def init_state(
    model: nnx.Module,
    optimiser: optax.GradientTransformation,
    key: Array,
    *,
    average: bool = False,
) -> TrainState:
    """The state before the first step; the model itself is not changed by training.

    Args:
      average: with means of parameters and rest, for `build_step(..., average=...)`.
    """
    _, *values = nnx.split(model, nnx.Param, ...)
    parameters, rest = jax.tree.map(jnp.copy, values)
    means = tuple(jax.tree.map(jnp.copy, values)) if average else None
    started = optimiser.init(parameters)
    return TrainState(jnp.zeros((), jnp.int32), key, parameters, rest, started, means)


def build_step(
    model: nnx.Module,
    loss_function: LossFunction,
    optimiser: optax.GradientTransformation,
    *,
    axis_name: str | None = None,
    accumulate: int = 1,
    average: float = 0.0,
) -> Callable[[TrainState, Mapping[str, Any] | Batch], tuple[TrainState, Metrics]]:
    """The training step of one device, a pure function.

    Args:
      model: its structure, in train mode here whatever its own; its values come from the state.
      loss_function: `(model, batch, key, number of updates) -> loss, aux`, such as
        `loss_function` gives of a method or of options. All devices get the same key. The batch
        is what the step is given, or, accumulated, a part of it as a `Batch`.
      optimiser: as for `init_state`.
      axis_name: average gradients, metrics and batch statistics over this mapped axis, of pmap
        or of `jax.shard_map(..., check_vma=False)`: with the check on, JAX itself sums the
        gradients of what all devices share.
      accumulate: the device's batch is taken in so many equal parts, one after the other, with
        the memory of one. Gradients and metrics are the parts' means, as over so many devices;
        batch norm measures each part on its own, and running statistics move once a step, to
        the mean of where each part moves them.
      average: see `OptimiserConfig`; above 0 for states that have means.

    Returns:
      `(state, batch) -> (state, metrics)`; metrics are scalars: loss, gradient_norm and those of
      the loss function's aux.
    """
    graph = nnx.graphdef(in_mode(model, training=True))

    def step(state: TrainState, batch: Mapping[str, Any] | Batch) -> tuple[TrainState, Metrics]:
        key = jax.random.fold_in(state.key, state.step)

        def loss_of(parameters, rest, part):
            copy = nnx.merge(graph, parameters, rest, copy=True)
            loss, aux = loss_function(copy, part, key, state.step)
            return loss, (nnx.state(copy, nnx.Not(nnx.Param)), scalars(loss, aux))

        gradient_of = functools.partial(jax.grad(loss_of, has_aux=True), state.parameters)
        if accumulate == 1:
            gradients, (rest, metrics) = gradient_of(state.rest, batch)
        else:
            parts, whole = Batch.of(batch).parts(accumulate, axis_name)
            gradients, (rest, metrics) = _accumulated(
                lambda rest, part: gradient_of(rest, dataclasses.replace(part, whole=whole)),
                state,
                parts,
            )
        if axis_name is not None:
            gradients, rest, metrics = averaged((gradients, rest, metrics), axis_name)
        metrics["gradient_norm"] = optax.tree.norm(gradients)
        updates, optimiser_state = optimiser.update(gradients, state.optimiser, state.parameters)
        parameters: Any = optax.apply_updates(state.parameters, updates)
        means = None
        if state.average is not None:
            decay = jnp.minimum(average, (1 + state.step) / (10 + state.step))
            means = _moved(state.average, (parameters, rest), 1 - decay)
        after = TrainState(state.step + 1, state.key, parameters, rest, optimiser_state, means)
        return after, metrics

    return step


def _moved(means: Any, values: Any, share: Array) -> Any:
    """Means moved towards values; of counters and keys the latest."""

    def moved(mean: Array, value: Array) -> Array:
        if not _is_inexact(value):
            return value
        return optax.incremental_update(value, mean, share.astype(value.dtype))  # pyright: ignore

    return jax.tree.map(moved, means, values)


def _accumulated(
    gradient_of: Callable[..., Any], state: TrainState, parts: Batch
) -> tuple[Any, tuple[Any, Metrics]]:
    """Means over parts that are taken one after the other; counters and keys go on counting."""

    def add(carry, part):
        total, latest = carry
        start = jax.tree.map(lambda old, new: old if _is_inexact(old) else new, state.rest, latest)
        gradients, (rest, metrics) = gradient_of(start, part)
        return (jax.tree.map(jnp.add, total, gradients), rest), (rest, metrics)

    zeros = jax.tree.map(jnp.zeros_like, state.parameters)
    (total, latest), (rests, metrics) = lax.scan(add, (zeros, state.rest), parts)
    count = len(parts)
    gradients = jax.tree.map(lambda leaf: leaf / count, total)
    rest = jax.tree.map(lambda new, all: all.mean(0) if _is_inexact(new) else new, latest, rests)
    return gradients, (rest, jax.tree.map(lambda values: values.mean(0), metrics))


def compile_step(step: Callable[..., Any]) -> Callable[..., Any]:
    """`step` under jit with its state donated, for one device."""
    return jax.jit(step, donate_argnums=0, compiler_options=compiler_options())


def averaged(tree: Any, axis_name: str) -> Any:
    """Means over the axis by one all-reduce for each dtype; counters and keys stay: all are alike.

    One vector, because XLA would combine the arrays of a tree with whatever else is reduced at
    the time, synchronised batch norms for example, or by size.
    """
    leaves, structure = jax.tree.flatten(tree)
    for dtype in sorted({leaf.dtype for leaf in leaves if _is_inexact(leaf)}, key=str):
        places = [place for place, leaf in enumerate(leaves) if leaf.dtype == dtype]
        mean = lax.pmean(jnp.concatenate([leaves[place].ravel() for place in places]), axis_name)
        ends = np.cumsum([leaves[place].size for place in places])
        for place, part in zip(places, jnp.split(mean, ends[:-1]), strict=True):
            leaves[place] = part.reshape(leaves[place].shape)
    return jax.tree.unflatten(structure, leaves)


def _is_inexact(leaf: Array) -> bool:
    return jnp.issubdtype(leaf.dtype, jnp.inexact)


def scalars(loss: Array, aux: Mapping[str, Array]) -> Metrics:
    """All in the loss's dtype, so that devices average them together with the gradients."""
    scalars = {name: value for name, value in aux.items() if jnp.ndim(value) == 0}
    return {name: jnp.asarray(v, loss.dtype) for name, v in {"loss": loss, **scalars}.items()}


# Former names.
make_step, objective = build_step, loss_function
