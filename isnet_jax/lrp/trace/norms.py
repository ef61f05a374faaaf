"""Norms, recognised by what they compute.

The *scale* of a norm depends on the input by reductions only, multiplies or divides what was
reduced, and gets smaller as that gets larger: it is homogeneous in it, of a degree of at most 0
(`1 / rms` of degree -1), however it is spelt. So a gate such as `h * sigmoid(mean(h))` is none.
The *centre* of a batch norm is a mean over the samples that is subtracted where such a scale
applies; the centre of any other norm is a linear map of the sample and stays one.

Each is an edge: an operand of one operation that is a constant for relevance, whatever else reads
the same value.
"""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from functools import cached_property
from typing import NamedTuple

from isnet_jax.lrp.trace import primitives
from isnet_jax.lrp.trace.batch import Samples
from isnet_jax.lrp.trace.dependence import Edge, Flow, travels, variables
from isnet_jax.lrp.trace.jaxpr import JOIN, Constant, Operand, Operation, Variable
from isnet_jax.lrp.trace.primitives import facts


class Norms(NamedTuple):
    """The statistics of a graph's norms.

    Attributes:
      edges: kind ("batch" or "norm") by edge.
      centring: the subtractions of a norm's mean and the reductions behind them.
    """

    edges: dict[Edge, str]
    centring: frozenset[Operation]


class Scaling(NamedTuple):
    """What a value becomes when its roots are multiplied by c: c^degree times it, or, of a
    logarithm, degree * log(c) more."""

    degree: Fraction
    logarithm: bool = False


_NONE = Scaling(Fraction(0))
_OVER_DEVICES = frozenset({"psum", "psum_invariant", "pmean"})


def find_norms(flow: Flow, samples: Samples | None) -> Norms:
    """The norms of a graph.

    Args:
      samples: where the samples are; None: the function has one sample only.
    """
    finder = _Finder(flow, samples)
    scales = list(finder.scales())
    edges = dict(scales)
    centring: set[Operation] = set()
    for operation, position in finder.subtracted_means:
        centring.add(operation)
        centring.update(finder.reductions(operation.inputs[position]))
    for (operation, position), kind in scales:
        if kind == "batch":
            for edge in finder.centres(operation, position):
                edges[edge] = "batch"
    return Norms(edges, frozenset(centring))


class _Finder:
    def __init__(self, flow: Flow, samples: Samples | None):
        self.flow = flow
        self.samples = samples
        self._reductions: dict[Variable, list[Operation]] = {}

    def scales(self) -> Iterator[tuple[Edge, str]]:
        for operation in self.flow.graph.operations:
            if operation.name not in ("mul", "div"):
                continue
            if not all(map(self.flow.depends, operation.inputs)):
                continue
            for position in (0, 1) if operation.name == "mul" else (1,):
                factor, other = operation.inputs[position], operation.inputs[1 - position]
                reductions = self.reductions(factor)
                if reductions and self._normalises(operation.name, factor, other, reductions):
                    yield (operation, position), self.kind(reductions)
                    break

    def _normalises(self, name: str, factor, other, reductions: list[Operation]) -> bool:
        common = self._reduced_from(reductions) & self.flow.elementwise_ancestors([other])
        roots = {v for v in common if not self._is_exponential(v)}
        if not roots:
            return False
        scaling = self._scaling(factor, roots, {})
        if scaling is None or scaling.logarithm:
            return False
        return scaling.degree <= 0 if name == "mul" else scaling.degree >= 0

    def _is_exponential(self, variable: Variable) -> bool:
        """Whether the value is an exponential, masked or not: its norm would be a softmax."""
        stack, seen = [variable], set()
        while stack:
            producer = self.flow.made_by(stack.pop())
            if producer is None or producer in seen:
                continue
            seen.add(producer)
            if producer.name in ("exp", "exp2"):
                return True
            if producer.name in ("mul", "select_n", *primitives.SHAPING):
                stack.extend(self.flow.depending_inputs(producer))
        return False

    def kind(self, reductions: list[Operation]) -> str:
        batch = all(map(self._over_samples, reductions))
        return "batch" if batch else "norm"

    def _over_samples(self, reduction: Operation) -> bool:
        if self.samples is None:
            return False
        if not self.flow.graph.shape(reduction.outputs[0]):
            return False
        axes = _reduced_axes(reduction)
        for axes_of_one, operand in zip(axes, reduction.inputs, strict=False):
            if self.flow.depends(operand):
                place = self.samples.of(operand)
                if self.samples.lost(operand):
                    return 0 in axes_of_one
                return place is None or place.axis in axes_of_one
        return False

    def reductions(self, operand: Operand) -> list[Operation]:
        """The reductions that all of the value's dependence passes, [] if some evades them."""
        if isinstance(operand, Constant) or operand not in self.flow.depending:
            return []
        if operand not in self._reductions:
            self._reductions[operand] = self._find_reductions(operand)
        return self._reductions[operand]

    def _find_reductions(self, operand: Variable) -> list[Operation]:
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
            elif self._reduces(producer):
                found.append(producer)
            elif travels(producer):
                stack.extend(variables(producer.inputs))
            elif producer.name == "custom_derivative" and self._only_reduces(producer):
                found.append(producer)
            else:
                return []
        return found

    def _reduces(self, operation: Operation) -> bool:
        if facts(operation.name).reduces:
            return True
        if operation.name != "dot_general":
            return False
        (contracted, _), (lhs, rhs) = operation.params["dimension_numbers"], operation.inputs
        if not contracted[0]:
            return False
        if self.flow.depends(lhs) and self.flow.depends(rhs):
            one, other = map(self.flow.elementwise_ancestors, ([lhs], [rhs]))
            return bool(one & other)
        return self.flow.number(rhs if self.flow.depends(lhs) else lhs) is not None

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
        inner = _Finder(Flow(body, self.flow.bodies, sources), None)
        return all(isinstance(o, Constant) or inner.reductions(o) for o in body.outputs)

    def _reduced_from(self, reductions: list[Operation]) -> set[Variable]:
        return self.flow.elementwise_ancestors(o for op in reductions for o in op.inputs)

    # Homogeneity

    def _scaling(self, operand: Operand, roots: set[Variable], known: dict) -> Scaling | None:
        """How the value scales with the roots, all multiplied alike; None: not by any power."""
        if isinstance(operand, Constant) or operand not in self.flow.depending:
            return _NONE
        if operand in roots:
            return Scaling(Fraction(1))
        if operand not in known:
            known[operand] = None
            producer = self.flow.producer.get(operand)
            if producer is not None:
                known[operand] = self._scaling_of(producer, operand, roots, known)
        return known[operand]

    def _scaling_of(self, operation, output, roots, known) -> Scaling | None:
        name, inputs = operation.name, operation.inputs
        primitive = facts(name)
        if primitive.identity:
            return self._scaling(inputs[operation.outputs.index(output)], roots, known)
        if name == "custom_derivative":
            return self._scaling_inside(operation, output, roots, known)
        if name in ("select_n", JOIN):
            inputs = inputs[1:]
        if name in ("gather", "slice", "dynamic_slice", "stop_gradient", "abs"):
            inputs = inputs[:1]
        parts = []
        for operand in inputs:
            part = self._scaling(operand, roots, known)
            if part is None:
                return None
            parts.append(part)
        return _combined(operation, parts, [self.flow.number(o) for o in inputs])

    def _scaling_inside(self, operation, output, roots, known) -> Scaling | None:
        """Of an output of a function with its own derivative, from what it computes."""
        body = self.flow.bodies(operation)
        depending = [i for i, o in enumerate(operation.inputs) if self.flow.depends(o)]
        outer = {self._scaling(operation.inputs[i], roots, known) for i in depending}
        if len(outer) != 1 or len(body.inputs) != len(operation.inputs):
            return None
        (scale,) = outer
        sources = {body.inputs[i] for i in depending}
        inner = _Finder(Flow(body, self.flow.bodies, sources), None)
        within = inner._scaling(body.outputs[operation.outputs.index(output)], sources, {})
        if scale is None or within is None or scale.logarithm:
            return None
        return Scaling(scale.degree * within.degree, within.logarithm)

    # Centres

    @cached_property
    def subtracted_means(self) -> list[Edge]:
        return list(self._subtracted_means())

    def _subtracted_means(self) -> Iterator[Edge]:
        """Means that are subtracted from what they were reduced from."""
        for operation in self.flow.graph.operations:
            if operation.name not in ("add", "sub", "add_any"):
                continue
            for position in (1, 0):
                centre, other = operation.inputs[position], operation.inputs[1 - position]
                reductions = self.reductions(centre)
                if not reductions or not self.flow.depends(other):
                    continue
                negative = operation.name == "sub" and position == 1
                if (self._sign(centre) < 0) == negative:
                    continue
                if self.flow.elementwise_ancestors([other]) & self._reduced_from(reductions):
                    yield operation, position
                    break

    def _sign(self, operand: Operand) -> int:
        """The sign with which a mean enters a value: -1 behind a negation, else 1."""
        producer = self.flow.made_by(operand)
        if producer is None or not travels(producer):
            return 1
        depending = [i for i, o in enumerate(producer.inputs) if self.flow.depends(o)]
        if len(depending) != 1:
            return 1
        (position,) = depending
        sign = self._sign(producer.inputs[position])
        if producer.name == "neg" or (producer.name == "sub" and position == 1):
            return -sign
        if producer.name in ("mul", "div"):
            number = self.flow.number(producer.inputs[1 - position])
            return -sign if number is not None and number < 0 else sign
        return sign

    def centres(self, operation: Operation, position: int) -> Iterator[Edge]:
        """The means over the samples that belong to a batch norm's scale."""
        scaled = self.flow.elementwise_ancestors([operation.inputs[1 - position]])
        for edge in self._batch_means:
            if edge[0].outputs[0] in scaled:
                yield edge
        yield from self._added_behind(operation.outputs[0])

    @cached_property
    def _batch_means(self) -> list[Edge]:
        return [
            (operation, position)
            for operation, position in self.subtracted_means
            if self.kind(self.reductions(operation.inputs[position])) == "batch"
        ]

    def _added_behind(self, scaled: Variable) -> Iterator[Edge]:
        """`h * a + (b - mean * a)`: the centre comes after the scale."""
        current = scaled
        while True:
            readers = self.flow.consumers[current]
            if len(readers) != 1 or not self.flow.is_elementwise(readers[0]):
                return
            (reader,) = readers
            if reader.name in ("add", "sub", "add_any"):
                position = 1 if reader.inputs[0] == current else 0
                reductions = self.reductions(reader.inputs[position])
                if reductions and self.kind(reductions) == "batch":
                    yield reader, position
            if self.flow.depending_inputs(reader) != [current]:
                return
            current = reader.outputs[0]


def _combined(
    operation: Operation, parts: list[Scaling], numbers: list[float | None]
) -> Scaling | None:
    """The scaling of an operation's result from those of its operands."""
    name, primitive = operation.name, facts(operation.name)
    if all(part == _NONE for part in parts):
        return _NONE
    first = parts[0]
    powers = {"sqrt": Fraction(1, 2), "rsqrt": Fraction(-1, 2), "cbrt": Fraction(1, 3)}
    logarithm = any(part.logarithm for part in parts)
    if name in ("exp", "exp2"):
        return Scaling(first.degree) if first.logarithm else None
    if name in ("log", "log2"):
        return None if logarithm else Scaling(first.degree, True)
    if name in ("mul", "div", "dot_general") and not logarithm:
        sign = -1 if name == "div" else 1
        return Scaling(first.degree + sign * parts[1].degree)
    if logarithm:
        return _of_logarithm(name, parts, numbers)
    if name in powers:
        return Scaling(first.degree * powers[name])
    if name in ("square", "integer_pow"):
        return Scaling(first.degree * operation.params.get("y", 2))
    if name == "pow":
        if numbers[1] is None:
            return None
        return Scaling(first.degree * Fraction(numbers[1]).limit_denominator(1000))
    passing = primitive.shaping or primitive.reduces or name in ("abs", "neg", "stop_gradient")
    summing = name in ("add", "sub", "add_any", "max", "min", "clamp", "select_n", JOIN)
    if passing or summing or primitive.passing in ("moves", "sums"):
        # A constant beside it, such as the stabiliser of a variance, is taken for small.
        degrees = {part.degree for part in parts if part != _NONE}
        return Scaling(degrees.pop()) if len(degrees) == 1 else None
    return None


def _of_logarithm(name, parts: list[Scaling], numbers: list[float | None]) -> Scaling | None:
    first = parts[0]
    if name == "neg":
        return Scaling(-first.degree, True)
    if name in ("mul", "div"):
        position = 0 if parts[0].logarithm else 1
        number = numbers[1 - position]
        if number is None or not number or (name == "div" and position == 1):
            return None
        factor = Fraction(number).limit_denominator(1000)
        return Scaling(parts[position].degree * (1 / factor if name == "div" else factor), True)
    if name in ("add", "sub"):
        sign = -1 if name == "sub" else 1
        return Scaling(first.degree + sign * parts[1].degree, True)
    if facts(name).shaping or facts(name).passing == "moves":
        return first
    return None


def _reduced_axes(reduction: Operation) -> list[tuple[int, ...]]:
    """The axes that each operand is reduced over."""
    if reduction.name == "dot_general":
        contracted, _ = reduction.params["dimension_numbers"]
        return [tuple(contracted[0]), tuple(contracted[1])]
    if "axes" in reduction.params:
        return [tuple(reduction.params["axes"])]
    return [()]
