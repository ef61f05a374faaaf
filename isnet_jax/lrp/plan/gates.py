"""Factors of a product that a composite takes for constants: attention weights, gates."""

from __future__ import annotations

from isnet_jax.lrp.composites import Composite
from isnet_jax.lrp.plan.activations import find_activation
from isnet_jax.lrp.plan.softmax import find_softmax
from isnet_jax.lrp.rules import SignalTakesAll
from isnet_jax.lrp.trace.dependence import Flow
from isnet_jax.lrp.trace.jaxpr import Operation, Variable
from isnet_jax.lrp.trace.primitives import SHAPING


def constant_factor(
    operation: Operation, flow: Flow, composite: Composite
) -> tuple[int, str] | None:
    """The position of the factor that is a constant, and what it is; None: neither is, or both."""
    found = []
    for position, operand in enumerate(operation.inputs):
        what = _factor(operand, flow, composite) if flow.carries(operand) else None  # pyright: ignore
        if what:
            found.append((position, what))
    return found[0] if len(found) == 1 else None


def _factor(operand: Variable, flow: Flow, composite: Composite) -> str | None:
    producer = _maker(operand, flow)
    if producer is None:
        return None
    if composite.softmax == "constant":
        softmax = find_softmax(producer, flow)
        if softmax is not None and softmax.normalised:
            return "softmax"
    if isinstance(composite.product, SignalTakesAll):
        activation = find_activation(producer, flow)
        if activation is not None and activation.name in composite.product.gates:
            return "gate"
    return None


def _maker(operand: Variable, flow: Flow) -> Operation | None:
    """What makes a value, up to rearrangement, masks and constant factors."""
    producer = flow.made_by(operand)
    while producer is not None:
        carrying = flow.carrying_inputs(producer)
        scaled = producer.name in ("mul", "div", "select_n") and len(carrying) == 1
        if not scaled and producer.name not in (*SHAPING, "slice", "squeeze", "unstack", "split"):
            return producer
        if not carrying or find_activation(producer, flow) or find_softmax(producer, flow):
            return producer
        producer = flow.made_by(carrying[0])
    return None
