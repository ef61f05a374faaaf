"""What each value of a traced program depends on, value by value."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence, Set
from functools import cached_property
from typing import Any, TypeVar

import numpy as np
from jax.core import Tracer

from isnet_jax.lrp.trace.jaxpr import (
    JOIN,
    Constant,
    Graph,
    Operand,
    Operation,
    Variable,
    scan_counts,
    written_in_text,
)
from isnet_jax.lrp.trace.primitives import facts

Edge = tuple[Operation, int]
"""An operation and the position of one of its inputs."""
Bodies = Callable[[Operation], Graph]


class Flow:
    """Producers, consumers and dependence on the explained input, of one graph.

    A value *depends* on the input if any path leads there (also through comparisons). It
    *carries* relevance if a path leads there along which a cotangent can pass, other than by the
    edges in `cuts`, such as the statistics of a norm.

    Attributes:
      sources: the graph's values that are the explained input.
      silent: inputs that depend on the explained input but carry nothing.
      places: names of taps that were asked for; others are looked through.
      cuts: edges that are constants for relevance.
    """

    def __init__(
        self,
        graph: Graph,
        bodies: Bodies,
        sources: Collection[Variable],
        silent: Collection[Variable] = (),
        places: Set[str] = frozenset(),
    ):
        self.graph = graph
        self.bodies = bodies
        self.sources = frozenset(sources)
        self.silent = frozenset(silent)
        self.places = places
        self.cuts: dict[Edge, str] = {}
        self.producer: dict[Variable, Operation] = {}
        self.consumers: dict[Variable, list[Operation]] = defaultdict(list)
        for operation in graph.operations:
            for variable in operation.outputs:
                self.producer[variable] = operation
            for variable in dict.fromkeys(variables(operation.inputs)):
                self.consumers[variable].append(operation)
        self.depending = reach(graph, self.sources, bodies)
        self._analyses: dict[Any, Any] = {}

    def analysis(self, make: Callable[[Flow], T]) -> T:
        """`make(flow)`, made once."""
        if make not in self._analyses:
            self._analyses[make] = make(self)
        return self._analyses[make]

    @cached_property
    def carrying(self) -> frozenset[Variable]:
        """Computed once, when all cuts are known."""
        return reach(
            self.graph, self.sources - self.silent, self.bodies, self.cuts, differentiable=True
        )

    def carries(self, operand: Operand) -> bool:
        return not isinstance(operand, Constant) and operand in self.carrying

    def carrying_inputs(self, operation: Operation) -> list[Variable]:
        """The inputs by which relevance can leave the operation, repeated as it repeats them."""
        return [
            operand
            for position, operand in enumerate(operation.inputs)
            if not isinstance(operand, Constant)
            and operand in self.carrying
            and (operation, position) not in self.cuts
        ]

    def depends(self, operand: Operand) -> bool:
        return not isinstance(operand, Constant) and operand in self.depending

    def depending_inputs(self, operation: Operation) -> list[Variable]:
        return [v for v in variables(operation.inputs) if v in self.depending]

    def made_by(self, operand: Operand) -> Operation | None:
        """The operation that computes the value, identities looked through."""
        operand = self.origin(operand)
        return None if isinstance(operand, Constant) else self.producer.get(operand)

    def origin(self, operand: Operand) -> Operand:
        """The value itself: what it is an unchanged copy, cast or marked version of."""
        while not isinstance(operand, Constant):
            producer = self.producer.get(operand)
            if producer is None or not self.is_identity(producer):
                break
            operand = producer.inputs[producer.outputs.index(operand)]
        return operand

    def is_identity(self, operation: Operation) -> bool:
        return facts(operation.name).identity and not self.is_place(operation)

    def is_place(self, operation: Operation) -> bool:
        """Whether a tap or a mask was asked for here."""
        return operation.name == "name" and operation.params["name"] in self.places

    def is_elementwise(self, operation: Operation) -> bool:
        return facts(operation.name).elementwise and not self.is_place(operation)

    @cached_property
    def order(self) -> dict[Operation, int]:
        """The operations' numbers in the order they run."""
        return {operation: number for number, operation in enumerate(self.graph.operations)}

    # Numbers

    def number(self, operand: Operand) -> float | None:
        """The one number that all elements of the value are, if the program's text says so."""
        if isinstance(operand, Constant):
            return _number(operand.value)
        if operand in self.graph.constants:
            value = self.graph.constants[operand]
            return _number(value) if written_in_text(value) and np.ndim(value) == 0 else None
        known = self._numbers
        if operand not in known:
            known[operand] = None
            producer = self.producer.get(operand)
            if producer is not None and operand not in self.depending:
                known[operand] = self._computed_number(producer)
        return known[operand]

    @cached_property
    def _numbers(self) -> dict[Variable, float | None]:
        return {}

    def _computed_number(self, operation: Operation) -> float | None:
        primitive = facts(operation.name)
        moves = primitive.passing == "moves" and len(operation.inputs) == 1
        if not (primitive.elementwise or moves) or not operation.inputs:
            return None
        numbers = [self.number(operand) for operand in operation.inputs]
        if any(number is None for number in numbers):
            return None
        if moves and not primitive.elementwise:
            return numbers[0]
        if primitive.values is None or len(operation.outputs) > 1:
            return None
        with np.errstate(all="ignore"):
            return float(primitive.values(operation.params, *numbers))

    # Elementwise functions

    def elementwise_ancestors(self, operands: Iterable[Operand]) -> set[Variable]:
        """The operands and the depending values they are rearranged elementwise functions of."""
        found: set[Variable] = set()
        stack = [v for v in variables(operands) if v in self.depending]
        while stack:
            variable = stack.pop()
            if variable in found:
                continue
            found.add(variable)
            producer = self.producer.get(variable)
            if producer is not None and travels(producer):
                stack.extend(self.depending_inputs(producer))
        return found

    def elementwise_roots(self, variable: Variable) -> list[Variable]:
        """The values that `variable` is an elementwise function of, each alone; nearest first."""
        roots = [variable]
        while (root := self._roots.get(roots[-1])) is not None:
            roots.append(root)
        return roots

    def common_root(self, operands: Sequence[Variable]) -> Variable | None:
        """The nearest value that all the operands are elementwise functions of."""
        return _nearest_common(operands, self._roots)

    @cached_property
    def _roots(self) -> dict[Variable, Variable]:
        """The next value that each is an elementwise function of, alone; found once, in order."""
        roots: dict[Variable, Variable] = {}
        for operation in self.graph.operations:
            if not self.is_elementwise(operation):
                continue
            for position, output in enumerate(operation.outputs):
                if self.is_identity(operation):
                    inputs = [v for v in variables([operation.inputs[position]]) if self.carries(v)]
                else:
                    inputs = list(dict.fromkeys(self.carrying_inputs(operation)))
                shape = self.graph.shape(output)
                if not inputs or any(self.graph.shape(v) != shape for v in inputs):
                    continue
                root = inputs[0] if len(inputs) == 1 else _nearest_common(inputs, roots)
                if root is not None:
                    roots[output] = root
        return roots

    # Signs

    def nonnegative(self, operand: Operand) -> bool:
        """Whether the value is known to have no negative elements."""
        known, stack = self._nonnegative, [operand]
        while stack:
            current = stack[-1]
            if isinstance(current, Constant) or current in known:
                stack.pop()
                continue
            needed = self._signs_needed(current)
            if needed is None:
                known[current] = False
            else:
                open_ = [v for v in variables(needed) if v not in known]
                if open_:
                    stack.extend(open_)
                    continue
                known[current] = all(
                    known[o] if not isinstance(o, Constant) else _nonnegative_constant(o.value)
                    for o in needed
                )
            stack.pop()
        return (
            _nonnegative_constant(operand.value)
            if isinstance(operand, Constant)
            else known[operand]
        )

    @cached_property
    def _nonnegative(self) -> dict[Variable, bool]:
        return {}

    def _signs_needed(self, variable: Variable) -> list[Operand] | None:
        """The operands that must be nonnegative for the value to be; None: not known."""
        operation = self.producer.get(variable)
        if operation is None:
            return None
        name, inputs = operation.name, list(operation.inputs)
        if facts(name).sign == "never" or is_relu(operation, self):
            return []
        if name == "mul" and self.origin(inputs[0]) == self.origin(inputs[1]):
            return []
        if facts(name).identity:
            return [inputs[operation.outputs.index(variable)]]
        if facts(name).sign == "keeps":
            return inputs
        if name in ("gather", "dynamic_slice"):
            return inputs[:1]
        if name in ("select_n", JOIN):
            return inputs[1:]
        return None


def _nearest_common(
    operands: Sequence[Variable], roots: Mapping[Variable, Variable]
) -> Variable | None:
    """The nearest value on the ways from all the operands back along their roots."""

    def way(variable: Variable | None) -> Iterator[Variable]:
        while variable is not None:
            yield variable
            variable = roots.get(variable)

    first, *others = operands
    shared = [set(way(other)) for other in others]
    return next((v for v in way(first) if all(v in other for other in shared)), None)


T = TypeVar("T")
_PASSED = frozenset(
    {"concatenate", "stack", "slice", "split", "unstack", "gather", "pad", "tile", JOIN}
)


def travels(operation: Operation) -> bool:
    """Whether a norm's statistic stays one through the operation: elementwise or rearranged.

    The statistics of concatenated maps are concatenations.
    """
    primitive = facts(operation.name)
    return primitive.elementwise or primitive.shaping or operation.name in _PASSED


def is_relu(operation: Operation, flow: Flow) -> bool:
    """Whether the operation is `max(x, 0)`, bare or as `jax.nn.relu`."""
    if operation.name == "max":
        return 0.0 in (flow.number(operand) for operand in operation.inputs)
    if operation.name != "custom_jvp_call" or len(operation.inputs) != 1:
        return False
    body = flow.bodies(operation)
    inner = [op for op in body.operations if not facts(op.name).identity]
    return len(inner) == 1 and is_relu(inner[0], Flow(body, flow.bodies, body.inputs))


def reach(
    graph: Graph,
    sources: Collection[Variable],
    bodies: Bodies,
    cuts: Collection[Edge] = (),
    *,
    differentiable: bool = False,
) -> frozenset[Variable]:
    """The graph's values that depend on the sources.

    Args:
      cuts: edges along which nothing depends.
      differentiable: only along paths that a cotangent can take.
    """
    reached = {v for v in sources if not differentiable or graph.inexact(v)}
    for operation in graph.operations:
        flags = [
            not isinstance(operand, Constant)
            and operand in reached
            and (operation, position) not in cuts
            for position, operand in enumerate(operation.inputs)
        ]
        if not any(flags) or (differentiable and operation.name == "stop_gradient"):
            continue
        for variable, flag in zip(
            operation.outputs,
            dependent_outputs(operation, flags, bodies, differentiable),
            strict=True,
        ):
            if flag and (not differentiable or graph.inexact(variable)):
                reached.add(variable)
    return frozenset(reached)


def dependent_outputs(
    operation: Operation, flags: Sequence[bool], bodies: Bodies, differentiable: bool = False
) -> list[bool]:
    """Which outputs depend on the inputs that `flags` marks."""
    if facts(operation.name).identity and len(operation.inputs) == len(operation.outputs):
        return list(flags)
    if operation.name == "scan":
        return _scan_outputs(operation, flags, bodies, differentiable)[1]
    if differentiable and operation.name == JOIN and not any(flags[1:]):
        return [False]
    if operation.name == "custom_derivative" and len(operation.inner) == 1 and not differentiable:
        body = bodies(operation)
        if len(body.inputs) == len(flags):
            return _body_outputs(body, flags, bodies, False)
    return [True for _ in operation.outputs]


def scan_dependence(
    operation: Operation, flags: Sequence[bool], bodies: Bodies, differentiable: bool = False
) -> list[bool]:
    """Which inputs of a scan's body depend on the inputs that `flags` marks."""
    return _scan_outputs(operation, flags, bodies, differentiable)[0]


def _scan_outputs(operation, flags, bodies, differentiable) -> tuple[list[bool], list[bool]]:
    body, flags = bodies(operation), list(flags)
    start, carried = scan_counts(operation.params)
    while True:
        outputs = _body_outputs(body, flags, bodies, differentiable)
        carry = [
            before or after
            for before, after in zip(flags[start : start + carried], outputs[:carried], strict=True)
        ]
        if carry == flags[start : start + carried]:
            return flags, [*carry, *outputs[carried:]]
        flags[start : start + carried] = carry


def _body_outputs(body: Graph, flags, bodies, differentiable) -> list[bool]:
    sources = [v for v, flag in zip(body.inputs, flags, strict=True) if flag]
    reached = reach(body, sources, bodies, differentiable=differentiable)
    return [not isinstance(o, Constant) and o in reached for o in body.outputs]


def between(root: Variable, end: Variable, flow: Flow) -> tuple[Operation, ...]:
    """The operations by which the end depends on the root."""
    wanted, stack = set(), [end]
    while stack:
        producer = flow.producer.get(stack.pop())
        if producer is None or producer in wanted:
            continue
        wanted.add(producer)
        stack.extend(v for v in flow.depending_inputs(producer) if v != root)
    kept, reached = [], {root}
    for operation in sorted(wanted, key=flow.order.__getitem__):
        if not reached.isdisjoint(variables(operation.inputs)):
            kept.append(operation)
            reached.update(operation.outputs)
    return tuple(kept)


def variables(operands: Iterable[Operand]) -> Iterator[Variable]:
    return (operand for operand in operands if not isinstance(operand, Constant))


def _number(value: Any) -> float | None:
    if isinstance(value, Tracer) or np.size(value) != 1:
        return None
    array = np.asarray(value)
    return None if np.iscomplexobj(array) else float(array.reshape(()))


def _nonnegative_constant(value: Any) -> bool:
    return not isinstance(value, Tracer) and bool(np.all(np.asarray(value) >= 0))
