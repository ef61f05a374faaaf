"""Checkpoints, branches and scans, issued again with interpreted bodies."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
from jax import lax

from isnet_jax.lrp.plan.sites import Plan, tap_shapes
from isnet_jax.lrp.trace.jaxpr import Checkpoint, Operation, Variable, scan_counts

Evaluate = Callable[[Plan, Sequence[Any], Mapping[Variable, Any], Mapping[str, Any]], list[Any]]
"""`(body, inputs, carriers by the body's inputs, tap carriers) -> outputs`."""


def checkpointed(item: Checkpoint, run: Callable[[], Any]) -> Any:
    """`run()` under two checkpoints, one inside the other: JAX takes the forward pass out of the
    one that is differentiated first, for relevance, and the gradient of the relevance finds the
    other."""
    checkpoint = functools.partial(jax.checkpoint, policy=item.policy, prevent_cse=item.prevent_cse)
    return checkpoint(checkpoint(run))()


def scanned(
    operation: Operation,
    body: Plan,
    inputs: Sequence[Any],
    carriers: Mapping[Variable, Any],
    tap_carriers: Mapping[str, Any],
    evaluate: Evaluate,
) -> Sequence[Any]:
    """A scan's outputs, its body evaluated with LRP's pullbacks.

    Args:
      carriers: zeros for the body's inputs at which relevance itself arrives.
    """
    parameters = operation.params
    constants, carried = scan_counts(parameters)
    start = constants + carried
    sliced = set(body.graph.inputs[start:])
    fixed = {v: c for v, c in carriers.items() if v not in sliced}
    moving = {v: c for v, c in carriers.items() if v in sliced}
    inside = tap_shapes(body, frozenset(tap_carriers))
    taps = {name: tap_carriers[name] for name in inside}

    def step(carry, slices):
        xs, own, own_taps = slices
        outputs = evaluate(body, [*inputs[:constants], *carry, *xs], {**fixed, **own}, own_taps)
        return outputs[:carried], outputs[carried:]

    final, stacked = lax.scan(
        step,
        list(inputs[constants:start]),
        (list(inputs[start:]), moving, taps),
        length=parameters["length"],
        reverse=parameters["reverse"],
        unroll=parameters["unroll"],
    )
    return [*final, *stacked]
