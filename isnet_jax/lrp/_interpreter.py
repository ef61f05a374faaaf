"""Evaluate a planned graph so that its ordinary pullback is LRP."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import jax.numpy as jnp

from isnet_jax.lrp._carriers import Carriers, carrier_dtype
from isnet_jax.lrp._control import reissue
from isnet_jax.lrp._cotangent import attach, detach, fork, half, mark, masked
from isnet_jax.lrp._folding import Folding
from isnet_jax.lrp._jaxpr import Constant, Operand, Operation, Variable
from isnet_jax.lrp._sites import Plan, Site
from isnet_jax.lrp._winners import to_winner
from isnet_jax.lrp.relevance_rules import RelevanceRule
from isnet_jax.lrp.rules import BackwardRule, LayerRule, Rule


@dataclasses.dataclass(frozen=True)
class Places:
    """What happens at taps.

    Attributes:
      carriers: zeros by the tap's name; their cotangents are the relevance there.
      masks: factors on relevance by the tap's name.
      times_input: carriers get relevance, not G.
    """

    carriers: Mapping[str, Any]
    masks: Mapping[str, Any]
    times_input: bool = True


def evaluate(
    plan: Plan, inputs: Sequence[Any], carriers: Mapping[Variable, Any], places: Places
) -> list[Any]:
    """The graph's outputs, bit for bit those of the user's program.

    Differentiated with respect to the carriers only, their cotangents are relevance.

    Args:
      carriers: zeros for the graph's inputs at which relevance itself arrives.
    """
    return _Evaluation(plan, inputs, carriers, places).run()


class _Evaluation:
    def __init__(self, plan, inputs, carriers, places):
        self.plan: Plan = plan
        self.places: Places = places
        self.values: dict[Variable, Any] = dict(plan.graph.constants)
        self.values.update(zip(plan.graph.inputs, inputs, strict=True))
        self.folding = Folding(plan, self.values)
        self.carriers = Carriers(plan, self.values, self.folding, carriers, self._tap_carrier)

    def run(self) -> list[Any]:
        for operation in self.plan.graph.operations:
            for variable, value in zip(operation.outputs, self._bind(operation), strict=True):
                self.values[variable] = value
                site = self.plan.sites.get(variable)
                if site is not None:
                    self.values[variable] = self._apply(site, value)
        return [self._read(output) for output in self.plan.graph.outputs]

    def _read(self, operand: Operand) -> Any:
        return operand.value if isinstance(operand, Constant) else self.values[operand]

    def _bind(self, operation: Operation) -> Sequence[Any]:
        inputs = list(map(self._read, operation.inputs))
        bodies = self.plan.control.get(operation)
        if bodies is None:
            return operation.bind(*inputs)
        operands = operation.inputs[1:] if operation.name == "cond" else operation.inputs
        carriers = [
            {
                inner: self.carriers.of(outer)
                for inner, outer in zip(body.graph.inputs, operands, strict=True)
                if inner in body.carrier_inputs and not isinstance(outer, Constant)
            }
            for body in bodies
        ]

        def run(body, inputs, carriers, tap_carriers):
            places = dataclasses.replace(self.places, carriers=tap_carriers)
            return evaluate(body, inputs, carriers, places)

        return reissue(operation, bodies, inputs, carriers, self.places.carriers, run)

    def _apply(self, site: Site, value: Any) -> Any:
        match site.kind:
            case "activation":
                assert site.route is not None
                route = self.values[site.route]
                if isinstance(site.rule, BackwardRule):
                    return attach(partial(_backward, site.rule), value, route, value)
                return _scaled(site.rule, value if site.relu else route, value, route)
            case "layer":
                return self._layer(site, value)
            case "sum" | "average":
                return _scaled(site.rule, value, value, value)
            case "product":
                return half(value)
            case "winner":
                inputs = [self._read(operand) for operand in site.operation.inputs]
                return to_winner(site.operation, inputs, value, inputs)
            case "statistics":
                return detach(value) if site.rule == "constant" else value
            case "tap":
                return self._tap(site, value)
            case "custom":
                inputs = tuple(map(self._read, site.operation.inputs))
                routes = tuple(v for v in inputs if jnp.issubdtype(v.dtype, jnp.inexact))
                return attach(partial(_handled, site.rule), value, routes, (inputs, value))
        return value

    def _layer(self, site: Site, value: Any) -> Any:
        rule = site.rule
        assert site.route is not None
        if isinstance(rule, RelevanceRule):
            folded = self.folding.layer(site)
            pullback = partial(_redistribute, rule, folded.apply, folded.restore)
            return attach(pullback, value, self.carriers.of(site.route), (folded.layer, value))
        if isinstance(rule, LayerRule) and rule.folds:
            folded = self.folding.layer(site)
            pullback = partial(_propagate, rule, folded.apply, folded.restore)
            return attach(pullback, value, folded.layer.x, (folded.layer, value))
        return _scaled(rule, value, value, value)

    def _tap(self, site: Site, value: Any) -> Any:
        if site.name in self.places.carriers:
            value = mark(value, self.places.carriers[site.name], self.places.times_input)
        if site.name in self.places.masks:
            value = masked(value, self.places.masks[site.name])
        return value

    def _tap_carrier(self, site: Site, zeros: Any, before: Any | None) -> Any:
        """The tap for relevance that is not proportional to the value."""
        routes = [self.places.carriers.get(site.name), before]
        carrier = fork(zeros, [route for route in routes if route is not None])
        if site.name in self.places.masks:
            carrier = masked(carrier, self.places.masks[site.name])
        return carrier


def _scaled(rule: Rule, x: Any, y: Any, route: Any) -> Any:
    """`y`, whose cotangent reaches `route` scaled by the rule's factor."""
    if type(rule).scale is Rule.scale:
        return y
    residuals = (y,) if x is y else (x, y)
    return attach(partial(_scale, rule), y, route, residuals)


def _scale(rule: Rule, residuals, g):
    factor = rule.scale(residuals[0], residuals[-1])
    return g if factor is None else g * factor.astype(g.dtype)


def _backward(rule: BackwardRule, y, g):
    return rule.backward(y, g)


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
