"""Values that depend on the input by reductions only, however these are written: statistics."""

from __future__ import annotations

from collections.abc import Iterable

from isnet_jax.lrp.trace.dependence import Flow, travels, variables
from isnet_jax.lrp.trace.homogeneity import accumulated
from isnet_jax.lrp.trace.jaxpr import Constant, Operand, Operation, Variable
from isnet_jax.lrp.trace.primitives import MOVES, facts

_OVER_DEVICES = frozenset({"psum", "psum_invariant", "pmean"})
_SUMS = ("add", "add_any")
_WINDOW = (3, 64)
"""The fewest and the most shifted copies of a value whose sum is one over a window."""


class Reductions:
    """The reductions behind the values of a graph, found once."""

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
            case "scan":
                return accumulated(operation, output, self.flow) is not None
            case "custom_derivative":
                return self._only_reduces(operation)
            case "add" | "add_any":
                return self._sums_a_window(output)
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

    def _sums_a_window(self, total: Variable) -> bool:
        """A sum of shifted copies of one value, as local response norms are written."""
        fewest, most = _WINDOW
        terms, stack = set(), [total]
        while stack and len(terms) <= most:
            producer = self.flow.made_by(stack.pop())
            if producer is None:
                return False
            if producer.name in _SUMS:
                stack.extend(variables(producer.inputs))
            elif producer.name in MOVES:
                terms.add(producer.outputs[0])
            else:
                return False
        sources = {self._moved_from(term) for term in terms}
        return fewest <= len(terms) <= most and len(sources) == 1 and None not in sources

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
        """The values that are reduced, and those they are elementwise functions of."""
        return self.flow.elementwise_ancestors(o for op in reductions for o in op.inputs)


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
