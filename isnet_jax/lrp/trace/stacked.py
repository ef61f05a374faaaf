"""Values that are stacked or concatenated, treated alike, and taken apart again."""

from __future__ import annotations

from isnet_jax.lrp.trace.dependence import Flow
from isnet_jax.lrp.trace.jaxpr import Operand, Operation, Variable
from isnet_jax.lrp.trace.primitives import facts


def taken_from(operation: Operation, output: Variable, flow: Flow) -> Operand | None:
    """The one of several stacked or concatenated values that a slice takes out again.

    Meanwhile all of them may have been reduced and multiplied alike, as the two moments in
    `jnp.stack([h, h * h]).mean(1)`.
    """
    place = _cut(operation, output, flow)
    if place is None:
        return None
    axis, start, size = place
    current = operation.inputs[0]
    while (producer := flow.made_by(current)) is not None:
        if (producer.name, producer.params.get("axis")) == ("stack", axis):
            return producer.inputs[start] if size == 1 else None
        if (producer.name, producer.params.get("dimension")) == ("concatenate", axis):
            return _piece(producer, axis, start, size, flow)
        depending = flow.depending_inputs(producer)
        before = _axis_before(producer, axis, flow) if len(depending) == 1 else None
        if before is None:
            return None
        current, axis = depending[0], before
    return None


def _cut(operation: Operation, output: Variable, flow: Flow) -> tuple[int, int, int] | None:
    """Along which axis an operation takes a piece, where it starts and how long it is."""
    params = operation.params
    if operation.name == "unstack":
        return params["axis"], operation.outputs.index(output), 1
    if operation.name == "split":
        position = operation.outputs.index(output)
        sizes = params["sizes"]
        return params["axis"], sum(sizes[:position]), sizes[position]
    if operation.name != "slice" or set(params["strides"] or (1,)) != {1}:
        return None
    before, after = flow.graph.shape(operation.inputs[0]), flow.graph.shape(output)
    cut = [axis for axis, (a, b) in enumerate(zip(before, after, strict=True)) if a != b]
    return (cut[0], params["start_indices"][cut[0]], after[cut[0]]) if len(cut) == 1 else None


def _piece(joined: Operation, axis: int, start: int, size: int, flow: Flow) -> Operand | None:
    for operand in joined.inputs:
        length = flow.graph.shape(operand)[axis]
        if start >= 0 and start + size <= length:
            return operand
        start -= length
    return None


def _axis_before(operation: Operation, axis: int, flow: Flow) -> int | None:
    """Where an axis was before an operation that treats all along it alike, to the power of 1."""
    name, params = operation.name, operation.params
    (operand,) = flow.depending_inputs(operation)
    before, after = flow.graph.shape(operand), flow.graph.shape(operation.outputs[0])
    sources: dict[int, int] = {}  # where each axis of the result was
    if name == "broadcast_in_dim":
        sources = {new: old for old, new in enumerate(params["broadcast_dimensions"])}
    elif name == "transpose":
        sources = dict(enumerate(params["permutation"]))
    elif name == "squeeze" or (facts(name).reduces and "axes" in params):
        gone = params["dimensions" if name == "squeeze" else "axes"]
        sources = dict(enumerate(a for a in range(len(before)) if a not in gone))
    elif name in ("mul", "div", "neg", "convert_element_type") or flow.is_identity(operation):
        alike = before == after and operation.inputs[0] == operand
        sources = {axis: axis} if alike else {}
    old = sources.get(axis)
    return old if old is not None and before[old] == after[axis] else None
