"""How a value grows with the values that it is computed from: by which power, if by any."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection
from fractions import Fraction
from typing import NamedTuple

from isnet_jax.lrp.trace.dependence import Flow, scan_dependence
from isnet_jax.lrp.trace.jaxpr import JOIN, Constant, Operand, Operation, Variable, scan_counts
from isnet_jax.lrp.trace.primitives import facts
from isnet_jax.lrp.trace.stacked import taken_from


class Scaling(NamedTuple):
    """What a value becomes when its roots are multiplied by c.

    Attributes:
      degree: it becomes c^degree times itself.
      logarithm: it is a logarithm and becomes degree * log(c) more.
      doubtful: that is so where a constant beside it, which is not small, does not count.
    """

    degree: Fraction
    logarithm: bool = False
    doubtful: bool = False


_NONE = Scaling(Fraction(0))
_SMALL = 0.01
"""The largest constant that is a mere stabiliser."""
_POWERS = {"sqrt": Fraction(1, 2), "rsqrt": Fraction(-1, 2), "cbrt": Fraction(1, 3)}
_ADDING = ("add", "sub", "add_any", "max")
_COMPARING = ("eq", "ne", "lt", "le", "gt", "ge", "is_finite")
_SUMMING = (*_ADDING, "min", "clamp", "select_n", JOIN)


def scaling(
    operand: Operand,
    roots: Collection[Variable],
    flow: Flow,
    is_statistic: Callable[[Operand], object] = lambda operand: False,
) -> Scaling | None:
    """How the value scales with the roots, all multiplied alike; None: not by any power.

    Args:
      is_statistic: whether an operand is reduced; the size of what is added to one counts.
    """
    return _Walk(flow, roots, is_statistic).of(operand)


class _Walk:
    def __init__(self, flow: Flow, roots: Collection[Variable], is_statistic):
        self.flow = flow
        self.is_statistic = is_statistic
        self.known: dict[Variable, Scaling | None] = dict.fromkeys(roots, Scaling(Fraction(1)))

    def of(self, operand: Operand) -> Scaling | None:
        if isinstance(operand, Constant) or operand not in self.flow.depending:
            return _NONE
        if operand not in self.known:
            self.known[operand] = None
            producer = self.flow.producer.get(operand)
            if producer is not None:
                self.known[operand] = self._made(producer, operand)
        return self.known[operand]

    def _made(self, operation: Operation, output: Variable) -> Scaling | None:
        name, inputs = operation.name, operation.inputs
        if facts(name).identity:
            return self.of(inputs[operation.outputs.index(output)])
        if name == "custom_derivative":
            return self._inside(operation, output)
        if name == "scan":
            return self._accumulated(operation, output)
        if (piece := taken_from(operation, output, self.flow)) is not None:
            return self.of(piece)
        if name in ("select_n", JOIN):
            inputs = inputs[1:]
        if name in ("gather", "slice", "dynamic_slice", "stop_gradient", "abs"):
            inputs = inputs[:1]
        parts = []
        for operand in inputs:
            part = self.of(operand)
            if part is None:
                return None
            parts.append(part)
        numbers = [self.flow.number(o) for o in inputs]
        found = _combined(operation, parts, numbers)
        if found is None or found == _NONE:
            return found
        adds = name in _ADDING and any(map(self._counts, inputs))
        more = name == "log1p" or (adds and any(map(self.is_statistic, inputs)))
        doubtful = more or any(part.doubtful for part in parts)
        return found._replace(doubtful=doubtful)

    def _counts(self, operand: Operand) -> bool:
        """Whether the operand is one number, for all that is known not a small one."""
        number = self.flow.number(operand)
        if number is None:
            alone = math.prod(self.flow.graph.shape(operand)) == 1
            return alone and not self.flow.depends(operand)
        return abs(number) > _SMALL

    def _inside(self, operation: Operation, output: Variable) -> Scaling | None:
        """Of an output of a function with its own derivative, from what it computes."""
        body = self.flow.bodies(operation)
        if len(body.inputs) != len(operation.inputs):
            return None
        depending = [i for i, o in enumerate(operation.inputs) if self.flow.depends(o)]
        sources = {body.inputs[i] for i in depending}
        inner = Flow(body, self.flow.bodies, sources)
        within = scaling(body.outputs[operation.outputs.index(output)], sources, inner)
        return self._composed({self.of(operation.inputs[i]) for i in depending}, within)

    def _accumulated(self, scan: Operation, output: Variable) -> Scaling | None:
        """Of a carry that the steps of a scan add to."""
        summand = accumulated(scan, output, self.flow)
        if summand is None:
            return None
        constants, carried = scan_counts(scan.params)
        body = self.flow.bodies(scan)
        read = [i for i in range(len(scan.inputs)) if not constants <= i < constants + carried]
        depending = [i for i in read if self.flow.depends(scan.inputs[i])]
        inner = _body_flow(scan, self.flow)
        within = scaling(summand, {body.inputs[i] for i in depending}, inner)
        found = self._composed({self.of(scan.inputs[i]) for i in depending}, within)
        start = self.of(scan.inputs[constants + scan.outputs.index(output)])
        return found if start in (_NONE, found) else None

    def _composed(self, outer: set[Scaling | None], within: Scaling | None) -> Scaling | None:
        if len(outer) != 1 or within is None:
            return None
        (scale,) = outer
        if scale is None or scale.logarithm:
            return None
        doubtful = scale.doubtful or within.doubtful
        return Scaling(scale.degree * within.degree, within.logarithm, doubtful)


def accumulated(scan: Operation, output: Variable, flow: Flow) -> Operand | None:
    """What every step of a scan adds to the carry that becomes the output; None: it is no sum."""
    constants, carried = scan_counts(scan.params)
    position = scan.outputs.index(output)
    if position >= carried:
        return None
    inner = _body_flow(scan, flow)
    carry = inner.graph.inputs[constants + position]
    producer = inner.made_by(inner.graph.outputs[position])
    if producer is None or producer.name not in ("add", "add_any", "max", "min"):
        return None
    for before, summand in (producer.inputs, producer.inputs[::-1]):
        if inner.origin(before) == carry:
            carries = inner.graph.inputs[constants : constants + carried]
            stepwise = inner.elementwise_ancestors([summand]).isdisjoint(carries)
            return summand if stepwise and inner.depends(summand) else None
    return None


def _body_flow(scan: Operation, flow: Flow) -> Flow:
    body = flow.bodies(scan)
    flags = scan_dependence(scan, [flow.depends(o) for o in scan.inputs], flow.bodies)
    return Flow(body, flow.bodies, [v for v, flag in zip(body.inputs, flags, strict=True) if flag])


def _combined(
    operation: Operation, parts: list[Scaling], numbers: list[float | None]
) -> Scaling | None:
    """The scaling of an operation's result from those of its operands."""
    name, primitive = operation.name, facts(operation.name)
    if all(part == _NONE for part in parts):
        return _NONE
    first = parts[0]
    logarithm = any(part.logarithm for part in parts)
    if name in _COMPARING:
        compared = {part for part, number in zip(parts, numbers, strict=True) if number != 0}
        return _NONE if len(compared) < 2 and not logarithm else None
    if name in ("exp", "exp2"):
        return Scaling(first.degree) if first.logarithm else None
    if name in ("log", "log2", "log1p"):
        return None if logarithm else Scaling(first.degree, True)
    if name in ("mul", "div", "dot_general", "conv_general_dilated") and not logarithm:
        sign = -1 if name == "div" else 1
        return Scaling(first.degree + sign * parts[1].degree)
    if logarithm:
        return _of_logarithm(name, parts, numbers)
    if name in _POWERS:
        return Scaling(first.degree * _POWERS[name])
    if name in ("square", "integer_pow"):
        return Scaling(first.degree * operation.params.get("y", 2))
    if name == "pow":
        if numbers[1] is None:
            return None
        return Scaling(first.degree * Fraction(numbers[1]).limit_denominator(1000))
    passing = primitive.shaping or primitive.reduces or name in ("abs", "neg", "stop_gradient")
    if passing or name in _SUMMING or primitive.passing in ("moves", "sums"):
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
