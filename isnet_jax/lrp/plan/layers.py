"""What a linear layer is: its axes, what is folded into it, and which one reads the input."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Set
from typing import NamedTuple

from isnet_jax.lrp.plan.sites import Plan, Step
from isnet_jax.lrp.plan.weights import Weights
from isnet_jax.lrp.trace.dependence import Flow
from isnet_jax.lrp.trace.jaxpr import (
    JOIN,
    Constant,
    Operand,
    Operation,
    Variable,
)
from isnet_jax.lrp.trace.primitives import MOVES, SHAPING, facts
from isnet_jax.lrp.trace.shapes import Channels, moved_axes, varying_axes


def weight_axes(operation: Operation, side: int, flow: Flow) -> dict[int, int]:
    """Output axis -> the axis of the weights, the operand at `side`, it comes from."""
    if operation.name == "conv_general_dilated":
        numbers = operation.params["dimension_numbers"]
        return {numbers.out_spec[1]: numbers.rhs_spec[0]}
    (contracted, batched) = operation.params["dimension_numbers"]
    rank = [len(flow.graph.shape(operand)) for operand in operation.inputs]
    free = [
        [axis for axis in range(rank[s]) if axis not in (*contracted[s], *batched[s])]
        for s in (0, 1)
    ]
    start = len(batched[0]) + (len(free[0]) if side else 0)
    return {
        **dict(enumerate(batched[side])),
        **{start + position: axis for position, axis in enumerate(free[side])},
    }


def written_out(total: Operation, plan: Plan) -> Operation | None:
    """The product with weights that a sum over a multiplication is, element by element."""
    flow, weights = plan.flow, plan.weights
    (terms,) = total.inputs
    product = None if isinstance(terms, Constant) else flow.producer.get(terms)
    if product is None or product.name != "mul" or len(flow.carrying_inputs(product)) != 1:
        return None
    factors = [o for o in product.inputs if not flow.depends(o)]
    summed = tuple(total.params["axes"])
    if len(factors) != 1 or weights.origin(factors[0]) != "parameter":
        return None
    alone = plan.live_consumer(product.outputs[0]) is total
    if not alone or varying_axes(factors[0], flow).isdisjoint(summed):
        return None
    kept = tuple(axis for axis in range(len(flow.graph.shape(terms))) if axis not in summed)
    return dataclasses.replace(
        total,
        name="dot_general",
        inputs=product.inputs,
        params={"dimension_numbers": ((summed, summed), (kept, kept))},
        run=lambda *values: total.bind(*product.bind(*values)),
    )


class Tail(NamedTuple):
    """What follows a layer and is affine in it per channel: bias, batch norm with constants.

    Attributes:
      steps: the operations, rearrangements included; the last one is none.
      torn: what would go on with it, where a cond's beginning or end stands between the two.
    """

    steps: tuple[Step, ...]
    torn: Operation | None


def find_tail(operation: Operation, side: int, plan: Plan) -> Tail:
    """What is folded into a layer."""
    flow = plan.flow
    tail: list[Step] = []
    current, torn = operation.outputs[0], None
    axes = channel_axes(operation, side, flow)
    while True:
        following = plan.live_consumer(current)
        if following is None or following.name == JOIN:
            step = _join(current, set(itertools.chain(*axes)), plan)
            if step is None:
                torn = _torn(operation, current, following, set(itertools.chain(*axes)), plan)
                break
            tail.append(step)
            current = step.leaves
            continue
        step = Step(following, current, leaving(following, current))
        if following.name in SHAPING:
            moved = moved_axes(following, axes, flow)
            if moved is None:
                break
            axes = moved
        elif not is_channelwise(following, current, set(itertools.chain(*axes)), flow):
            break
        tail.append(step)
        current = step.leaves
    while tail and tail[-1].operation.name in SHAPING:
        tail.pop()
    return Tail(tuple(tail), torn)


def _torn(
    layer: Operation, current: Variable, join: Operation | None, axes: set[int], plan: Plan
) -> Operation | None:
    """What is affine per channel behind a cond that a layer is a branch of, or in its branches."""
    if join is not None:
        (output,) = join.outputs
        following = plan.live_consumer(output)
        readers = [] if following is None else [(following, output)]
    else:
        readers = [(reader, current) for reader in plan.live_readers(current)]
        conds = plan.graph.conds
        outer = conds.get(layer)
        inside = all(conds.get(reader, outer) is not outer for reader, _ in readers)
        if not inside and not all(_joins(reader, plan) for reader, _ in readers):
            return None
    for reader, value in readers:
        neutral = plan.flow.is_identity(reader) or _is_positive_scale(reader, value, plan.flow)
        if not neutral and is_channelwise(reader, value, axes, plan.flow):
            return reader
    return None


def _is_positive_scale(operation: Operation, value: Variable, flow: Flow) -> bool:
    """Whether a value is multiplied by a number that changes no sign."""
    if operation.name not in ("mul", "div") or operation.inputs.count(value) != 1:
        return False
    (other,) = (operand for operand in operation.inputs if operand != value)
    number = flow.number(other)
    return number is not None and number > 0


def _joins(reader: Operation, plan: Plan) -> bool:
    return reader.name == JOIN or any(map(plan.reachable_joins, reader.outputs))


def _join(current: Variable, axes: set[int], plan: Plan) -> Step | None:
    """The join of a cond whose branches are channelwise in the value, as all its readers are."""
    flow, consumed = plan.flow, set()
    for join in plan.reachable_joins(current):
        branches = []
        for operand in join.inputs[1:]:
            steps = _steps_to(operand, current, axes, plan)
            if steps is None:
                break
            branches.append(steps)
            consumed.update(step.operation for step in steps)
        else:
            readers = set(plan.live_readers(current)) - consumed - {join}
            alone = all(
                plan.live_consumer(step.leaves) is not None for steps in branches for step in steps
            )
            if (
                not readers
                and alone
                and flow.graph.shape(join.outputs[0]) == flow.graph.shape(current)
            ):
                return Step(join, current, join.outputs[0], tuple(branches))
    return None


def _steps_to(
    operand: Operand, start: Variable, axes: set[int], plan: Plan
) -> tuple[Step, ...] | None:
    """The channelwise steps from a value to an operand of a join, None if there is another way."""
    steps: list[Step] = []
    while operand != start:
        if isinstance(operand, Constant):
            return None
        producer = plan.flow.producer.get(operand)
        if producer is None or producer.name == JOIN:
            return None
        carrying = plan.flow.carrying_inputs(producer)
        if len(carrying) != 1 or not is_channelwise(producer, carrying[0], axes, plan.flow):
            return None
        steps.append(Step(producer, carrying[0], operand))
        (operand,) = carrying
    return tuple(reversed(steps))


def leaving(operation: Operation, entering: Variable) -> Variable:
    """The output that an operation makes of an input; its only one, but for barriers."""
    if len(operation.outputs) == 1:
        return operation.outputs[0]
    return operation.outputs[min(operation.inputs.index(entering), len(operation.outputs) - 1)]


def channel_axes(operation: Operation, side: int, flow: Flow) -> Channels:
    """The output's axes that come from the weights."""
    return tuple((axis,) for axis in weight_axes(operation, side, flow))


def find_divisor(operation: Operation, plan: Plan) -> Variable:
    """The average that a sum over a window or axis is part of, or the sum itself."""
    current = operation.outputs[0]
    while True:
        following = plan.live_consumer(current)
        if following is None:
            return operation.outputs[0]
        carrying = plan.flow.carrying_inputs(following)
        shape = plan.graph.shape
        if following.name in ("div", "mul") and carrying == [current]:
            same = shape(following.outputs[0]) == shape(current)
            first = following.name == "mul" or following.inputs[0] == current
            return following.outputs[0] if same and first else operation.outputs[0]
        if following.name not in SHAPING and not plan.flow.is_identity(following):
            return operation.outputs[0]
        current = leaving(following, current)


def is_channelwise(operation: Operation, value: Variable, axes: set[int], flow: Flow) -> bool:
    """Whether the operation is affine in a value, with constants that vary along `axes` only."""
    if flow.is_identity(operation):
        return True
    if operation.name not in ("add", "sub", "mul", "div"):
        return False
    if flow.graph.shape(operation.outputs[0]) != flow.graph.shape(value):
        return False
    if operation.name == "div" and operation.inputs[0] != value:
        return False
    if flow.carrying_inputs(operation) != [value]:
        return False
    others = [o for o in enumerate(operation.inputs) if o[1] != value]
    if len(others) != 1:
        return False
    ((position, other),) = others
    of_sample = flow.cuts.get((operation, position)) == "norm"  # whatever is seen of one sample
    return not of_sample and _per_channel(other, axes, flow)


def _per_channel(operand: Operand, axes: set[int], flow: Flow) -> bool:
    return varying_axes(operand, flow) <= axes


def reads_input(variable: Variable, flow: Flow, sources: Set[Variable], weights: Weights) -> bool:
    """Whether the value is one of the sources up to scale, shift, rearrangement and fixed maps."""
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
        elif facts(producer.name).passing == "layer":
            if not is_fixed_map(producer, carrying, flow, weights):
                return False
        elif producer.name not in MOVES and producer.name != JOIN:
            return False
        if flow.is_identity(producer) and len(producer.outputs) > 1:
            stack.append(producer.inputs[producer.outputs.index(current)])  # pyright: ignore
        else:
            stack.extend(carrying)
    return True


def is_fixed_map(
    operation: Operation, carrying: list[Variable], flow: Flow, weights: Weights
) -> bool:
    """A product or convolution with a matrix that is no parameter: it only moves and mixes."""
    if len(carrying) != 1:
        return False
    other = operation.inputs[1 - operation.inputs.index(carrying[0])]
    if flow.depends(other) and not weights.is_weight(other):
        return True
    return weights.origin(other) != "parameter"
