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

from collections.abc import Callable, Mapping, MutableMapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from isnet_jax.lrp.plan.carried import STABILISER, inherited, moved_inputs
from isnet_jax.lrp.plan.sites import Carried, LayerSite, Plan, TapSite, WinnerSite
from isnet_jax.lrp.rules import LayerRule, RelevanceRule, Stabiliser, stabilise
from isnet_jax.lrp.run.cotangents import Attach
from isnet_jax.lrp.run.layers import Folding
from isnet_jax.lrp.run.winners import to_winner
from isnet_jax.lrp.trace.jaxpr import Constant, Operation, Variable, varying_like
from isnet_jax.lrp.trace.primitives import MOVES, WINNERS


def zeros_like(value: Any) -> Any:
    """A carrier: zeros like the value, in float32 or wider."""
    return varying_like(jnp.zeros(value.shape, carrier_dtype(value)), value)


def carrier_dtype(value: Any) -> Any:
    """The dtype of a value's carrier."""
    return jnp.promote_types(value.dtype, jnp.float32)


class Carriers:
    """The carriers of one evaluation, made on demand.

    Args:
      known: carriers that were made before; what is made is added.
      inputs: those of the graph's inputs.
      tap: makes the carrier of a tap: `(site, zeros, carrier before it)`.
    """

    def __init__(
        self,
        plan: Plan,
        values: Mapping[Variable, Any],
        folding: Folding,
        attach: Attach,
        known: MutableMapping[Carried, Any],
        inputs: Mapping[Variable, Any],
        tap: Callable[[TapSite, Any, Any], Any],
    ):
        self.plan = plan
        self.values = values
        self.folding = folding
        self.attach = attach
        self.known = known
        self.inputs = inputs
        self.tap = tap

    def of(self, variable: Variable, epsilon: Stabiliser = STABILISER) -> Any:
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
            return self.of(plan.activations[variable], inherited(site, epsilon))
        producer = plan.flow.producer[variable]
        if isinstance(site, LayerSite):
            return self._layer(site, epsilon)
        if isinstance(site, TapSite):
            (before,) = moved_inputs(plan, producer, variable) or (None,)
            moved = None if before is None else self.of(before, epsilon)
            return self.tap(site, zeros_like(self.values[variable]), moved)
        if isinstance(site, WinnerSite):
            inputs = plan.flow.carrying_inputs(producer)
            values = [self.values[v] for v in inputs]
            routes = [self.of(v, epsilon) for v in inputs]
            zeros = zeros_like(self.values[variable])
            return to_winner(self.attach, producer, values, zeros, routes)
        if variable in plan.preprocessed or plan.flow.is_identity(producer):
            return self.of(moved_inputs(plan, producer, variable)[0], epsilon)
        if producer.name in MOVES or producer in plan.copies:
            return self._moved(producer, variable, epsilon)
        if producer.name in WINNERS:
            return self._won(producer, variable, epsilon)
        return self._divided(variable, epsilon)

    def _layer(self, site: LayerSite, epsilon: Stabiliser) -> Any:
        rule = site.rule
        if not isinstance(rule, LayerRule | RelevanceRule):
            return self._divided(site.at, epsilon)
        layer, apply, restore = self.folding.layer(site)
        zeros = zeros_like(self.values[site.at])
        if isinstance(rule, RelevanceRule):
            pullback = partial(_redistribute, rule, apply, restore)
            return self.attach(pullback, zeros, self.of(site.x, epsilon), layer)
        pullback = partial(_propagate, rule, apply, restore)
        return self.attach(pullback, zeros, self.values[site.x], layer)

    def _divided(self, variable: Variable, epsilon: Stabiliser) -> Any:
        value = self.values[variable]
        return self.attach(partial(_divide, epsilon), zeros_like(value), value, value)

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
        return self.attach(pullback, zeros, routes, (values, others))


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
