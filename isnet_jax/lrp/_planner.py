"""One backward walk over a traced program places a `Site` at each operation that is more than the
plain VJP, or says what it cannot place."""

from __future__ import annotations

import dataclasses
import fnmatch
from collections.abc import Mapping, Sequence
from typing import Any

from isnet_jax.lrp import _facts, _jaxpr, _registry
from isnet_jax.lrp._activations import activation_root, softmax_argument
from isnet_jax.lrp._carriers import check_carriers
from isnet_jax.lrp._control import CONTROL, bodies_of, carry_inputs, live_outputs
from isnet_jax.lrp._dataflow import Dataflow, is_relu, variables
from isnet_jax.lrp._jaxpr import Graph, Operation, Variable
from isnet_jax.lrp._layers import (
    find_divisor,
    find_tail,
    is_convolution,
    parameter_name,
    reads_input,
)
from isnet_jax.lrp._sites import Context, Plan, Site
from isnet_jax.lrp._winners import has_winner
from isnet_jax.lrp.composites import Composite
from isnet_jax.lrp.rules import BackwardRule, Gradient, Pass, Rule, is_plain

_MOVING_SITES = frozenset({"average", "winner", "tap"})


def make_plan(
    graph: Graph,
    depends: Sequence[bool],
    firsts: Sequence[bool],
    names: Mapping[Variable, str],
    context: Context,
    live: Sequence[bool] | None = None,
    still: Sequence[bool] | None = None,
) -> Plan:
    """Place the sites of `graph`.

    Args:
      depends: which of the graph's inputs depend on the explained input.
      firsts: which of them are the explained input up to scale, shift and rearrangement.
      names: parameter names by variable.
      live: which of the graph's outputs relevance comes from; None: all.
      still: which of the inputs depend on it but carry no relevance; None: none.
    """
    sources = {v for v, d in zip(graph.inputs, depends, strict=True) if d}
    first_sources = {v for v, f in zip(graph.inputs, firsts, strict=True) if f}
    for operation in graph.operations if context.places else ():
        if _jaxpr.names_inside(operation) & context.places:
            sources.update(v for v in operation.outputs if graph.inexact(v))
    wanted = graph.outputs
    if live is not None:
        wanted = [o for o, alive in zip(graph.outputs, live, strict=True) if alive]
    silent = [v for v, s in zip(graph.inputs, still or (), strict=False) if s]
    flow = Dataflow(graph, sources, silent)
    return _Planner(graph, flow, first_sources, names, context, wanted).plan()


class _Planner:
    def __init__(self, graph, flow, first_sources, names, context, wanted):
        self.graph = graph
        self.names = names
        self.context = context
        self.composite: Composite = context.composite
        self.flow = flow
        self.live: set[Variable] = {v for v in variables(wanted) if self.flow.carries(v)}
        self.sites: dict[Variable, Site] = {}
        self.result = Plan(
            graph, self.flow, self.sites, {}, {}, first_sources, self.live, set(), []
        )

    def plan(self) -> Plan:
        for operation in reversed(self.graph.operations):
            if any(variable in self.live for variable in operation.outputs):
                self.live.update(self._visit(operation))
        self._hand_stabilisers_over()
        self._place_statistics()
        check_carriers(self.result)
        return self.result

    # One operation: place its sites, return the inputs that relevance goes on to.

    def _visit(self, operation: Operation) -> list[Variable]:
        name, carrying = operation.name, self.flow.carrying_inputs(operation)
        if name == "name" and operation.params["name"] in self.context.places:
            self._add("tap", operation, rule="tap", name=operation.params["name"])
            return carrying
        if name in CONTROL:
            return self._control(operation, carrying)
        if not carrying:
            return []
        handler = _registry.lookup(name)
        if handler is not None:
            return self._registered(operation, handler, carrying)
        if name in _facts.WHOLE:
            return carrying
        if name == "custom_vjp_call":
            self._add("custom_vjp", operation, rule="its own VJP")
            return carrying
        softmax = softmax_argument(operation, self.flow)
        if softmax is not None:
            return [softmax]
        if name in _facts.LAYERS and len(carrying) == 1:
            return self._layer(operation, carrying[0])
        root = activation_root(operation, self.flow, self.live)
        if root is not None and not self.graph.is_complex(root):
            return self._activation(operation, root)
        if name == "mul" or name in _facts.LAYERS:
            return self._product(operation, carrying)
        if has_winner(operation, self.graph):
            self._add("winner", operation, rule="winner")
            return carrying
        if self._is_plain(operation, carrying):
            self._place_sum(operation, carrying)
        elif not self._gradient_elsewhere():
            self._add("unsupported", operation, rule="none")
        return carrying

    def _gradient_elsewhere(self) -> bool:
        """Whether the composite is the plain VJP at all that is no layer and no sum."""
        own = isinstance(self.composite.activation, Gradient | BackwardRule)
        return own and isinstance(self.composite.product, Gradient)

    def _is_plain(self, operation: Operation, carrying: list[Variable]) -> bool:
        name = operation.name
        if name in _facts.REROUTING | _facts.SUMS | _facts.WINNERS:
            return True
        if name in ("select_n", "abs"):  # the modulus of a complex value is homogeneous
            return True
        return name == "div" and operation.inputs[1] not in carrying

    def _registered(self, operation, handler, carrying: list[Variable]) -> list[Variable]:
        if handler == "linear":
            return carrying
        if handler == "activation":
            return self._activation(operation, carrying[0])
        self._add("custom", operation, rule=handler)
        return carrying

    def _product(self, operation: Operation, carrying: list[Variable]) -> list[Variable]:
        if len(carrying) > 1 and not isinstance(self.composite.product, Gradient):
            self._add("product", operation, rule=self.composite.product)
        return carrying

    def _place_sum(self, operation: Operation, carrying: list[Variable]) -> None:
        name, composite = operation.name, self.composite
        if operation in self.flow.centring:
            return
        if name in ("add", "sub", "add_any"):
            if len(set(carrying)) == 2 and not is_plain(composite.sum):
                self._add("sum", operation, rule=composite.sum)
        elif name in ("reduce_sum", "reduce_window_sum") and not is_plain(composite.average):
            end = find_divisor(operation, self.flow, self.live)
            self._add("average", operation, rule=composite.average, at=end)

    # Layers

    def _layer(self, operation: Operation, x: Variable) -> list[Variable]:
        name = self._layer_name(operation)
        first = reads_input(x, self.flow, self.result.first_sources)
        rule = self._rule(operation, name, first)
        tail = find_tail(operation, self.flow, self.live)
        end = tail[-1].outputs[0] if tail else operation.outputs[0]
        self._add(
            "layer", operation, rule=rule, name=name, at=end, tail=tuple(tail), route=x, first=first
        )
        return [x]

    def _rule(self, operation: Operation, name: str, first: bool) -> Rule:
        composite = self.composite
        for pattern, rule in composite.names:
            if fnmatch.fnmatchcase(name, pattern):
                return rule
        if first and composite.first is not None:
            return composite.first
        convolution = is_convolution(operation, self.flow)
        rule = composite.convolution if convolution else composite.dense
        return composite.layer if rule is None else rule

    def _layer_name(self, operation: Operation) -> str:
        for operand in operation.inputs:
            if not self.flow.carries(operand):
                name = parameter_name(operand, self.names, self.flow)
                if name:
                    return name
        return operation.scope

    # Activations

    def _activation(self, operation: Operation, root: Variable) -> list[Variable]:
        rule, relu = self.composite.activation, is_relu(operation)
        relu = relu and root in operation.inputs
        self.result.activations[operation.outputs[0]] = root
        unchanged = isinstance(rule, BackwardRule) and not relu
        if unchanged or isinstance(rule, Gradient) or (isinstance(rule, Pass) and relu):
            return self.flow.carrying_inputs(operation)
        self._add("activation", operation, rule=rule, route=root, relu=relu)
        return [root]

    # Control flow

    def _control(self, operation: Operation, carrying: list[Variable]) -> list[Variable]:
        if not carrying and not _jaxpr.names_inside(operation) & self.context.places:
            return []
        if operation.name == "while":
            self._add("unsupported", operation, rule="none")
            return carrying
        sources = self.result.first_sources
        live = live_outputs(operation, self.live)
        plans, reached = [], set()
        for body, operands, depends, still in bodies_of(operation, self.flow, self.context.kept):
            carry = carry_inputs(operation)
            firsts = [
                position not in carry
                and self.flow.carries(operand)
                and reads_input(operand, self.flow, sources)  # pyright: ignore[reportArgumentType]
                for position, operand in enumerate(operands)
            ]
            names = {
                inner: parameter_name(outer, self.names, self.flow)
                for inner, outer in zip(body.inputs, operands, strict=True)
                if not self.flow.carries(outer)
            }
            plan = make_plan(body, depends, firsts, names, self.context, live, still)
            plans.append(plan)
            reached.update(o for o, v in zip(operands, body.inputs, strict=True) if v in plan.live)
        self.result.control[operation] = tuple(plans)
        return [variable for variable in carrying if variable in reached]

    # After the walk

    def _hand_stabilisers_over(self):
        """The activation behind a layer with a rule of its own passes relevance unchanged."""
        for variable, site in list(self.sites.items()):
            if site.kind == "activation" and not isinstance(site.rule, BackwardRule):
                assert site.route is not None
                layer = self.sites.get(self._layer_before(site.route))
                if layer is not None and layer.kind == "layer" and not is_plain(layer.rule):
                    self.sites[variable] = dataclasses.replace(site, rule=Pass())

    def _layer_before(self, variable: Variable) -> Variable:
        """Back over pools and rearrangements, to what an activation's stabiliser stands for."""
        while variable not in self.sites or self.sites[variable].kind in _MOVING_SITES:
            producer = self.flow.producer.get(variable)
            moving = producer is not None and (
                producer.name in _facts.REROUTING | _facts.WINNERS | {"div", "mul"}
                or producer.name in ("reduce_sum", "reduce_window_sum")
            )
            carrying = self.flow.carrying_inputs(producer) if moving and producer else []
            if len(carrying) != 1:
                return variable
            variable = carrying[0]
        return variable

    def _place_statistics(self):
        for variable, kind in self.flow.statistics.items():
            treatment = getattr(self.composite, f"{kind}_statistics")
            operation = self.flow.producer[variable]
            site = Site("statistics", kind, operation, variable, treatment)
            self.sites.setdefault(variable, site)

    def _add(self, kind: str, operation: Operation, *, rule: Any, name: str = "", at=None, **facts):
        variable = operation.outputs[0] if at is None else at
        self.sites[variable] = Site(
            kind, name or operation.scope, operation, variable, rule, **facts
        )
