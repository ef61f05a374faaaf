"""Control flow: which bodies an operation has, and its re-issue with interpreted bodies."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from typing import Any

import jax
from jax import lax

from isnet_jax.lrp._dataflow import Dataflow
from isnet_jax.lrp._jaxpr import Graph, Operand, Operation, Variable, subgraphs
from isnet_jax.lrp._sites import Plan, tap_shapes

CONTROL = frozenset({"remat2", "checkpoint", "remat", "scan", "cond", "while"})

Evaluate = Callable[[Plan, Sequence[Any], Mapping[Variable, Any], Mapping[str, Any]], list[Any]]
"""`(body, inputs, carriers by the body's inputs, tap carriers) -> outputs`."""


def bodies_of(
    operation: Operation, flow: Dataflow, kept: Callable[[str], bool]
) -> Iterator[tuple[Graph, tuple[Operand, ...], list[bool], list[bool]]]:
    """Each body, the operands of its inputs, which of them depend on the explained input, and
    which of these carry no relevance."""
    operands = operation.inputs[1:] if operation.name == "cond" else operation.inputs
    for body in subgraphs(operation, kept):
        depends = [operand in flow.depending for operand in operands]
        carry = carry_inputs(operation)
        while carry:
            sources = [v for v, d in zip(body.inputs, depends, strict=True) if d]
            depending = Dataflow(body, sources).depending
            reached = [depends[i] or body.outputs[i - carry[0]] in depending for i in carry]
            if reached == [depends[i] for i in carry]:
                break
            for i, value in zip(carry, reached, strict=True):
                depends[i] = value
        still = [
            depending and i not in carry and not flow.carries(operand)
            for i, (operand, depending) in enumerate(zip(operands, depends, strict=True))
        ]
        yield body, operands, depends, still


def carry_inputs(operation: Operation) -> list[int]:
    """The positions of a scan's carry among its inputs."""
    if operation.name != "scan":
        return []
    start = operation.params["num_consts"]
    return list(range(start, start + operation.params["num_carry"]))


def live_outputs(operation: Operation, live: Set[Variable]) -> list[bool]:
    """Which of the bodies' outputs relevance may come from; a scan's carry always."""
    carried = len(carry_inputs(operation))
    return [i < carried or v in live for i, v in enumerate(operation.outputs)]


def reissue(
    operation: Operation,
    bodies: tuple[Plan, ...],
    inputs: Sequence[Any],
    carriers: Sequence[Mapping[Variable, Any]],
    tap_carriers: Mapping[str, Any],
    evaluate: Evaluate,
) -> Sequence[Any]:
    """The operation's outputs, its bodies evaluated with LRP's pullbacks.

    Args:
      carriers: for each body, zeros for its inputs at which relevance itself arrives.
    """
    match operation.name:
        case "scan":
            return _scan(operation, bodies[0], inputs, carriers[0], tap_carriers, evaluate)
        case "cond":
            index, *operands = inputs
            branches = [
                _branch(evaluate, body, own, tap_carriers)
                for body, own in zip(bodies, carriers, strict=True)
            ]
            return lax.switch(index, branches, operands)
        case _:
            return _checkpoint(operation, bodies[0], inputs, carriers[0], tap_carriers, evaluate)


def _checkpoint(
    operation: Operation,
    body: Plan,
    inputs: Sequence[Any],
    carriers: Mapping[Variable, Any],
    tap_carriers: Mapping[str, Any],
    evaluate: Evaluate,
) -> Sequence[Any]:
    """Two, one inside the other: JAX takes the forward pass out of the one that is differentiated
    first, for relevance, and the gradient of the relevance finds the other."""
    flags = operation.params["prevent_cse"]
    checkpoint = functools.partial(
        jax.checkpoint,
        policy=operation.params["policy"],
        prevent_cse=flags if isinstance(flags, bool) else any(flags),
    )
    run = checkpoint(checkpoint(lambda inputs, own: evaluate(body, inputs, own, tap_carriers)))
    return run(list(inputs), dict(carriers))


def _branch(evaluate, body, carriers, tap_carriers):
    return lambda operands: evaluate(body, operands, carriers, tap_carriers)


def _scan(
    operation: Operation,
    body: Plan,
    inputs: Sequence[Any],
    carriers: Mapping[Variable, Any],
    tap_carriers: Mapping[str, Any],
    evaluate: Evaluate,
) -> Sequence[Any]:
    parameters = operation.params
    constants, carried = parameters["num_consts"], parameters["num_carry"]
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
