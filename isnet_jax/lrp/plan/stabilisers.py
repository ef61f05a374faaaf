"""Whose stabiliser an activation's is: that of the layer in front of it.

Where that layer has a rule of its own, the activation passes relevance unchanged. Between the two
may stand what is linear without weights: pools, norms' scales, sums (all summands must come from
such layers), and the boundary of a scan.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import NamedTuple

from isnet_jax.lrp.plan.sites import (
    ActivationSite,
    LayerSite,
    Plan,
    ShareSite,
    TapSite,
    WinnerSite,
    walk,
)
from isnet_jax.lrp.rules import BackwardRule, Epsilon, Gradient, LayerEpsilon, Pass, Rule, is_plain
from isnet_jax.lrp.trace.jaxpr import JOIN, Operand, Operation, Variable, scan_counts
from isnet_jax.lrp.trace.primitives import LAYERS, MOVES, SUMS, WINNERS

_LINEAR = MOVES | WINNERS | SUMS | {"mul", "div", JOIN}
_PASSED = (ShareSite, WinnerSite, TapSite)


class _Body(NamedTuple):
    """A plan; if it is a scan's body, the scan and the plan around it."""

    plan: Plan
    scan: Operation | None = None
    around: _Body | None = None


_Value = tuple[_Body, Variable]
_Layer = tuple[Plan, LayerSite]


def hand_over(plan: Plan) -> None:
    """Hand the stabilisers of activations over to layers, in a whole program's plan."""
    activation = plan.context.composite.activation
    if isinstance(activation, BackwardRule | Gradient):
        return
    folds = isinstance(activation, Epsilon) and activation.folds
    sites = (site for body in walk(plan) for site in body.sites.values())
    if folds or any(isinstance(s, LayerSite) and not is_plain(s.rule) for s in sites):
        _hand_over(_Body(plan))


def _hand_over(body: _Body) -> None:
    plan = body.plan
    for variable, site in list(plan.sites.items()):
        if not isinstance(site, ActivationSite):
            continue
        layers = _layers_before((body, site.root))
        if not layers:
            continue
        plain = [(owner, layer) for owner, layer in layers if is_plain(layer.rule)]
        if plain == layers and len(layers) == 1 and isinstance(site.rule, Epsilon):
            if not site.rule.folds:
                continue
            ((owner, layer),) = layers
            options = site.rule.zero_bias, site.rule.constant_bias
            rule = LayerEpsilon(site.rule.epsilon, *options)
            owner.sites[layer.at] = dataclasses.replace(layer, rule=rule)
        elif plain or isinstance(site.rule, Pass):
            continue
        plan.sites[variable] = dataclasses.replace(site, rule=_passing(site))
    for scan, inner in plan.bodies.items():
        _hand_over(_Body(inner, scan, body))


def _passing(site: ActivationSite) -> Rule:
    """The activation's rule without a stabiliser."""
    return Gradient() if site.inside else Pass()


def _layers_before(value: _Value) -> list[_Layer]:
    """The layers that a value is a sum or rearrangement of, [] if it is of anything else."""
    layers: list[_Layer] = []
    stack, seen = [value], set()
    while stack:
        body, variable = stack.pop()
        if (body.plan, variable) in seen:
            continue
        seen.add((body.plan, variable))
        site = body.plan.sites.get(variable)
        if isinstance(site, LayerSite):
            layers.append((body.plan, site))
        elif site is not None and not isinstance(site, _PASSED):
            return []
        else:
            before = _before(body, variable)
            if before is None:
                return []
            stack.extend(before)
    return layers


def _before(body: _Body, variable: Variable) -> list[_Value] | None:
    """The values that a value is linear in; None: it is not, or is the model's input."""
    plan = body.plan
    producer = plan.flow.producer.get(variable)
    if producer is None:
        return _outside(body, variable)
    if producer in plan.bodies:
        inner = plan.bodies[producer]
        output = inner.graph.outputs[producer.outputs.index(variable)]
        return list(_relevant(_Body(inner, producer, body), output))
    if plan.flow.is_identity(producer):
        return list(_relevant(body, producer.inputs[producer.outputs.index(variable)]))
    carrying = list(dict.fromkeys(plan.flow.carrying_inputs(producer)))
    alone = producer.name in ("mul", "div", *LAYERS)
    if producer.name not in (_LINEAR | LAYERS) or (alone and len(carrying) != 1):
        return None
    if producer.name == "div" and producer.inputs[0] != carrying[0]:
        return None
    return [(body, before) for before in carrying]


def _outside(body: _Body, variable: Variable) -> list[_Value] | None:
    """Where an input of a scan's body comes from."""
    if body.scan is None or body.around is None or variable not in body.plan.graph.inputs:
        return None
    position = body.plan.graph.inputs.index(variable)
    constants, carried = scan_counts(body.scan.params)
    found = list(_relevant(body.around, body.scan.inputs[position]))
    if constants <= position < constants + carried:
        found.extend(_relevant(body, body.plan.graph.outputs[position - constants]))
    return found


def _relevant(body: _Body, operand: Operand) -> Iterator[_Value]:
    if body.plan.flow.carries(operand):
        yield body, operand  # pyright: ignore[reportReturnType]
