"""What leaves a checkpoint or a branch: values that are read outside, relevance that is sent in."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from functools import cached_property
from typing import NamedTuple

from isnet_jax.lrp.plan.carried import STABILISER
from isnet_jax.lrp.plan.sites import (
    ActivationSite,
    Carried,
    ConeSite,
    LayerSite,
    Plan,
    Site,
)
from isnet_jax.lrp.rules import RelevanceRule
from isnet_jax.lrp.trace.dependence import variables
from isnet_jax.lrp.trace.jaxpr import Block, Operation, Variable, operations_of
from isnet_jax.lrp.trace.primitives import SHAPING


class Leaving(NamedTuple):
    """What a block hands to the program around it, in a fixed order."""

    values: tuple[Variable, ...]
    carriers: tuple[Carried, ...]


class Reads:
    """Who reads what in a plan, counted when first asked for, and again for each block."""

    def __init__(self, plan: Plan):
        self.plan = plan

    @cached_property
    def values(self) -> Counter[Variable]:
        found = Counter(variables(self.plan.graph.outputs))
        found.update(self._values(self.plan.graph.operations))
        return found

    @cached_property
    def carriers(self) -> Counter[Carried]:
        return Counter(self._carriers(self.plan.graph.operations))

    @cached_property
    def _carried_at(self) -> dict[Variable, list[Carried]]:
        found: dict[Variable, list[Carried]] = {}
        for carried in self.plan.carried:
            found.setdefault(carried[0], []).append(carried)
        return found

    def leaving(self, block: Block) -> Leaving:
        operations = list(operations_of(block))
        made = {v for operation in operations for v in operation.outputs}
        inside = Counter(self._values(operations))
        sent = Counter(self._carriers(operations))
        return Leaving(
            tuple(v for v in sorted(made) if self.values[v] > inside[v]),
            tuple(
                carried
                for carried in self.plan.carried
                if carried[0] in made and self.carriers[carried] > sent[carried]
            ),
        )

    def _values(self, operations: Iterable[Operation]) -> Iterator[Variable]:
        for operation in operations:
            yield from variables(operation.inputs)
            for output in operation.outputs:
                if output in self.plan.sites:
                    yield from read_by(self.plan.sites[output], self.plan)

    def _carriers(self, operations: Iterable[Operation]) -> Iterator[Carried]:
        for operation in operations:
            for output in operation.outputs:
                site = self.plan.sites.get(output)
                if isinstance(site, LayerSite) and isinstance(site.rule, RelevanceRule):
                    yield site.x, STABILISER
                for carried in self._carried_at.get(output, ()):
                    yield from self.plan.carried[carried]
            body = self.plan.bodies.get(operation)
            if body is not None:
                for inner, outer in zip(body.graph.inputs, operation.inputs, strict=True):
                    if inner in body.carrier_inputs and self.plan.flow.carries(outer):
                        yield outer, STABILISER  # pyright: ignore[reportReturnType]


def read_by(site: Site, plan: Plan) -> Iterator[Variable]:
    """The values that a site needs beside those of its operation."""
    yield from variables(site.operation.inputs)
    yield from site.operation.outputs
    match site:
        case LayerSite():
            yield site.x
            for step in site.tail:
                if step.branches:
                    continue  # what a branch keeps to itself is computed again
                yield from variables(step.operation.inputs)
                for operand in variables(step.operation.inputs):
                    yield from _behind(operand, plan)
            if site.first:
                yield from _from_input(site.x, plan)
        case ActivationSite() | ConeSite():
            yield site.root
            for operation in site.inside:
                yield from variables(operation.inputs)


def _behind(operand: Variable, plan: Plan) -> Iterator[Variable]:
    """What a per-channel operand of a tail is rearranged or scaled from."""
    stack, seen = [operand], set()
    while stack:
        current = stack.pop()
        if current in seen or (plan.flow.carries(current) and current in plan.live):
            continue
        seen.add(current)
        yield current
        producer = plan.flow.producer.get(current)
        if producer is None:
            continue
        if producer.name in (*SHAPING, "mul", "div") or plan.flow.is_identity(producer):
            stack.extend(variables(producer.inputs))


def _from_input(x: Variable, plan: Plan) -> Iterator[Variable]:
    stack, seen = [x], set()
    while stack:
        current = stack.pop()
        if current in seen or current in plan.first_sources:
            continue
        seen.add(current)
        producer = plan.flow.producer[current]
        yield from variables(producer.inputs)
        stack.extend(plan.flow.carrying_inputs(producer))
