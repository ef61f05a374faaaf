"""Evaluate a planned graph so that its ordinary pullback is LRP."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from isnet_jax.lrp._cotangent import attach, detach, half, mark
from isnet_jax.lrp._folding import Folding, redistribute
from isnet_jax.lrp._jaxpr import Constant, Operand, Operation, Variable
from isnet_jax.lrp._sites import Plan, Site
from isnet_jax.lrp.rules import RelevanceRule, Rule


def evaluate(
    plan: Plan,
    inputs: Sequence[Any],
    carriers: Mapping[Variable, Any],
    tap_carriers: Mapping[str, Any],
) -> list[Any]:
    """The graph's outputs, bit for bit those of the user's program.

    Differentiated with respect to the carriers only, their cotangents are relevance.

    Args:
      carriers: zeros for the graph's inputs that receive relevance.
      tap_carriers: zeros by the tap's name.
    """
    return _Evaluation(plan, inputs, carriers, tap_carriers).run()


def carrier_for(value: Any) -> Any:
    """Zeros like the value, in float32 or wider: their cotangent is its relevance."""
    return jnp.zeros(value.shape, jnp.promote_types(value.dtype, jnp.float32))


class _Evaluation:
    def __init__(self, plan, inputs, carriers, tap_carriers):
        self.plan: Plan = plan
        self.tap_carriers = tap_carriers
        self.values: dict[Variable, Any] = dict(plan.graph.constants)
        self.values.update(zip(plan.graph.inputs, inputs, strict=True))
        self.folding = Folding(plan, self.values, carriers)

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
        plans = self.plan.control.get(operation)
        if plans is None:
            return operation.bind(*map(self._read, operation.inputs))
        return self._rematerialise(operation, *plans)

    def _apply(self, site: Site, value: Any) -> Any:
        match site.kind:
            case "activation":
                assert site.route is not None
                x = value if site.relu else self.values[site.route]
                return _scaled(site.rule, x, value, self.values[site.route])
            case "layer" if isinstance(site.rule, RelevanceRule):
                assert site.route is not None
                layer, apply = self.folding.layer(site, site.rule)
                carrier = self.folding.carrier(site.route)
                pullback = partial(redistribute, site.rule, apply)
                return attach(pullback, value, carrier, (layer, value))
            case "layer":
                return _scaled(site.rule, value, value, value)
            case "product":
                return half(value)
            case "statistics":
                return detach(value) if site.rule == "constant" else value
            case "tap":
                return mark(value, self.tap_carriers[site.name])
            case "custom":
                inputs = tuple(map(self._read, site.operation.inputs))
                routes = tuple(v for v in inputs if jnp.issubdtype(v.dtype, jnp.inexact))
                return attach(partial(_handled, site.rule), value, routes, (inputs, value))
            case "custom_vjp":
                warnings.warn(
                    f"lrp: {site.operation.where}: a custom_vjp keeps its own backward pass; put "
                    "it in a named jax.jit and call lrp.register_rule to choose another.",
                    stacklevel=2,
                )
        return value

    def _rematerialise(self, operation: Operation, body: Plan) -> Sequence[Any]:
        carriers = {
            inner: self.folding.carrier(outer)
            for inner, outer in zip(body.graph.inputs, operation.inputs, strict=True)
            if inner in body.first_sources and not isinstance(outer, Constant)
        }

        def run(inputs, carriers):
            return evaluate(body, inputs, carriers, self.tap_carriers)

        policy, prevent_cse = operation.params["policy"], operation.params["prevent_cse"]
        checkpointed = jax.checkpoint(run, policy=policy, prevent_cse=prevent_cse)
        return checkpointed(list(map(self._read, operation.inputs)), carriers)


def _scaled(rule: Rule, x: Any, y: Any, route: Any) -> Any:
    """`y`, whose cotangent reaches `route` scaled by the rule's factor."""
    if type(rule).scale is Rule.scale:
        return y
    residuals = (y,) if x is y else (x, y)
    return attach(partial(_scale, rule), y, route, residuals)


def _scale(rule: Rule, residuals, g):
    factor = rule.scale(residuals[0], residuals[-1])
    return g if factor is None else g * factor.astype(g.dtype)


def _handled(handler, residuals, g):
    inputs, output = residuals
    return tuple(handler(inputs, output, g))
