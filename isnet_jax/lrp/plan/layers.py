"""What a linear layer is: its weights, name, kind and axes, and what is folded into it."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Set
from typing import Any, Literal

import jax
import numpy as np

from isnet_jax.lrp.plan.sites import Plan, Step
from isnet_jax.lrp.trace import marks
from isnet_jax.lrp.trace.dependence import Flow
from isnet_jax.lrp.trace.jaxpr import (
    JOIN,
    Constant,
    Operand,
    Operation,
    Variable,
)
from isnet_jax.lrp.trace.primitives import MOVES, SHAPING, facts

Channels = tuple[tuple[int, ...], ...]
"""For each axis of a layer's output that comes from its weights, the axes it was split into."""

_LARGEST = 1 << 16
"""Elements of a matrix that is looked at; more are not worth the time."""

Origin = Literal["parameter", "text", "computed"]


def _first_of(found: Set[Origin]) -> Origin:
    if "parameter" in found:
        return "parameter"
    return "text" if "text" in found else "computed"


class Weights:
    """Where the operands of products come from.

    Attributes:
      names: the paths of parameters, by variable.
      texts: constants whose numbers are written into the user's functions.
      parameters: the graph's inputs that are parameters.
    """

    def __init__(
        self,
        flow: Flow,
        names: Mapping[Variable, str],
        texts: Set[Variable],
        parameters: Set[Variable],
    ):
        self.flow = flow
        self.names = names
        self.texts = texts
        self.parameters = parameters
        self._origins: dict[Variable, Origin] = {}

    def origin(self, operand: Operand) -> Origin:
        """A "parameter" is an input of the program or a value that it holds, or computed from
        one; "text" is a matrix that is written into the program, "computed" one that the program
        makes from nothing, such as an interpolation."""
        if isinstance(operand, Constant):
            return "computed"
        stack = [operand]
        while stack:
            current = stack[-1]
            if current in self._origins:
                stack.pop()
                continue
            known = self._known(current)
            if known is None:
                inputs = self._inputs(current)
                open_ = [v for v in inputs if v not in self._origins]
                if open_:
                    stack.extend(open_)
                    continue
                found: set[Origin] = {self._origins[v] for v in inputs}
                known = _first_of(found)
            self._origins[current] = known
            stack.pop()
        return self._origins[operand]

    def _known(self, variable: Variable) -> Origin | None:
        graph, producer = self.flow.graph, self.flow.producer.get(variable)
        if producer is not None:
            meaning = marks.meaning_of(producer)
            if meaning == "weight":
                return "parameter"
            return "computed" if meaning == "fixed" else None
        if variable in graph.constants:
            if math.prod(graph.shape(variable)) == 1 and not self.names.get(variable):
                return "computed"
            return "text" if variable in self.texts else "parameter"
        return "parameter" if variable in self.parameters else "computed"

    def _inputs(self, variable: Variable) -> list[Variable]:
        producer = self.flow.producer.get(variable)
        return [o for o in producer.inputs if not isinstance(o, Constant)] if producer else []

    def is_marked(self, operand: Operand) -> bool:
        """Whether the operand is a rearrangement of a value that the user calls a weight."""
        while not isinstance(operand, Constant):
            producer = self.flow.producer.get(operand)
            if producer is None or producer.name not in MOVES:
                return False
            if marks.meaning_of(producer) == "weight":
                return True
            operand = producer.inputs[0]
        return False

    def copies(self, operation: Operation, operand: Operand) -> bool:
        """Whether a product with a matrix that the program makes only copies, as patches do."""
        if self.flow.depends(operand) or self.origin(operand) != "computed":
            return False
        if math.prod(self.flow.graph.shape(operand)) > _LARGEST:
            return False
        with jax.ensure_compile_time_eval():
            matrix = np.asarray(self._computed(operand))
        if operation.name == "conv_general_dilated":
            summed = tuple(operation.params["dimension_numbers"].rhs_spec[1:])
        else:
            contracted, _ = operation.params["dimension_numbers"]
            summed = tuple(contracted[operation.inputs.index(operand)])
        return bool(np.isin(matrix, (0, 1)).all() and (matrix.sum(summed) <= 1).all())

    def _computed(self, operand: Operand) -> Any:
        if isinstance(operand, Constant):
            return operand.value
        if operand in self.flow.graph.constants:
            return self.flow.graph.constants[operand]
        producer = self.flow.producer[operand]
        values = producer.bind(*map(self._computed, producer.inputs))
        return values[producer.outputs.index(operand)]

    def name(self, operand: Operand) -> str:
        """The name of a parameter that the operand is computed from, "" if there is none."""
        stack, seen = [operand], set()
        while stack:
            current = stack.pop()
            if isinstance(current, Constant) or current in seen:
                continue
            seen.add(current)
            if self.names.get(current):
                return self.names[current]
            stack.extend(self._inputs(current))
        return ""

    def is_convolution(self, operation: Operation, weight: Operand) -> bool:
        """A convolution, or a product with a kernel that is stored with four or more axes."""
        if operation.name == "conv_general_dilated":
            return True
        stack = [weight]
        while stack:
            operand = stack.pop()
            if isinstance(operand, Constant):
                continue
            producer = self.flow.producer.get(operand)
            if producer is None:
                if len(self.flow.graph.shape(operand)) >= 4:
                    return True
            elif producer.name in MOVES:
                stack.extend(producer.inputs[:1])
        return False


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


def find_tail(operation: Operation, side: int, plan: Plan) -> tuple[Step, ...]:
    """What follows a layer and is affine in it per channel, rearrangements included.

    Bias, batch norm with constants; the last operation is not a rearrangement.
    """
    flow = plan.flow
    tail: list[Step] = []
    current = operation.outputs[0]
    axes = channel_axes(operation, side, flow)
    while True:
        following = plan.live_consumer(current)
        if following is None or following.name == JOIN:
            step = _join(current, set(itertools.chain(*axes)), plan)
            if step is None:
                break
            tail.append(step)
            current = step.leaves
            continue
        step = Step(following, current, _leaving(following, current))
        if following.name in SHAPING:
            moved = moved_axes(following, axes, flow)
            if moved is None:
                break
            axes = moved
        elif not _is_channelwise(following, current, set(itertools.chain(*axes)), flow):
            break
        tail.append(step)
        current = step.leaves
    while tail and tail[-1].operation.name in SHAPING:
        tail.pop()
    return tuple(tail)


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
        if len(carrying) != 1 or not _is_channelwise(producer, carrying[0], axes, plan.flow):
            return None
        steps.append(Step(producer, carrying[0], operand))
        (operand,) = carrying
    return tuple(reversed(steps))


def _leaving(operation: Operation, entering: Variable) -> Variable:
    """The output that an operation makes of an input; its only one, but for barriers."""
    if len(operation.outputs) == 1:
        return operation.outputs[0]
    return operation.outputs[min(operation.inputs.index(entering), len(operation.outputs) - 1)]


def channel_axes(operation: Operation, side: int, flow: Flow) -> Channels:
    """The output's axes that come from the weights."""
    return tuple((axis,) for axis in weight_axes(operation, side, flow))


def moved_axes(operation: Operation, axes: Channels, flow: Flow) -> Channels | None:
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
        current = _leaving(following, current)


def _is_channelwise(operation: Operation, value: Variable, axes: set[int], flow: Flow) -> bool:
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
    (other,) = [operand for operand in operation.inputs if operand != value] or (None,)
    return other is not None and _per_channel(other, axes, flow)


def _per_channel(operand: Operand, axes: set[int], flow: Flow) -> bool:
    return varying_axes(operand, flow) <= axes


def varying_axes(operand: Operand, flow: Flow) -> set[int]:
    """The axes along which a value is not merely repeated."""
    found = flow.origin(operand)
    producer = None if isinstance(found, Constant) else flow.producer.get(found)
    if producer is not None and producer.name == "broadcast_in_dim":
        kept = producer.params["broadcast_dimensions"]
        source = flow.graph.shape(producer.inputs[0])
        return {axis for axis, size in zip(kept, source, strict=True) if size != 1}
    return {axis for axis, size in enumerate(flow.graph.shape(operand)) if size != 1}


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
    if flow.depends(other) and not weights.is_marked(other):
        return True
    return weights.origin(other) != "parameter"
