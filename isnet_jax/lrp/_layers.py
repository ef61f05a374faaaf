"""What a linear layer is: its name, kind and axes, and what is folded into it."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Set

from isnet_jax.lrp import _facts
from isnet_jax.lrp._dataflow import Dataflow
from isnet_jax.lrp._jaxpr import Constant, Operand, Operation, Variable

Channels = tuple[tuple[int, ...], ...]
"""For each axis of a layer's output that comes from its weights, the axes it was split into."""


def weight_axes(operation: Operation, flow: Dataflow) -> dict[int, int]:
    """Output axis -> the axis of the weights it comes from."""
    if operation.name == "conv_general_dilated":
        numbers = operation.params["dimension_numbers"]
        return {numbers.out_spec[1]: numbers.rhs_spec[0]}
    (contracted, batched) = operation.params["dimension_numbers"]
    rank = [len(flow.graph.shape(operand)) for operand in operation.inputs]
    free = [
        [axis for axis in range(rank[side]) if axis not in (*contracted[side], *batched[side])]
        for side in (0, 1)
    ]
    weights = 0 if flow.carries(operation.inputs[1]) else 1
    start = len(batched[0]) + (len(free[0]) if weights else 0)
    return {
        **dict(enumerate(batched[weights])),
        **{start + position: axis for position, axis in enumerate(free[weights])},
    }


def is_convolution(operation: Operation, flow: Dataflow) -> bool:
    """A convolution, or a product with a kernel that is stored with four or more axes."""
    if operation.name == "conv_general_dilated":
        return True
    stack = [operand for operand in operation.inputs if not flow.carries(operand)]
    while stack:
        operand = stack.pop()
        if isinstance(operand, Constant):
            continue
        producer = flow.producer.get(operand)
        if producer is None:
            if len(flow.graph.shape(operand)) >= 4:
                return True
        elif producer.name in _facts.REROUTING:
            stack.extend(producer.inputs[:1])
    return False


def parameter_name(operand: Operand, names: Mapping[Variable, str], flow: Dataflow) -> str:
    """The name of a parameter that the operand is computed from, "" if there is none."""
    stack, seen = [operand], set()
    while stack:
        current = stack.pop()
        if isinstance(current, Constant) or current in seen:
            continue
        seen.add(current)
        if names.get(current):
            return names[current]
        if current in flow.producer:
            stack.extend(flow.producer[current].inputs)
    return ""


def find_tail(operation: Operation, flow: Dataflow, live: Set[Variable]) -> list[Operation]:
    """What follows a layer and is affine in it per channel, rearrangements included.

    Bias, batch norm with constants; the last operation is not a rearrangement.
    """
    tail: list[Operation] = []
    current = operation.outputs[0]
    axes = channel_axes(operation, flow)
    while True:
        following = single_live_consumer(current, flow, live)
        if following is None:
            return _without_rearrangements(tail)
        if following.name in _facts.SHAPING:
            moved = moved_axes(following, axes, flow)
            if moved is None:
                return _without_rearrangements(tail)
            axes = moved
        elif not _is_channelwise(following, current, set(itertools.chain(*axes)), flow):
            return _without_rearrangements(tail)
        tail.append(following)
        current = following.outputs[0]


def _without_rearrangements(tail: list[Operation]) -> list[Operation]:
    while tail and tail[-1].name in _facts.SHAPING:
        tail.pop()
    return tail


def channel_axes(operation: Operation, flow: Dataflow) -> Channels:
    """The output's axes that come from the weights."""
    return tuple((axis,) for axis in weight_axes(operation, flow))


def moved_axes(operation: Operation, axes: Channels, flow: Dataflow) -> Channels | None:
    """Where a rearrangement takes the axes of channels, None if it merges or repeats some."""
    # An empty batch counts as one sample: products tell the axes apart.
    before, after = (
        tuple(size or 1 for size in flow.graph.shape(operand))
        for operand in (operation.inputs[0], operation.outputs[0])
    )
    if math.prod(before) != math.prod(after):
        return None
    if operation.name == "transpose":
        place = operation.params["permutation"].index
        return tuple(tuple(map(place, group)) for group in axes)
    taken: set[int] = set()
    moved = []
    for group in axes:
        runs = []
        for axis in group:
            run = _run(math.prod(before[:axis]), before[axis], after, taken)
            if run is None:
                return None
            taken.update(run)
            runs.extend(run)
        moved.append(tuple(runs))
    return tuple(moved)


def _run(stride: int, size: int, shape: tuple[int, ...], taken: Set[int]) -> list[int] | None:
    """The neighbouring axes of `shape` that an axis of `size` behind `stride` elements became."""
    outer = [math.prod(shape[:axis]) for axis in range(len(shape) + 1)]
    if size == 1:
        fitting = [a for a, n in enumerate(shape) if n == 1 and outer[a] == stride]
        return [a for a in fitting if a not in taken][:1]
    if stride not in outer or stride * size not in outer:
        return None
    start = len(outer) - 1 - outer[::-1].index(stride)
    return list(range(start, outer.index(stride * size)))


def find_divisor(operation: Operation, flow: Dataflow, live: Set[Variable]) -> Variable:
    """The average that a sum over a window or axis is part of, or the sum itself."""
    current = operation.outputs[0]
    while True:
        following = single_live_consumer(current, flow, live)
        if following is None:
            return operation.outputs[0]
        carrying = flow.carrying_inputs(following)
        if following.name in ("div", "mul") and carrying == [current]:
            same = flow.graph.shape(following.outputs[0]) == flow.graph.shape(current)
            first = following.name == "mul" or following.inputs[0] == current
            return following.outputs[0] if same and first else operation.outputs[0]
        if following.name not in _facts.SHAPING:
            return operation.outputs[0]
        current = following.outputs[0]


def single_live_consumer(
    variable: Variable, flow: Dataflow, live: Set[Variable]
) -> Operation | None:
    """The only reader; batch statistics that are reduced from the value do not count."""
    if variable in flow.graph.outputs:
        return None
    readers = [op for op in flow.consumers[variable] if any(v in live for v in op.outputs)]
    return readers[0] if len(readers) == 1 else None


def _is_channelwise(operation: Operation, value: Variable, axes: set[int], flow: Dataflow) -> bool:
    if flow.graph.shape(operation.outputs[0]) != flow.graph.shape(value):
        return False
    if operation.name in _facts.IDENTITIES and operation.name != "name":
        return True
    if operation.name not in ("add", "sub", "mul", "div"):
        return False
    if operation.name == "div" and operation.inputs[0] != value:
        return False
    others = [operand for operand in operation.inputs if operand != value]
    constant = len(others) == 1 and not flow.carries(others[0])
    return constant and _per_channel(others[0], axes, flow)


def _per_channel(operand: Operand, axes: set[int], flow: Dataflow) -> bool:
    shape = flow.graph.shape(operand)
    if not isinstance(operand, Constant):
        producer = flow.producer.get(operand)
        if producer is not None and producer.name == "broadcast_in_dim":
            kept = producer.params["broadcast_dimensions"]
            source = flow.graph.shape(producer.inputs[0])
            return all(size == 1 or axis in axes for axis, size in zip(kept, source, strict=True))
    return all(size == 1 or axis in axes for axis, size in enumerate(shape))


def reads_input(variable: Variable, flow: Dataflow, sources: Set[Variable]) -> bool:
    """Whether the value is one of the sources up to scale, shift and rearrangement."""
    stack, seen = [variable], set()
    while stack:
        current = stack.pop()
        if current in seen or current in sources:
            continue
        seen.add(current)
        producer = flow.producer.get(current)
        carrying = flow.carrying_inputs(producer) if producer is not None else []
        if producer is None or not carrying:
            return False
        if producer.name in ("add", "sub", "mul", "div"):
            divided = producer.name == "div" and carrying[0] != producer.inputs[0]
            same = flow.graph.shape(carrying[0]) == flow.graph.shape(current)
            if len(carrying) > 1 or divided or not same:
                return False
        elif producer.name not in _facts.REROUTING:
            return False
        stack.extend(carrying)
    return True
