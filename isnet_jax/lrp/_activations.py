"""What an activation is, and the softmax that is none."""

from __future__ import annotations

from collections.abc import Set

from isnet_jax.lrp import _facts
from isnet_jax.lrp._dataflow import Dataflow
from isnet_jax.lrp._jaxpr import Operation, Variable
from isnet_jax.lrp._layers import single_live_consumer


def activation_root(operation: Operation, flow: Dataflow, live: Set[Variable]) -> Variable | None:
    """The value that the operation is an elementwise nonlinear function of, None if it is none.

    `x * h(x)` and the like are one activation of x; so are activations in a row, such as a
    squared ReLU, where nothing else reads what is between them.
    """
    root = _nearest_root(operation, flow)
    while root is not None:
        producer = flow.producer.get(root)
        alone = single_live_consumer(root, flow, live) is operation
        before = _nearest_root(producer, flow) if producer is not None and alone else None
        if before is None or producer is None:
            break
        operation, root = producer, before
    return root


def _nearest_root(operation: Operation, flow: Dataflow) -> Variable | None:
    distinct = list(dict.fromkeys(flow.carrying_inputs(operation)))
    name, shape = operation.name, flow.graph.shape(operation.outputs[0])
    if not distinct or any(flow.graph.shape(v) != shape for v in distinct):
        return None
    if name in ("mul", "div", "max", "min", "select_n", "pow"):
        if len(distinct) > 1:
            chosen = name == "select_n" and operation.inputs[0] not in flow.depending
            root = flow.common_root(distinct)
            return None if chosen and root in distinct else root
        (only,) = distinct
        match name:
            case "mul":
                return only if len(flow.carrying_inputs(operation)) == 2 else None
            case "div":
                return only if operation.inputs[1] == only else None
            case "select_n":
                return only if operation.inputs[0] in flow.depending else None
        return only
    if len(distinct) == 1 and (
        name in _facts.NONLINEAR | _facts.ACTIVATIONS or name == "custom_jvp_call"
    ):
        return distinct[0]
    return None


def softmax_argument(operation: Operation, flow: Dataflow) -> Variable | None:
    """The logits, if the operation is the division at the end of a softmax."""
    if operation.name != "div" or not all(map(flow.carries, operation.inputs)):
        return None
    numerator, denominator = operation.inputs
    producer = flow.producer.get(denominator)  # pyright: ignore[reportArgumentType]
    while producer is not None and producer.name in _facts.SHAPING | _facts.IDENTITIES:
        producer = flow.producer.get(producer.inputs[0])  # pyright: ignore[reportArgumentType]
    if producer is None or producer.name != "reduce_sum" or producer.inputs[0] != numerator:
        return None
    exponential = flow.producer.get(numerator)  # pyright: ignore[reportArgumentType]
    if exponential is None or exponential.name not in ("exp", "exp2"):
        return None
    (argument,) = flow.carrying_inputs(exponential)
    return argument
