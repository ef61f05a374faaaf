"""Where the axes of values go, and along which of them a value is merely repeated."""

from __future__ import annotations

import itertools
import math
from collections.abc import Set

from isnet_jax.lrp.trace.dependence import Flow
from isnet_jax.lrp.trace.jaxpr import Constant, Operand, Operation, Variable
from isnet_jax.lrp.trace.primitives import SHAPING, facts

Channels = tuple[tuple[int, ...], ...]
"""For each of some axes the axes it was split into, such as those that come from weights."""


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


def varying_axes(operand: Operand, flow: Flow) -> Set[int]:
    """The axes along which a value is not merely repeated."""
    return _varying(operand, flow, flow.analysis(_all_varying))


def _all_varying(flow: Flow) -> dict[Variable, Set[int]]:
    """Of what the operations compute, in the order in which they run."""
    known: dict[Variable, Set[int]] = {}
    for operation in flow.graph.operations:
        for output in operation.outputs:
            known[output] = _varying_behind(operation, output, flow, known)
    return known


def _varying(operand: Operand, flow: Flow, known: dict[Variable, Set[int]]) -> Set[int]:
    if not isinstance(operand, Constant) and operand in known:
        return known[operand]
    return {axis for axis, size in enumerate(flow.graph.shape(operand)) if size != 1}


def _varying_behind(
    operation: Operation, output: Variable, flow: Flow, known: dict[Variable, Set[int]]
) -> Set[int]:
    name, inputs = operation.name, operation.inputs
    whole = _varying(output, flow, known)
    if facts(name).identity and len(inputs) == len(operation.outputs):
        return _varying(inputs[operation.outputs.index(output)], flow, known)
    if name == "broadcast_in_dim":
        placed = operation.params["broadcast_dimensions"]
        return {placed[axis] for axis in _varying(inputs[0], flow, known)} & whole
    if name in SHAPING:
        groups = tuple((axis,) for axis in _varying(inputs[0], flow, known))
        moved = moved_axes(operation, groups, flow)
        return whole if moved is None else whole & set(itertools.chain(*moved))
    if facts(name).elementwise:
        return whole & set().union(*(_varying(o, flow, known) for o in inputs))
    return whole
