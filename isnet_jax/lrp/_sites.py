"""Where rules apply: one backward walk over a traced program places a `Site` at each operation
that is more than the plain VJP, or says what it cannot place."""

from __future__ import annotations

import dataclasses
import fnmatch
from collections.abc import Mapping
from typing import Any

import numpy as np

from isnet_jax.lrp import _facts, _jaxpr, _registry
from isnet_jax.lrp._dataflow import Dataflow, variables
from isnet_jax.lrp._jaxpr import Constant, Graph, Operand, Operation, Variable
from isnet_jax.lrp.composites import Composite
from isnet_jax.lrp.rules import Gradient, Pass, RelevanceRule, Rule, is_plain


@dataclasses.dataclass(frozen=True, eq=False)
class Site:
    """A place where relevance is redistributed.

    Attributes:
      kind: "layer", "activation", "product", "statistics", "tap", "custom", "custom_vjp" or
        "unsupported".
      name: the parameter's path, a scope or a tap's name; "" where there is none.
      operation: the operation it stands for.
      at: the variable whose value the rule is attached to.
      rule: a rule, or a word.
      route: the variable that receives the cotangent, where that is not `at` itself.
      tail: the operations between a layer and `at`, affine in it per channel.
      relu: the activation is one, so that its output alone tells its factor.
    """

    kind: str
    name: str
    operation: Operation
    at: Variable
    rule: Any
    route: Variable | None = None
    tail: tuple[Operation, ...] = ()
    relu: bool = False


@dataclasses.dataclass(eq=False)
class Plan:
    """A graph, its sites by the variable they attach to, and the facts behind them.

    Attributes:
      control: the bodies of each control-flow operation.
      first_sources: inputs that are the explained input up to scale, shift and rearrangement.
    """

    graph: Graph
    flow: Dataflow
    sites: dict[Variable, Site]
    control: dict[Operation, tuple[Plan, ...]]
    first_sources: set[Variable]

    def carried_outputs(self) -> list[bool]:
        return [self.flow.carries(output) for output in self.graph.outputs]


@dataclasses.dataclass(frozen=True)
class Context:
    """What holds for all graphs of one call of `lrp.vjp`."""

    composite: Composite
    taps: frozenset[str]

    def kept(self, name: str) -> bool:
        return name in _facts.WHOLE or _registry.lookup(name) is not None


def make_plan(
    graph: Graph,
    depends: list[bool],
    firsts: list[bool],
    names: Mapping[Variable, str],
    context: Context,
) -> Plan:
    """Place the sites of `graph`.

    Args:
      depends: which of the graph's inputs depend on the explained input.
      firsts: which of them are the explained input up to scale, shift and rearrangement.
      names: parameter names by variable.
    """
    sources = [v for v, d in zip(graph.inputs, depends, strict=True) if d]
    first_sources = {v for v, f in zip(graph.inputs, firsts, strict=True) if f}
    return _Planner(graph, sources, first_sources, names, context).plan()


class _Planner:
    def __init__(self, graph, sources, first_sources, names, context):
        self.graph = graph
        self.first_sources = first_sources
        self.names = names
        self.context = context
        self.composite: Composite = context.composite
        self.control: dict[Operation, tuple[Plan, ...]] = {}
        self.flow = Dataflow(graph, sources)
        self.live: set[Variable] = {v for v in variables(graph.outputs) if self.flow.carries(v)}
        self.sites: dict[Variable, Site] = {}

    def plan(self) -> Plan:
        for operation in reversed(self.graph.operations):
            if any(variable in self.live for variable in operation.outputs):
                self.live.update(self._visit(operation))
        self._hand_stabilisers_over()
        self._place_statistics()
        return Plan(self.graph, self.flow, self.sites, self.control, self.first_sources)

    # One operation: place its sites, return the inputs that relevance goes on to.

    def _visit(self, operation: Operation) -> list[Variable]:
        name, carrying = operation.name, self.flow.carrying_inputs(operation)
        if not carrying:
            return []
        if name == "name" and operation.params["name"] in self.context.taps:
            self._add("tap", operation, rule="tap", name=operation.params["name"])
            return carrying
        handler = _registry.lookup(name)
        if handler is not None:
            return self._registered(operation, handler, carrying)
        if name in _facts.WHOLE:
            return carrying
        if name in ("remat2", "checkpoint", "remat"):
            return self._control(operation, carrying)
        if name == "custom_vjp_call":
            self._add("custom_vjp", operation, rule="its own VJP")
            return carrying
        softmax = self._softmax_argument(operation)
        if softmax is not None:
            return [softmax]
        if name in _facts.LAYERS and len(carrying) == 1:
            return self._layer(operation, carrying[0])
        root = self._activation_root(operation, carrying)
        if root is not None:
            return self._activation(operation, root)
        if name == "mul" or name in _facts.LAYERS:
            return self._product(operation, carrying)
        if self._is_plain(operation, carrying):
            return carrying
        self._add("unsupported", operation, rule="none")
        return carrying

    def _is_plain(self, operation: Operation, carrying: list[Variable]) -> bool:
        name = operation.name
        if name in _facts.REROUTING | _facts.SUMS | _facts.WINNERS:
            return True
        if name in ("max", "min", "select_n"):
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
        if len(set(carrying)) > 1 and not isinstance(self.composite.product, Gradient):
            self._add("product", operation, rule=self.composite.product)
        return carrying

    # Layers

    def _layer(self, operation: Operation, x: Variable) -> list[Variable]:
        name = self._layer_name(operation)
        first = self.composite.first is not None and self.reads_input(x)
        rule = self._rule(name, self.composite.first if first else self.composite.layer)
        assert rule is not None
        tail = self._tail(operation)
        end = tail[-1].outputs[0] if tail else operation.outputs[0]
        self._add("layer", operation, rule=rule, name=name, at=end, tail=tuple(tail), route=x)
        return [] if isinstance(rule, RelevanceRule) else [x]

    def _rule(self, name: str, default: Rule | None) -> Rule | None:
        for pattern, rule in self.composite.names:
            if fnmatch.fnmatch(name, pattern):
                return rule
        return default

    def _layer_name(self, operation: Operation) -> str:
        for operand in operation.inputs:
            if not self.flow.carries(operand):
                name = self._parameter_name(operand)
                if name:
                    return name
        return operation.scope

    def _parameter_name(self, operand: Operand) -> str:
        stack, seen = [operand], set()
        while stack:
            current = stack.pop()
            if isinstance(current, Constant) or current in seen:
                continue
            seen.add(current)
            if current in self.names:
                return self.names[current]
            if current in self.flow.producer:
                stack.extend(self.flow.producer[current].inputs)
        return ""

    def _tail(self, operation: Operation) -> list[Operation]:
        """What follows a layer and is affine in it per channel: bias, batch norm with constants."""
        tail: list[Operation] = []
        current = operation.outputs[0]
        axes = channel_axes(operation, self.flow)
        while True:
            following = self._single_live_consumer(current)
            if following is None or not self._is_channelwise(following, current, axes):
                return tail
            tail.append(following)
            current = following.outputs[0]

    def _single_live_consumer(self, variable: Variable) -> Operation | None:
        """The only reader; batch statistics that are reduced from the value do not count."""
        if variable in self.graph.outputs:
            return None
        readers = [
            op for op in self.flow.consumers[variable] if any(v in self.live for v in op.outputs)
        ]
        return readers[0] if len(readers) == 1 else None

    def _is_channelwise(self, operation: Operation, value: Variable, axes: set[int]) -> bool:
        if self.graph.shape(operation.outputs[0]) != self.graph.shape(value):
            return False
        if operation.name in _facts.IDENTITIES and operation.name != "name":
            return True
        if operation.name not in ("add", "sub", "mul", "div"):
            return False
        if operation.name == "div" and operation.inputs[0] != value:
            return False
        others = [operand for operand in operation.inputs if operand != value]
        return len(others) == 1 and not self.flow.carries(others[0]) and self._per_channel(
            others[0], axes
        )

    def _per_channel(self, operand: Operand, axes: set[int]) -> bool:
        shape = self.graph.shape(operand)
        if not isinstance(operand, Constant):
            producer = self.flow.producer.get(operand)
            if producer is not None and producer.name == "broadcast_in_dim":
                kept = producer.params["broadcast_dimensions"]
                source = self.graph.shape(producer.inputs[0])
                return all(size == 1 or axis in axes for axis, size in zip(kept, source))
        return all(size == 1 or axis in axes for axis, size in enumerate(shape))

    def reads_input(self, variable: Variable) -> bool:
        """Whether the value is the input up to scale, shift and rearrangement."""
        if variable in self.first_sources:
            return True
        producer = self.flow.producer.get(variable)
        if producer is None:
            return False
        carrying = self.flow.carrying_inputs(producer)
        if producer.name in ("add", "sub", "mul", "div"):
            same = len(carrying) == 1 and (producer.name != "div" or carrying[0] == producer.inputs[0])
            unchanged = same and self.graph.shape(carrying[0]) == self.graph.shape(variable)
            return unchanged and self.reads_input(carrying[0])
        return producer.name in _facts.REROUTING and all(map(self.reads_input, carrying))

    # Activations

    def _activation_root(self, operation: Operation, carrying: list[Variable]) -> Variable | None:
        distinct = list(dict.fromkeys(carrying))
        shape = self.graph.shape(operation.outputs[0])
        if any(self.graph.shape(v) != shape for v in distinct):
            return None
        if operation.name in ("mul", "div", "max", "min", "select_n", "pow"):
            if len(distinct) > 1:
                root = self.flow.common_root(distinct)
                return None if root in distinct and self._is_sum_like(operation) else root
            if operation.name == "mul":
                return distinct[0] if len(carrying) == 2 else None
            if operation.name == "div":
                return distinct[0] if operation.inputs[1] in distinct else None
            if operation.name == "select_n":
                predicate = operation.inputs[0]
                return distinct[0] if predicate in self.flow.depending else None
            return distinct[0]
        if len(distinct) == 1 and operation.name in _facts.NONLINEAR | {"custom_jvp_call"}:
            return distinct[0]
        return None

    def _is_sum_like(self, operation: Operation) -> bool:
        return operation.name == "select_n" and operation.inputs[0] not in self.flow.depending

    def _activation(self, operation: Operation, root: Variable) -> list[Variable]:
        rule, relu = self.composite.activation, is_relu(operation)
        if isinstance(rule, Gradient) or (isinstance(rule, Pass) and relu):
            return self.flow.carrying_inputs(operation)
        self._add("activation", operation, rule=rule, route=root, relu=relu)
        return [root]

    def _softmax_argument(self, operation: Operation) -> Variable | None:
        """The logits, if the operation is the division at the end of a softmax."""
        if operation.name != "div" or not all(map(self.flow.carries, operation.inputs)):
            return None
        numerator, denominator = operation.inputs
        producer = self.flow.producer.get(denominator)
        while producer is not None and producer.name in _facts.SHAPING | _facts.IDENTITIES:
            producer = self.flow.producer.get(producer.inputs[0])
        if producer is None or producer.name != "reduce_sum" or producer.inputs[0] != numerator:
            return None
        exponential = self.flow.producer.get(numerator)
        if exponential is None or exponential.name not in ("exp", "exp2"):
            return None
        return exponential.inputs[0]

    # Control flow

    def _control(self, operation: Operation, carrying: list[Variable]) -> list[Variable]:
        self.control[operation] = tuple(
            make_plan(
                body,
                [operand in self.flow.depending for operand in operation.inputs],
                [
                    self.flow.carries(operand) and self.reads_input(operand)
                    for operand in operation.inputs
                ],
                {
                    inner: self._parameter_name(outer)
                    for inner, outer in zip(body.inputs, operation.inputs, strict=True)
                    if not self.flow.carries(outer) and self._parameter_name(outer)
                },
                self.context,
            )
            for body in _jaxpr.subgraphs(operation, self.context.kept)
        )
        return carrying

    # After the walk

    def _hand_stabilisers_over(self):
        """The activation behind a layer with a rule of its own passes relevance unchanged."""
        handled = {
            site.at
            for site in self.sites.values()
            if site.kind == "layer" and not is_plain(site.rule)
        }
        for variable, site in list(self.sites.items()):
            if site.kind == "activation" and site.route in handled:
                self.sites[variable] = dataclasses.replace(site, rule=Pass())

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


def is_relu(operation: Operation) -> bool:
    """Whether the operation is `max(x, 0)`, bare or as `jax.nn.relu`."""
    if operation.name == "max":
        constants = [o.value for o in operation.inputs if isinstance(o, Constant)]
        return len(constants) == 1 and not np.any(constants[0])
    if operation.name != "custom_jvp_call":
        return False
    (body,) = _jaxpr.subgraphs(operation, lambda name: False)
    return len(body.operations) == 1 and is_relu(body.operations[0])


def channel_axes(operation: Operation, flow: Dataflow) -> set[int]:
    """The axes of a layer's output that its weights, not its input, give."""
    return set(weight_axes(operation, flow))


def weight_axes(operation: Operation, flow: Dataflow) -> dict[int, int]:
    """Output axis -> the axis of the weights it comes from."""
    if operation.name == "conv_general_dilated":
        numbers = operation.params["dimension_numbers"]
        return {numbers.out_spec[1]: numbers.rhs_spec[0]}
    (contracted, batched) = operation.params["dimension_numbers"]
    rank = [len(flow.graph.shape(operand)) for operand in operation.inputs]
    free = [
        [axis for axis in range(rank[side]) if axis not in (*contracted[side], *batched[side])]
        for side in (0, 1)
    ]
    weights = 0 if flow.carries(operation.inputs[1]) else 1
    start = len(batched[0]) + (len(free[0]) if weights else 0)
    return {start + position: axis for position, axis in enumerate(free[weights])}
