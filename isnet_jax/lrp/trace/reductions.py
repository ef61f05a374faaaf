"""Values that depend on the input by reductions only, however these are written: statistics."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cached_property
from typing import NamedTuple

from isnet_jax.lrp.trace.dependence import Flow, travels, variables
from isnet_jax.lrp.trace.homogeneity import accumulated
from isnet_jax.lrp.trace.jaxpr import Constant, Operand, Operation, Variable
from isnet_jax.lrp.trace.primitives import MOVES, facts

_OVER_DEVICES = frozenset({"psum", "psum_invariant", "pmean"})
_SUMS = ("add", "add_any")
_INDEXED_SUMS = ("scatter-add", "scatter_add")
_WINDOW = (3, 64)
"""The fewest and the most pieces or shifted copies of a value whose sum is one of it."""
_WAY = 32
"""The most operations on the way from a piece to the term that is a function of it."""


class Pieces(NamedTuple):
    """What is summed piece by piece: a value, and whether the terms are the pieces themselves."""

    source: Variable
    whole: bool


class Reductions:
    """The reductions behind the values of a graph, found once: `flow.analysis(Reductions)`."""

    def __init__(self, flow: Flow):
        self.flow = flow
        self._behind: dict[Variable, list[Operation]] = {}

    def behind(self, operand: Operand) -> list[Operation]:
        """The reductions that all of the value's dependence passes, [] if some evades them."""
        if isinstance(operand, Constant) or operand not in self.flow.depending:
            return []
        if operand not in self._behind:
            self._behind[operand] = self._find(operand)
        return self._behind[operand]

    def _find(self, operand: Variable) -> list[Operation]:
        found, stack, seen = [], [operand], set()
        while stack:
            variable = stack.pop()
            if variable in seen or variable not in self.flow.depending:
                continue
            seen.add(variable)
            producer = self.flow.producer.get(variable)
            if producer is None:
                return []
            if producer.name in _OVER_DEVICES:
                stack.extend(variables(producer.inputs))  # of what each device has reduced
            elif self._reduces(producer, variable):
                found.append(producer)
            elif travels(producer):
                stack.extend(variables(producer.inputs))
            else:
                return []
        return found

    def _reduces(self, operation: Operation, output: Variable) -> bool:
        match operation.name:
            case "dot_general":
                return self._is_sum(operation)
            case "conv_general_dilated":
                return self.flow.number(operation.inputs[1]) is not None
            case "scan":
                return accumulated(operation, output, self.flow) is not None
            case "custom_derivative":
                return self._only_reduces(operation)
            case "add" | "add_any":
                return self.sum_of_pieces(output) is not None
            case name if name in _INDEXED_SUMS:
                start, index, _ = operation.inputs
                return not self.flow.depends(start) and not self.flow.depends(index)
        return facts(operation.name).reduces

    def _is_sum(self, product: Operation) -> bool:
        """A value times itself, or times one number everywhere, summed."""
        (contracted, _), (lhs, rhs) = product.params["dimension_numbers"], product.inputs
        if not contracted[0]:
            return False
        if self.flow.depends(lhs) and self.flow.depends(rhs):
            one, other = map(self.flow.elementwise_ancestors, ([lhs], [rhs]))
            return bool(one & other)
        return summed_by(product, self.flow) is not None

    def _only_reduces(self, operation: Operation) -> bool:
        """Whether all outputs of a function with its own derivative are its input's statistics."""
        if len(operation.inner) != 1:
            return False
        body = self.flow.bodies(operation)
        if len(body.inputs) != len(operation.inputs):
            return False
        sources = [
            v for v, o in zip(body.inputs, operation.inputs, strict=True) if self.flow.depends(o)
        ]
        inner = Reductions(Flow(body, self.flow.bodies, sources))
        return all(isinstance(o, Constant) or inner.behind(o) for o in body.outputs)

    def sum_of_pieces(self, total: Variable) -> Pieces | None:
        """What a sum of pieces or shifted copies of one value, or of functions of them, sums.

        So local response norms are written, and sums in Python.
        """
        return self._sums.get(total)

    @cached_property
    def _sums(self) -> dict[Variable, Pieces]:
        """Of all totals in the order in which they run: one may be a statistic in the next."""
        found: dict[Variable, Pieces] = {}
        self.__dict__["_sums"] = found  # for those that are asked for meanwhile
        for operation in self.flow.graph.operations:
            if operation.name in _SUMS and self.flow.depends(operation.outputs[0]):
                pieces = self._pieces(operation.outputs[0])
                if pieces is not None:
                    found[operation.outputs[0]] = pieces
        return found

    def _pieces(self, total: Variable) -> Pieces | None:
        fewest, most = _WINDOW
        terms: dict[Operand, None] = {}
        stack: list[Operand] = [total]
        while stack:
            current = self.flow.origin(stack.pop())
            producer = self.flow.made_by(current)
            if producer is not None and producer.name in _SUMS:
                stack.extend(self.flow.depending_inputs(producer))
            elif current in terms or len(terms) == most:
                return None
            else:
                terms[current] = None
        if len(terms) < fewest:
            return None
        pieces: set[Variable] = set()
        source = None
        for term in terms:
            piece = self._piece(term)
            before = None if piece is None or piece in pieces else self._moved_from(piece)
            if before is None or source not in (None, before) or piece is None:
                return None
            pieces.add(piece)
            source = before
        return None if source is None else Pieces(source, pieces == {*terms})

    def _piece(self, term: Operand) -> Variable | None:
        """The rearranged value that the term is an elementwise function of, statistics aside."""
        found, stack, seen = set(), [term], set()
        while stack:
            current = self.flow.origin(stack.pop())
            if isinstance(current, Constant) or current in seen:
                continue
            seen.add(current)
            producer = self.flow.producer.get(current)
            if producer is None or len(seen) > _WAY:
                return None
            if producer.name in MOVES:
                found.add(current)
            elif facts(producer.name).elementwise:
                stack.extend(v for v in self.flow.depending_inputs(producer) if not self.behind(v))
            else:
                return None
        return found.pop() if len(found) == 1 else None

    def _moved_from(self, variable: Variable) -> Variable | None:
        """What the value is a rearrangement of."""
        while True:
            producer = self.flow.made_by(variable)
            if producer is None or producer.name not in MOVES:
                return variable
            before = {*variables(map(self.flow.origin, self.flow.depending_inputs(producer)))}
            if len(before) != 1:
                return None
            (variable,) = before

    def reduced_from(self, reductions: Iterable[Operation]) -> set[Variable]:
        """What is reduced, at once or over and over, and what it is an elementwise function of."""
        found: set[Variable] = set()
        pending, seen = list(reductions), set()
        while pending:
            reduction = pending.pop()
            if reduction not in seen:
                seen.add(reduction)
                before = self.flow.elementwise_ancestors(reduction.inputs)
                found |= before
                pending.extend(self._reducing(before))
        return found

    def _reducing(self, values: Iterable[Variable]) -> Iterable[Operation]:
        """The reductions that some of the values are the results of."""
        for value in values:
            producer = self.flow.producer.get(value)
            if producer is not None and self._reduces(producer, value):
                yield producer


def summed_by(product: Operation, flow: Flow) -> Operand | None:
    """The operand that a product only sums, its other one being one number everywhere."""
    lhs, rhs = product.inputs
    summed, other = (lhs, rhs) if flow.depends(lhs) else (rhs, lhs)
    return None if flow.depends(other) or flow.number(other) is None else summed


def reduced_axes(reduction: Operation) -> list[tuple[int, ...]]:
    """The axes that each operand is reduced over."""
    params = reduction.params
    if reduction.name == "dot_general":
        contracted, _ = params["dimension_numbers"]
        return [tuple(contracted[0]), tuple(contracted[1])]
    if "axes" in params:
        return [tuple(params["axes"])]
    return [(params["axis"],)] if reduction.name == "cumsum" else [()]
