"""Relevance on its way to the input where it is not proportional to the values.

A rule such as `Flat` gives relevance, not G, to its layer's input. From there back to the model's
input, or to the layer before, it travels beside G: the cotangent of a *carrier*, an array of zeros
that goes with a value, is relevance to add to `value * G`.
- Rearrangements, max pools and activations move it unchanged; so do the scale and shift of the
  model's input.
- A layer with a rule of its own redistributes it by that rule.
- At any other layer and sum it becomes `G = R / (z + epsilon * sign z)`, LRP-epsilon, with the
  epsilon of the activation in between, or 1e-6.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from isnet_jax.lrp import _facts
from isnet_jax.lrp._control import carry_inputs
from isnet_jax.lrp._cotangent import attach
from isnet_jax.lrp._folding import Folding
from isnet_jax.lrp._jaxpr import Constant, Operation, Variable, varying_like
from isnet_jax.lrp._layers import reads_input
from isnet_jax.lrp._sites import Plan, Site
from isnet_jax.lrp._winners import to_winner
from isnet_jax.lrp.relevance_rules import RelevanceRule
from isnet_jax.lrp.rules import Epsilon, LayerRule, Stabiliser, stabilise

_STABILISER = 1e-6
_SCALING = frozenset({"add", "sub", "mul", "div"})
_LINEAR = _facts.SUMS | _facts.LAYERS | {"mul", "div", "select_n"}


def zeros_like(value: Any) -> Any:
    """A carrier: zeros like the value, in float32 or wider."""
    return varying_like(jnp.zeros(value.shape, carrier_dtype(value)), value)


def carrier_dtype(value: Any) -> Any:
    """The dtype of a value's carrier."""
    return jnp.promote_types(value.dtype, jnp.float32)


def check_carriers(plan: Plan) -> None:
    """Follow relevance from each rule that makes it; note where it arrives, or cannot pass."""
    for site in plan.sites.values():
        if site.kind == "layer" and isinstance(site.rule, RelevanceRule):
            assert site.route is not None
            _follow(plan, site.route, site)
    for operation, bodies in plan.control.items():
        for body in bodies:
            operands = operation.inputs[1:] if operation.name == "cond" else operation.inputs
            for inner, outer in zip(body.graph.inputs, operands, strict=True):
                if inner in body.carrier_inputs and plan.flow.carries(outer):
                    assert not isinstance(outer, Constant)
                    _follow(plan, outer, None)
            for i in carry_inputs(operation):
                if bodies[0].graph.inputs[i] in bodies[0].carrier_inputs:
                    plan.problems.append(_problem(operation, None))


def _follow(plan: Plan, start: Variable, origin: Site | None) -> None:
    stack, seen = [start], set()
    while stack:
        variable = stack.pop()
        if variable in seen:
            continue
        seen.add(variable)
        if variable in plan.graph.inputs:
            plan.carrier_inputs.add(variable)
            continue
        step = _step(plan, variable)
        if step is None:
            plan.problems.append(_problem(plan.flow.producer[variable], origin))
        else:
            stack.extend(step)


def _problem(operation: Operation, origin: Site | None) -> str:
    rule, name = (origin.rule, origin.name) if origin else ("a rule", "")
    return (
        f"lrp: {rule} at the layer {name or '(unnamed)'} gives relevance that is not proportional "
        f"to the layer's input; it cannot pass the operation {operation.name!r} at "
        f"{operation.where}. Use that rule at the first layers only (Composite(first=...)), or "
        "another rule here."
    )


def _step(plan: Plan, variable: Variable) -> list[Variable] | None:
    """Where relevance at the variable goes on as relevance; None: it cannot pass."""
    site = plan.sites.get(variable)
    if variable in plan.activations:
        return [plan.activations[variable]]
    producer = plan.flow.producer[variable]
    if site is not None and site.kind == "layer":
        return [site.route] if isinstance(site.rule, RelevanceRule) and site.route else []
    if site is not None and site.kind == "tap":
        return plan.flow.carrying_inputs(producer)
    wins = site is not None and site.kind == "winner"
    moves = wins or producer.name in _facts.REROUTING | _facts.WINNERS
    if moves or _is_preprocessing(plan, variable):
        return plan.flow.carrying_inputs(producer)
    divides = producer.name == "div" and plan.flow.carries(producer.inputs[1])
    if (producer.name in _LINEAR and not divides) or (
        site is not None and site.kind in ("sum", "average")
    ):
        return []
    return None


def _is_preprocessing(plan: Plan, variable: Variable) -> bool:
    scaling = plan.flow.producer[variable].name in _SCALING
    return scaling and reads_input(variable, plan.flow, plan.first_sources)


class Carriers:
    """The carriers of one evaluation, made on demand."""

    def __init__(
        self,
        plan: Plan,
        values: Mapping[Variable, Any],
        folding: Folding,
        inputs: Mapping[Variable, Any],
        tap: Callable[[Site, Any, Any], Any],
    ):
        self.plan = plan
        self.values = values
        self.folding = folding
        self.tap = tap
        self.known: dict[tuple[Variable, Any], Any] = {}
        self.inputs = inputs

    def of(self, variable: Variable, epsilon: Stabiliser = _STABILISER) -> Any:
        """The carrier that goes with a value; `epsilon` is for the next division."""
        if variable in self.inputs:
            return self.inputs[variable]
        key = (variable, epsilon)
        if key not in self.known:
            carrier = self._make(variable, epsilon)
            self.known[key] = carrier.astype(carrier_dtype(self.values[variable]))
        return self.known[key]

    def _make(self, variable: Variable, epsilon: Stabiliser) -> Any:
        plan, site = self.plan, self.plan.sites.get(variable)
        if variable in plan.activations:
            rule = site.rule if site is not None else None
            inherited = rule.epsilon if isinstance(rule, Epsilon) and rule.epsilon else epsilon
            return self.of(plan.activations[variable], inherited)
        producer = plan.flow.producer[variable]
        if site is not None and site.kind == "layer":
            return self._layer(site, epsilon)
        if site is not None and site.kind == "tap":
            (before,) = plan.flow.carrying_inputs(producer) or (None,)
            moved = None if before is None else self.of(before, epsilon)
            return self.tap(site, zeros_like(self.values[variable]), moved)
        if site is not None and site.kind == "winner":
            inputs = plan.flow.carrying_inputs(producer)
            values = [self.values[v] for v in inputs]
            routes = [self.of(v, epsilon) for v in inputs]
            return to_winner(producer, values, zeros_like(self.values[variable]), routes)
        if _is_preprocessing(plan, variable):
            return self.of(plan.flow.carrying_inputs(producer)[0], epsilon)
        if producer.name in _facts.IDENTITIES:
            return self.of(plan.flow.carrying_inputs(producer)[0], epsilon)
        if producer.name in _facts.REROUTING:
            return self._moved(producer, variable, epsilon)
        if producer.name in _facts.WINNERS:
            return self._won(producer, variable, epsilon)
        return self._divided(variable, epsilon)

    def _layer(self, site: Site, epsilon: Stabiliser) -> Any:
        rule, x = site.rule, site.route
        assert x is not None
        if not isinstance(rule, LayerRule | RelevanceRule):
            return self._divided(site.at, epsilon)
        layer, apply, restore = self.folding.layer(site)
        zeros = zeros_like(self.values[site.at])
        if isinstance(rule, RelevanceRule):
            pullback = partial(_redistribute, rule, apply, restore)
            return attach(pullback, zeros, self.of(x, epsilon), layer)
        return attach(partial(_propagate, rule, apply, restore), zeros, self.values[x], layer)

    def _divided(self, variable: Variable, epsilon: Stabiliser) -> Any:
        value = self.values[variable]
        return attach(partial(_divide, epsilon), zeros_like(value), value, value)

    def _moved(self, producer: Operation, variable: Variable, epsilon: Stabiliser) -> Any:
        moved = {v: self.of(v, epsilon) for v in self.plan.flow.carrying_inputs(producer)}
        like = next(iter(moved.values())).dtype
        operands = [
            _cast_floats(self.folding.read(o), like)
            if isinstance(o, Constant) or o not in moved
            else moved[o]
            for o in producer.inputs
        ]
        return producer.bind(*operands)[producer.outputs.index(variable)]

    def _won(self, producer: Operation, variable: Variable, epsilon: Stabiliser) -> Any:
        carrying = self.plan.flow.carrying_inputs(producer)
        routes = [self.of(v, epsilon) for v in carrying]
        values = [self.values[v] for v in carrying]
        zeros = zeros_like(self.values[variable])
        position = producer.outputs.index(variable)
        others = [None if o in carrying else self.folding.read(o) for o in producer.inputs]
        pullback = partial(_win, producer, position, carrying)
        return attach(pullback, zeros, routes, (values, others))


def _redistribute(rule, apply, restore, layer, relevance):
    return rule.redistribute(layer, apply, restore(relevance)).astype(carrier_dtype(layer.x))


def _propagate(rule, apply, restore, layer, relevance):
    return rule.propagate(layer, apply, restore(relevance)).astype(layer.x.dtype)


def _divide(epsilon, value, relevance):
    return (relevance / stabilise(value, epsilon)).astype(value.dtype)


def _win(producer, position, carrying, residuals, relevance):
    values, others = residuals

    def run(*values):
        known = dict(zip(carrying, values, strict=True))
        operands = [
            known[o] if other is None else other
            for o, other in zip(producer.inputs, others, strict=True)
        ]
        return producer.bind(*operands)[position]

    output, pull = jax.vjp(run, *values)
    cotangents = pull(relevance.astype(output.dtype))
    return [g.astype(carrier_dtype(v)) for g, v in zip(cotangents, values, strict=True)]


def _cast_floats(value: Any, dtype: Any) -> Any:
    value = jnp.asarray(value)
    return value.astype(dtype) if jnp.issubdtype(value.dtype, jnp.inexact) else value
