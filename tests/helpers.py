"""What several test files share: functions of parameters, finite differences, fake devices."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from flax import nnx


def fake_devices(count: int) -> dict[str, str]:
    """The environment of a process with so many CPU devices.

    XLA's pool has a thread for each device; where all but one wait in an all-reduce and that one
    waits for parts of its convolution, nobody computes them. NPROC asks for more threads.
    """
    flags = os.environ.get("XLA_FLAGS", "")
    return {
        **os.environ,
        "XLA_FLAGS": f"{flags} --xla_force_host_platform_device_count={count}".strip(),
        "NPROC": str(4 * count),
    }


def of_parameters(
    model: nnx.Module, f: Callable[[nnx.Module], Any]
) -> tuple[Callable[[Any], Any], nnx.State]:
    """`f(model)` as a pure function of the parameters, and those parameters."""
    graph, parameters, rest = nnx.split(model, nnx.Param, ...)

    def pure(parameters):
        return f(nnx.merge(graph, parameters, rest, copy=True))

    return pure, parameters


def relative_error(found: Any, expected: Any) -> float:
    """The largest deviation, relative to the largest expected magnitude."""
    found, expected = np.asarray(found), np.asarray(expected)
    return float(np.abs(found - expected).max() / np.abs(expected).max())


def directional_errors(
    value_and_grad: Callable[[Any], tuple[Any, Any]],
    parameters: Any,
    *,
    seed: int = 0,
    step: float = 1e-7,
) -> dict[str, float]:
    """How far the gradient is from central differences, for each leaf of `parameters`.

    Each leaf is moved along a random direction of unit size for each entry, all others kept. The
    error is relative to the norm of the leaf's gradient, the expected size of that derivative; a
    leaf whose gradient is zero in theory (a bias before batch norm) is judged against the norm of
    the whole gradient.
    """
    _, gradient = value_and_grad(parameters)
    leaves, structure = jax.tree_util.tree_flatten(parameters)
    paths = [
        jax.tree_util.keystr(path, simple=True, separator="/")
        for path, _ in jax.tree_util.tree_flatten_with_path(parameters)[0]
    ]
    gradients = [np.asarray(g) for g in jax.tree.leaves(gradient)]
    whole = np.sqrt(sum(np.sum(g * g) for g in gradients))
    draw = np.random.default_rng(seed)
    errors = {}
    for number, (path, leaf, g) in enumerate(zip(paths, leaves, gradients, strict=True)):
        direction = draw.standard_normal(leaf.shape)

        def value(distance, number=number, leaf=leaf, direction=direction):
            moved = [*leaves]
            moved[number] = leaf + distance * direction
            return float(value_and_grad(jax.tree_util.tree_unflatten(structure, moved))[0])

        difference = (value(step) - value(-step)) / (2 * step)
        size = np.linalg.norm(g)
        scale = size if size > 1e-9 * whole else whole
        errors[path] = abs(difference - np.sum(g * direction)) / scale
    return errors
