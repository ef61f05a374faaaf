"""Norms, recognised by what they compute.

The *scale* of a norm depends on the input by reductions only, multiplies or divides what was
reduced, and gets smaller as that gets larger: it is homogeneous in it, of a degree of at most 0
(`1 / rms` of degree -1), however it is spelt. So a gate such as `h * sigmoid(mean(h))` is none.
It may stand behind a map that it commutes with: `(h @ u) / |h|` is `(h / |h|) @ u`. Where a
constant that is not small counts in it, as in `h / (1 + mean(|h|))`, it is a guess.
The *centre* of a batch norm is a mean over the samples that is subtracted where such a scale
applies; the centre of any other norm is a linear map of the sample and stays one.

Each is an edge: an operand of one operation that is a constant for relevance, whatever else reads
the same value.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from fractions import Fraction
from functools import cached_property
from typing import Any, NamedTuple

from isnet_jax.lrp.trace import primitives
from isnet_jax.lrp.trace.batch import Samples
from isnet_jax.lrp.trace.dependence import Edge, Flow, is_relu, travels
from isnet_jax.lrp.trace.homogeneity import Scaling, scaling
from isnet_jax.lrp.trace.jaxpr import JOIN, Constant, Operand, Operation, Variable
from isnet_jax.lrp.trace.primitives import facts
from isnet_jax.lrp.trace.reductions import Reductions, reduced_axes

_WAY = 32
"""The most operations on the way from a norm's value to the product with its scale."""
_DOUBT = (
    "a value is divided by a statistic of its own to which a constant that is not small is added; "
    'it is taken for a norm. lrp.mark(scale, "norm_statistics") says that it is one; if it is '
    "none, put the function under a named jax.jit and register a rule for that name"
)


class Norms(NamedTuple):
    """The statistics of a graph's norms.

    Attributes:
      edges: kind ("batch" or "norm") by edge.
      behind: those that scale what a map makes of the value, not the value itself.
      guesses: why an edge was taken for one, in words for the user, where that is a guess.
      centring: the subtractions of a norm's mean and the reductions behind them.
    """

    edges: dict[Edge, str]
    behind: frozenset[Edge]
    guesses: dict[Edge, str]
    centring: frozenset[Operation]


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
        centring.update(finder.reductions.behind(operation.inputs[position]))
    for (operation, position), kind in scales:
        if kind == "batch":
            for edge in finder.centres(operation, position):
                edges[edge] = "batch"
    return Norms(edges, frozenset(finder.behind), finder.guesses, frozenset(centring))


class _Factor(NamedTuple):
    """A statistic that scales a value: where, and by which power of it the result grows."""

    edge: Edge
    roots: frozenset[Variable]
    degree: Fraction
    doubtful: bool
    behind: bool
    kind: str


class _Finder:
    def __init__(self, flow: Flow, samples: Samples | None):
        self.flow = flow
        self.samples = samples
        self.reductions = flow.analysis(Reductions)
        self.behind: set[Edge] = set()
        self.guesses: dict[Edge, str] = {}

    def scales(self) -> Iterator[tuple[Edge, str]]:
        """The edges of norms' scales, and their kinds.

        A scale may be written as several factors, `h / v * sqrt(v)`: their degrees add up.
        """
        rows: dict[Operation, tuple[_Factor, ...]] = {}
        for operation in self.flow.graph.operations:
            factor = self._factor(operation)
            if factor is not None:
                before = self.flow.made_by(operation.inputs[1 - factor.edge[1]])
                row = () if before is None else rows.get(before, ())
                alike = [each for each in row if each.roots & factor.roots]
                rows[operation] = (*alike, factor)
        norms = {
            factor
            for row in rows.values()
            for factor in row
            if factor.degree <= 0 or sum(each.degree for each in row) <= 0
        }
        for *_, factor in rows.values():
            if factor not in norms:
                continue
            if factor.doubtful:
                self.guesses[factor.edge] = _DOUBT
            if factor.behind:
                self.behind.add(factor.edge)
            yield factor.edge, factor.kind

    def _factor(self, operation: Operation) -> _Factor | None:
        """The operand that is a homogeneous statistic of what it multiplies or divides."""
        if operation.name not in ("mul", "div") or not all(
            map(self.flow.depends, operation.inputs)
        ):
            return None
        found = []
        for position in (0, 1) if operation.name == "mul" else (1,):
            factor, other = operation.inputs[position], operation.inputs[1 - position]
            reductions = self.reductions.behind(factor)
            scaled = self._scaling(factor, other, reductions) if reductions else None
            if scaled is not None:
                scale, roots, behind = scaled
                degree = scale.degree if operation.name == "mul" else -scale.degree
                edge, kind = (operation, position), self.kind(reductions)
                found.append(_Factor(edge, roots, degree, scale.doubtful, behind, kind))
        return min(found, key=lambda factor: factor.degree > 0, default=None)

    def _scaling(
        self, factor: Operand, other: Operand, reductions: list[Operation]
    ) -> tuple[Scaling, frozenset[Variable], bool] | None:
        """How a factor scales with what is reduced, that, and whether a map of it is scaled."""
        for roots, behind in self._roots(factor, other, reductions):
            scale = scaling(factor, roots, self.flow, self.reductions.behind) if roots else None
            if scale is not None and not scale.logarithm:
                return scale, frozenset(roots), behind
        return None

    def _roots(
        self, factor: Operand, other: Operand, reductions: list[Operation]
    ) -> Iterator[tuple[set[Variable], bool]]:
        """What may be what is reduced and scaled, and whether the scale stands behind a map.

        That is nothing of which the factor is an elementwise function, too: a pooled value is no
        statistic of itself, in `s * sigmoid(s)`.
        """
        reduced = self.reductions.reduced_from(reductions)
        reduced -= self._behind_reductions(factor, reductions)
        if common := reduced & self.flow.elementwise_ancestors([other]):
            yield self._not_exponential(common), False
            # Where the mean of `(h - mean)^2` is scaled too, h is what both are made of.
            reduced = {v for v in reduced if not self.reductions.behind(v)}
        known: dict[Operand, set[Operand] | None] = dict.fromkeys(reduced)
        for reduction in reductions:  # no map is one of those that make the factor
            known.update((v, set()) for v in reduction.outputs if v not in known)
        yield self._not_exponential(self._mapped(other, known, _WAY)), True

    def _behind_reductions(
        self, factor: Operand, reductions: Collection[Operation]
    ) -> set[Variable]:
        """The values from the reductions to the factor."""
        found: set[Variable] = set()
        stack = [factor]
        while stack:
            current = stack.pop()
            if isinstance(current, Constant) or current in found or not self.flow.depends(current):
                continue
            found.add(current)
            producer = self.flow.producer.get(current)
            if producer is not None and producer not in reductions:
                stack.extend(producer.inputs)
        return found

    def _not_exponential(self, values: Iterable[Any]) -> set[Variable]:
        return {v for v in values if not self._is_exponential(v)}

    def _mapped(
        self, operand: Operand, known: dict[Operand, set[Operand] | None], way: int
    ) -> set[Operand]:
        """Those of some values that the operand is a homogeneous map of, {} if it is of none.

        Args:
          known: the result by operand; None: one of these values.
          way: how many operations to go back at most.
        """
        if operand not in known:
            known[operand] = set()
            if way and self.flow.depends(operand):
                known[operand] = self._mapped_by(operand, known, way)
        found = known[operand]
        return {operand} if found is None else found

    def _mapped_by(self, variable: Operand, known, way: int) -> set[Operand]:
        producer = None if isinstance(variable, Constant) else self.flow.producer.get(variable)
        if producer is None:
            return set()
        if self.flow.is_identity(producer):
            before = producer.inputs[producer.outputs.index(variable)]
            return self._mapped(before, known, way - 1)
        found = [self._mapped(v, known, way - 1) for v in self.flow.depending_inputs(producer)]
        passing = facts(producer.name).passing
        if passing in ("layer", "multiplies"):
            return set().union(*found)
        alike = passing in ("moves", "sums", "wins") or producer.name == JOIN
        alike |= passing == "divides" and not self.flow.depends(producer.inputs[1])
        alike |= is_relu(producer, self.flow)
        return set().union(*found) if alike and all(found) else set()

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
        axes = reduced_axes(reduction)
        for axes_of_one, operand in zip(axes, reduction.inputs, strict=False):
            if self.flow.depends(operand):
                place = self.samples.of(operand)
                if self.samples.lost(operand):
                    return 0 in axes_of_one
                return place is None or place.axis in axes_of_one
        return False

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
                reductions = self.reductions.behind(centre)
                if not reductions or not self.flow.depends(other):
                    continue
                negative = operation.name == "sub" and position == 1
                if (self._sign(centre) < 0) == negative:
                    continue
                if self.flow.elementwise_ancestors([other]) & self.reductions.reduced_from(
                    reductions
                ):
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
            if self.kind(self.reductions.behind(operation.inputs[position])) == "batch"
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
                reductions = self.reductions.behind(reader.inputs[position])
                if reductions and self.kind(reductions) == "batch":
                    yield reader, position
            if self.flow.depending_inputs(reader) != [current]:
                return
            current = reader.outputs[0]
