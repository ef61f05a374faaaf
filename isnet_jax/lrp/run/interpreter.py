"""Evaluate a planned graph so that its ordinary pullback is LRP."""

from __future__ import annotations

import dataclasses
from collections import ChainMap
from collections.abc import Mapping, MutableMapping, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from isnet_jax.lrp.plan.blocks import Reads
from isnet_jax.lrp.plan.sites import (
    ActivationSite,
    Carried,
    ConeSite,
    ConstantSite,
    CustomSite,
    LayerSite,
    Plan,
    ProductSite,
    ShareSite,
    Site,
    TapSite,
    WinnerSite,
)
from isnet_jax.lrp.rules import BackwardRule, Flex, LayerRule, RelevanceRule, Rule
from isnet_jax.lrp.run.carriers import Carriers, carrier_dtype
from isnet_jax.lrp.run.control import checkpointed, scanned
from isnet_jax.lrp.run.cotangents import Attach
from isnet_jax.lrp.run.layers import Folding
from isnet_jax.lrp.run.probes import Probes
from isnet_jax.lrp.run.winners import to_winner
from isnet_jax.lrp.trace.jaxpr import (
    Block,
    Branches,
    Checkpoint,
    Constant,
    Operand,
    Operation,
    Variable,
)


@dataclasses.dataclass(frozen=True)
class Places:
    """What happens at taps.

    Attributes:
      carriers: zeros by the tap's name; their cotangents are the relevance there.
      masks: factors on relevance by the tap's name.
      times_input: carriers get relevance, not G.
      probes: count the relevance at both ends of every site; None: nobody asked.
    """

    carriers: Mapping[str, Any]
    masks: Mapping[str, Any]
    times_input: bool = True
    probes: Probes | None = None


def evaluate(
    plan: Plan,
    inputs: Sequence[Any],
    carriers: Mapping[Variable, Any],
    places: Places,
    attach: Attach,
) -> list[Any]:
    """The graph's outputs, bit for bit those of the user's program.

    Differentiated with respect to the carriers only, their cotangents are relevance.

    Args:
      carriers: zeros for the graph's inputs at which relevance itself arrives.
    """
    values = dict(plan.graph.constants)
    values.update(zip(plan.graph.inputs, inputs, strict=True))
    evaluation = _Evaluation(plan, values, {}, carriers, places, attach, Reads(plan))
    evaluation.run(plan.graph.block)
    return [evaluation.read(output) for output in plan.graph.outputs]


class _Evaluation:
    """One block's evaluation: its own values in front of those around it."""

    def __init__(
        self,
        plan: Plan,
        values: MutableMapping[Variable, Any],
        known: MutableMapping[Carried, Any],
        inputs: Mapping[Variable, Any],
        places: Places,
        attach: Attach,
        reads: Reads,
    ):
        self.plan = plan
        self.values = values
        self.known = known
        self.inputs = inputs
        self.places = places
        self.attach = attach
        self.reads = reads
        self.folding = Folding(plan, values)
        self.carriers = Carriers(
            plan, values, self.folding, attach, known, inputs, self._tap_carrier
        )

    def run(self, block: Block) -> None:
        for item in block:
            match item:
                case Operation():
                    self._store(item.outputs, self._bind(item))
                case Checkpoint():
                    self._checkpoint(item)
                case Branches():
                    self._branches(item)

    def read(self, operand: Operand) -> Any:
        return operand.value if isinstance(operand, Constant) else self.values[operand]

    def _store(self, outputs: Sequence[Variable], values: Sequence[Any]) -> None:
        for variable, value in zip(outputs, values, strict=True):
            self.values[variable] = value
            site = self.plan.sites.get(variable)
            if site is not None:
                self.values[variable] = self._arriving(site, self._apply(site, value))

    def _arriving(self, site: Site, value: Any) -> Any:
        probes = self.places.probes
        return value if probes is None else probes.arriving(self.attach, site, value)

    def _leaving(self, site: Site, value: Any, times: Any = None) -> Any:
        probes = self.places.probes
        return value if probes is None else probes.leaving(self.attach, site, value, times)

    def _operand(self, operation: Operation, position: int) -> Any:
        value = self.read(operation.inputs[position])
        site = self.plan.constants.get((operation, position))
        if site is not None and site.treatment == "constant":
            return self.attach.detached(value)
        probes = self.places.probes
        if probes is None:
            return value
        return probes.operand(self.attach, (operation, position), value)

    def _bind(self, operation: Operation) -> Sequence[Any]:
        inputs = [self._operand(operation, i) for i in range(len(operation.inputs))]
        body = self.plan.bodies.get(operation)
        if body is None and operation in self.plan.own_derivatives:
            moving = tuple(map(operation.inputs.index, self.plan.flow.carrying_inputs(operation)))
            return self.attach.called(operation.bind, inputs, tuple(dict.fromkeys(moving)))
        if body is None:
            return operation.bind(*inputs)
        pairs = zip(body.graph.inputs, operation.inputs, strict=True)
        carriers = {
            inner: self.carriers.of(outer)
            for inner, outer in pairs
            if inner in body.carrier_inputs
            and not isinstance(outer, Constant)
            and self.plan.flow.carries(outer)
        }

        def run(body, inputs, carriers, tap_carriers):
            places = dataclasses.replace(self.places, carriers=tap_carriers)
            return evaluate(body, inputs, carriers, places, self.attach)

        return scanned(operation, body, inputs, carriers, self.places.carriers, run)

    # Blocks

    def _inside(self, block: Block) -> _Evaluation:
        """The evaluation of a block, which keeps to itself what it computes."""
        own = ChainMap({}, self.values), ChainMap({}, self.known)
        inner = _Evaluation(self.plan, *own, self.inputs, self.places, self.attach, self.reads)
        inner.run(block)
        return inner

    def _checkpoint(self, item: Checkpoint) -> None:
        leaving = self.reads.leaving(item.block)

        def run() -> tuple[list[Any], list[Any]]:
            inner = self._inside(item.block)
            values = [inner.values[variable] for variable in leaving.values]
            return values, [inner.carriers.of(*carried) for carried in leaving.carriers]

        values, carriers = checkpointed(item, run)
        self.values.update(zip(leaving.values, values, strict=True))
        self.known.update(zip(leaving.carriers, carriers, strict=True))

    def _branches(self, item: Branches) -> None:
        joins = item.joins
        sent = [[c for c in self.plan.carried if c[0] in join.outputs] for join in joins]

        def branch(position: int):
            def run():
                inner = self._inside(item.blocks[position])
                results = [join.inputs[1 + position] for join in joins]
                carriers = [
                    inner._moved_into(result, epsilon)
                    for result, pairs in zip(results, sent, strict=True)
                    for _, epsilon in pairs
                ]
                return [jnp.asarray(inner.read(result)) for result in results], carriers

            return run

        runs = [branch(position) for position in range(len(item.blocks))]
        values, carriers = lax.switch(self.read(item.index), runs)
        self.known.update(zip([c for pairs in sent for c in pairs], carriers, strict=True))
        self._store([join.outputs[0] for join in joins], values)

    def _moved_into(self, result: Operand, epsilon: Any) -> Any:
        value = jnp.asarray(self.read(result))
        if isinstance(result, Constant) or not self.plan.flow.carries(result):
            return jnp.zeros(value.shape, carrier_dtype(value))
        return self.carriers.of(result, epsilon)

    # Sites

    def _apply(self, site: Site, value: Any) -> Any:
        match site:
            case ActivationSite():
                route = self._leaving(site, self.values[site.root])
                if isinstance(site.rule, BackwardRule):
                    return self.attach(partial(_backward, site.rule), value, route, value)
                if site.inside:
                    return self._cone(site, value)
                return self._scaled(site.rule, value if site.relu else route, value, route)
            case LayerSite():
                return self._layer(site, value)
            case ShareSite():
                return self._scaled(site.rule, value, value, value)
            case ProductSite():
                return self.attach.halved(value)
            case WinnerSite():
                inputs = [self.read(operand) for operand in site.operation.inputs]
                routes = [self._leaving(site, x) for x in inputs]
                return to_winner(self.attach, site.operation, inputs, value, routes)
            case ConstantSite():
                return self.attach.detached(value)
            case ConeSite():
                return self._cone(site, value)
            case TapSite():
                return self._tap(site, value)
            case CustomSite():
                inputs = tuple(map(self.read, site.operation.inputs))
                routes = tuple(v for v in inputs if jnp.issubdtype(v.dtype, jnp.inexact))
                return self.attach(partial(_handled, site.handler), value, routes, (inputs, value))
        return value

    def _layer(self, site: LayerSite, value: Any) -> Any:
        rule = site.rule
        if isinstance(rule, RelevanceRule):
            folded = self.folding.layer(site)
            pullback = partial(_redistribute, rule, folded.apply, folded.restore)
            route = self._leaving(site, self.carriers.of(site.x), 1)
            return self.attach(pullback, value, route, (folded.layer, value))
        if isinstance(rule, LayerRule) and rule.folds:
            folded = self.folding.layer(site)
            pullback = partial(_propagate, rule, folded.apply, folded.restore)
            route = self._leaving(site, folded.layer.x)
            return self.attach(pullback, value, route, (folded.layer, value))
        return self._scaled(rule, value, value, value)

    def _cone(self, site: ConeSite | ActivationSite, value: Any) -> Any:
        """The VJP from the root, whatever rules there are on the way for other readers."""
        made = {v for operation in site.inside for v in operation.outputs}
        outside = {
            o: self.values[o]
            for operation in site.inside
            for o in operation.inputs
            if not isinstance(o, Constant) and o not in made and o != site.root
        }
        names = tuple(outside)
        rule = getattr(site, "rule", None)
        pullback = partial(_through, rule, site.inside, site.root, site.at, names)
        root = self.values[site.root]
        residuals = (root, [outside[name] for name in names])
        return self.attach(pullback, value, self._leaving(site, root), residuals)

    def _scaled(self, rule: Rule, x: Any, y: Any, route: Any) -> Any:
        """`y`, whose cotangent reaches `route` scaled by the rule's factor."""
        if type(rule).scale is Rule.scale:
            return y
        residuals = (y,) if x is y else (x, y)
        return self.attach(partial(_scale, rule), y, route, residuals)

    def _tap(self, site: TapSite, value: Any) -> Any:
        if site.label in self.places.carriers:
            carrier = self.places.carriers[site.label]
            value = self.attach.marked(value, carrier, self.places.times_input)
        if site.label in self.places.masks:
            value = self.attach.masked(value, self.places.masks[site.label])
        return value

    def _tap_carrier(self, site: TapSite, zeros: Any, before: Any | None) -> Any:
        """The tap for relevance that is not proportional to the value."""
        routes = [self.places.carriers.get(site.label), before]
        carrier = self.attach.forked(zeros, [route for route in routes if route is not None])
        if site.label in self.places.masks:
            carrier = self.attach.masked(carrier, self.places.masks[site.label])
        return carrier


def _scale(rule: Rule, residuals, g):
    factor = rule.scale(residuals[0], residuals[-1])
    return g if factor is None else g * factor.astype(g.dtype)


def _backward(rule: BackwardRule, y, g):
    return rule.backward(y, g)


def _through(rule: Rule | None, inside, root, end, names, residuals, g):
    at_root, others = residuals

    def run(x):
        known = {root: x, **dict(zip(names, others, strict=True))}
        for operation in inside:
            inputs = [o.value if isinstance(o, Constant) else known[o] for o in operation.inputs]
            known.update(zip(operation.outputs, operation.bind(*inputs), strict=True))
        return known[end]

    (result,) = jax.vjp(run, at_root)[1](g)
    return result * rule.damping(at_root) if isinstance(rule, Flex) else result


def _relevance(value, g):
    dtype = jnp.promote_types(value.dtype, jnp.float32)
    return value.astype(dtype) * g.astype(dtype)


def _propagate(rule: LayerRule, apply, restore, residuals, g):
    layer, value = residuals
    return rule.propagate(layer, apply, restore(_relevance(value, g))).astype(layer.x.dtype)


def _redistribute(rule: RelevanceRule, apply, restore, residuals, g):
    layer, value = residuals
    relevance = restore(_relevance(value, g))
    return rule.redistribute(layer, apply, relevance).astype(carrier_dtype(layer.x))


def _handled(handler, residuals, g):
    inputs, output = residuals
    return tuple(handler(inputs, output, g))
