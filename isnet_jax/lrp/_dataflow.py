"""What a traced program's values depend on: the questions `_sites` asks before it places a rule."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Set
from functools import cached_property

import numpy as np

from isnet_jax.lrp import _facts
from isnet_jax.lrp._jaxpr import Constant, Graph, Operand, Operation, Variable, subgraphs


class Dataflow:
    """Producers, consumers and dependence on the input, of one graph.

    A value *depends* on the input if any path leads there (also through comparisons). It
    *carries* relevance if it depends on it other than through the statistics of a norm, and can
    have a cotangent at all.
    """

    def __init__(self, graph: Graph, depends: Iterable[Variable], still: Iterable[Variable] = ()):
        """`still`: inputs that depend on the explained input but carry nothing."""
        self.graph = graph
        self.still = frozenset(still)
        self.producer: dict[Variable, Operation] = {}
        self.consumers: dict[Variable, list[Operation]] = defaultdict(list)
        for operation in graph.operations:
            for variable in operation.outputs:
                self.producer[variable] = operation
            for variable in variables(operation.inputs):
                self.consumers[variable].append(operation)
        self.sources = frozenset(depends)
        self.depending = self._reach(self.sources, frozenset())

    def _reach(self, sources: Set[Variable], cut: Set[Variable]) -> frozenset[Variable]:
        reached = set(sources) - cut
        for operation in self.graph.operations:
            if any(variable in reached for variable in variables(operation.inputs)):
                reached.update(set(operation.outputs) - cut)
        return frozenset(reached)

    @cached_property
    def carrying(self) -> frozenset[Variable]:
        blocked = {
            variable
            for variable in self.graph.types
            if variable in self.statistics or not self.graph.inexact(variable)
        } | self.still
        for operation in self.graph.operations:
            if operation.name == "stop_gradient":
                blocked.update(operation.outputs)
        return self._reach(self.sources, blocked)

    def carries(self, operand: Operand) -> bool:
        return not isinstance(operand, Constant) and operand in self.carrying

    def carrying_inputs(self, operation: Operation) -> list[Variable]:
        return [v for v in variables(operation.inputs) if v in self.carrying]

    def _depending_inputs(self, operation: Operation) -> list[Variable]:
        return [v for v in variables(operation.inputs) if v in self.depending]

    # Norms

    @cached_property
    def statistics(self) -> dict[Variable, str]:
        """Values at which the statistics of a norm enter: their kind, "batch" or "norm".

        A scale is a square root of reductions that multiplies or divides what it was reduced
        from; a centre is a mean over the batch that is added to or taken from what it was
        reduced from. The centre of a layer norm is a linear map of the sample and stays one.
        Values that `checkpoint_name` calls batch statistics are.
        """
        found: dict[Variable, str] = {}
        for operation in self.graph.operations:
            named = operation.name == "name" and operation.outputs[0] in self.depending
            if named and operation.params["name"] == _facts.BATCH_STATISTICS:
                found[operation.outputs[0]] = "batch"
            if operation.name not in ("rsqrt", "sqrt"):
                continue
            reductions = self._reductions(operation.inputs)
            if reductions and self._meets(operation.outputs[0], reductions):
                found[operation.outputs[0]] = self._statistic_kind(reductions)
        for centre, reductions, _ in self._centres:
            if self._statistic_kind(reductions) == "batch":
                found[centre] = "batch"
        return found

    @cached_property
    def centring(self) -> frozenset[Operation]:
        """The subtractions of a norm's mean and the reductions behind them."""
        return frozenset(
            op for _, reductions, subtraction in self._centres for op in (*reductions, subtraction)
        )

    @cached_property
    def _centres(self) -> list[tuple[Variable, list[Operation], Operation]]:
        """Means that are added to or taken from what they were reduced from."""
        found = []
        for operation in self.graph.operations:
            if operation.name not in ("add", "sub", "add_any"):
                continue
            for centre, other in _both_orders(operation.inputs):
                if isinstance(centre, Constant) or isinstance(other, Constant):
                    continue
                reductions = self._reductions([centre])
                if reductions and (
                    self.elementwise_ancestors([other]) & self._reduced_from(reductions)
                ):
                    found.append((centre, reductions, operation))
        return found

    def _statistic_kind(self, reductions: Iterable[Operation]) -> str:
        over_batch = all(
            op.name != "reduce_sum" or (0 in op.params["axes"] and len(op.params["axes"]) > 0)
            for op in reductions
        )
        return "batch" if over_batch and self._keeps_features(reductions) else "norm"

    def _keeps_features(self, reductions: Iterable[Operation]) -> bool:
        return all(len(self.graph.shape(op.outputs[0])) > 0 for op in reductions)

    def _reductions(self, operands: Iterable[Operand]) -> list[Operation]:
        """The reductions that all of the operands' dependence passes, [] if some evades them."""
        found, stack, seen = [], list(variables(operands)), set()
        while stack:
            variable = stack.pop()
            if variable in seen or variable not in self.depending:
                continue
            seen.add(variable)
            producer = self.producer.get(variable)
            if producer is None:
                return []
            if producer.name == "reduce_sum":
                found.append(producer)
            elif producer.name in _facts.TRAVELLING | _facts.REDUCTIONS:
                stack.extend(variables(producer.inputs))
            else:
                return []
        return found

    def _reduced_from(self, reductions: Iterable[Operation]) -> set[Variable]:
        return self.elementwise_ancestors(op.inputs[0] for op in reductions)

    def elementwise_ancestors(self, operands: Iterable[Operand]) -> set[Variable]:
        """The operands and the depending values they are elementwise functions of.

        A concatenation counts as elementwise in its parts: their statistics may come from there.
        """
        found: set[Variable] = set()
        stack = [v for v in variables(operands) if v in self.depending]
        while stack:
            variable = stack.pop()
            if variable in found:
                continue
            found.add(variable)
            producer = self.producer.get(variable)
            if producer is not None and producer.name in _facts.ELEMENTWISE | {"concatenate"}:
                stack.extend(self._depending_inputs(producer))
        return found

    def _meets(self, statistic: Variable, reductions: list[Operation]) -> bool:
        """Whether the statistic scales a value that it was reduced from."""
        reduced_from = self._reduced_from(reductions)
        stack, seen = [statistic], set()
        while stack:
            variable = stack.pop()
            if variable in seen:
                continue
            seen.add(variable)
            for operation in self.consumers[variable]:
                if operation.name in ("mul", "div"):
                    others = [v for v in variables(operation.inputs) if v != variable]
                    if self.elementwise_ancestors(others) & reduced_from:
                        return True
                if operation.name in _facts.TRAVELLING:
                    stack.extend(operation.outputs)
        return False

    # Signs

    def nonnegative(self, operand: Operand) -> bool:
        """Whether the value is known to have no negative elements."""
        known, stack = self._nonnegative, [operand]
        while stack:
            current = stack[-1]
            if isinstance(current, Constant) or current in known:
                stack.pop()
                continue
            needed = self._signs_needed(self.producer.get(current))
            if needed is None:
                known[current] = False
            else:
                open_ = [v for v in variables(needed) if v not in known]
                if open_:
                    stack.extend(open_)
                    continue
                known[current] = all(
                    known[o] if not isinstance(o, Constant) else bool(np.all(o.value >= 0))
                    for o in needed
                )
            stack.pop()
        return bool(np.all(operand.value >= 0)) if isinstance(operand, Constant) else known[operand]

    @cached_property
    def _nonnegative(self) -> dict[Variable, bool]:
        return {}

    def _signs_needed(self, operation: Operation | None) -> list[Operand] | None:
        """The operands that must be nonnegative for the result to be; None: not known."""
        if operation is None:
            return None
        name, inputs = operation.name, list(operation.inputs)
        if name in _facts.NONNEGATIVE or is_relu(operation):
            return []
        if name in _facts.SIGN_KEEPING:
            return inputs
        if name in ("gather", "dynamic_slice", "reduce_precision"):
            return inputs[:1]
        if name == "select_n":
            return inputs[1:]
        if name == "mul" and inputs[0] == inputs[1]:
            return []
        return None

    # Activations

    def elementwise_roots(self, variable: Variable) -> list[Variable]:
        """The values that `variable` is an elementwise function of, each alone; nearest first."""
        roots = [variable]
        while True:
            producer = self.producer.get(roots[-1])
            if producer is None or producer.name not in _facts.ELEMENTWISE:
                return roots
            inputs = list(dict.fromkeys(self.carrying_inputs(producer)))
            shape = self.graph.shape(roots[-1])
            if not inputs or any(self.graph.shape(v) != shape for v in inputs):
                return roots
            root = inputs[0] if len(inputs) == 1 else self.common_root(inputs)
            if root is None:
                return roots
            roots.append(root)

    def common_root(self, operands: list[Variable]) -> Variable | None:
        """The nearest value that all the operands are elementwise functions of."""
        first, *others = (self.elementwise_roots(v) for v in operands)
        return next((v for v in first if all(v in other for other in others)), None)


def is_relu(operation: Operation) -> bool:
    """Whether the operation is `max(x, 0)`, bare or as `jax.nn.relu`."""
    if operation.name == "max":
        constants = [o.value for o in operation.inputs if isinstance(o, Constant)]
        return len(constants) == 1 and not np.any(constants[0])
    if operation.name != "custom_jvp_call":
        return False
    (body,) = subgraphs(operation, lambda name: False)
    return len(body.operations) == 1 and is_relu(body.operations[0])


def variables(operands: Iterable[Operand]) -> Iterator[Variable]:
    return (operand for operand in operands if not isinstance(operand, Constant))


def _both_orders(pair: tuple[Operand, ...]) -> tuple[tuple[Operand, Operand], ...]:
    first, second = pair
    return (first, second), (second, first)
