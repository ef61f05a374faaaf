"""Where relevance itself travels: behind rules whose relevance is not proportional to the values.

See `run.carriers` for how it travels; here its way is followed once, so that what it cannot pass
is said before anything is computed.
"""

from __future__ import annotations

from isnet_jax.lrp.plan.layers import reads_input
from isnet_jax.lrp.plan.sites import (
    ActivationSite,
    Carried,
    LayerSite,
    Plan,
    ShareSite,
    TapSite,
    WinnerSite,
)
from isnet_jax.lrp.rules import Epsilon, RelevanceRule, Stabiliser
from isnet_jax.lrp.trace.jaxpr import JOIN, Constant, Operation, Variable, scan_counts
from isnet_jax.lrp.trace.primitives import LAYERS, MOVES, SUMS, WINNERS

STABILISER = 1e-6
"""Of a division where no activation says another."""

_SCALING = frozenset({"add", "sub", "mul", "div"})
_LINEAR = SUMS | LAYERS | {"mul", "div", "select_n"}


def follow_carriers(plan: Plan) -> None:
    """Follow relevance from each rule that makes it; note where it arrives, or cannot pass."""
    for variable in plan.live:
        producer = plan.flow.producer.get(variable)
        scaled = producer is not None and producer.name in _SCALING
        if scaled and reads_input(variable, plan.flow, plan.first_sources, plan.weights):
            plan.preprocessed.add(variable)
    for site in plan.sites.values():
        if isinstance(site, LayerSite) and isinstance(site.rule, RelevanceRule):
            _follow(plan, (site.x, STABILISER), site)
    for operation, body in plan.bodies.items():
        for inner, outer in zip(body.graph.inputs, operation.inputs, strict=True):
            if inner in body.carrier_inputs and plan.flow.carries(outer):
                assert not isinstance(outer, Constant)
                _follow(plan, (outer, STABILISER), None)
        start, carried = scan_counts(operation.params)
        for inner in body.graph.inputs[start : start + carried]:
            if inner in body.carrier_inputs:
                plan.problems.append(_problem(operation, None))


def _follow(plan: Plan, start: Carried, origin: LayerSite | None) -> None:
    stack = [start]
    while stack:
        current = stack.pop()
        variable, _ = current
        if current in plan.carried:
            continue
        if variable in plan.graph.inputs:
            plan.carried[current] = ()
            plan.carrier_inputs.add(variable)
            continue
        onwards = _onwards(plan, current)
        plan.carried[current] = onwards or ()
        if onwards is None:
            plan.problems.append(_problem(plan.flow.producer[variable], origin))
        else:
            stack.extend(onwards)


def _problem(operation: Operation, origin: LayerSite | None) -> str:
    rule, name = (origin.rule, origin.name) if origin else ("a rule", "")
    return (
        f"lrp: {rule} at the layer {name or '(unnamed)'} gives relevance that is not proportional "
        f"to the layer's input; it cannot pass the operation {operation.name!r} at "
        f"{operation.where}. Use that rule at the first layers only (Composite(first=...)), or "
        "another rule here."
    )


def _onwards(plan: Plan, carried: Carried) -> tuple[Carried, ...] | None:
    """Where relevance at the value goes on as relevance; None: it cannot pass."""
    variable, epsilon = carried
    site, flow = plan.sites.get(variable), plan.flow
    if variable in plan.activations:
        return ((plan.activations[variable], inherited(site, epsilon)),)
    if isinstance(site, LayerSite):
        return ((site.x, epsilon),) if isinstance(site.rule, RelevanceRule) else ()
    producer = flow.producer[variable]
    moves = isinstance(site, WinnerSite | TapSite) or producer.name in (*MOVES, *WINNERS, JOIN)
    if moves or producer in plan.copies or variable in plan.preprocessed:
        return tuple((v, epsilon) for v in dict.fromkeys(moved_inputs(plan, producer, variable)))
    divides = producer.name == "div" and producer.inputs[1] in flow.carrying_inputs(producer)
    if (producer.name in _LINEAR and not divides) or isinstance(site, ShareSite):
        return ()
    return None


def inherited(site: object, epsilon: Stabiliser) -> Stabiliser:
    """The stabiliser of the next division behind an activation."""
    rule = site.rule if isinstance(site, ActivationSite) else None
    return rule.epsilon if isinstance(rule, Epsilon) and rule.epsilon else epsilon


def moved_inputs(plan: Plan, operation: Operation, output: Variable) -> list[Variable]:
    """The relevant inputs that an output consists of."""
    if plan.flow.is_identity(operation):
        before = operation.inputs[operation.outputs.index(output)]
        return [before] if plan.flow.carries(before) else []  # pyright: ignore
    return plan.flow.carrying_inputs(operation)
