"""One backward walk over a traced program places a `Site` at each operation that is more than the
plain VJP, or says what it cannot place."""

from __future__ import annotations

import dataclasses
import fnmatch
from collections.abc import Mapping, Sequence, Set

from isnet_jax.lrp.composites import Composite, Treatment
from isnet_jax.lrp.plan.activations import Activation, find_activation
from isnet_jax.lrp.plan.carried import follow_carriers
from isnet_jax.lrp.plan.gates import constant_factor
from isnet_jax.lrp.plan.layers import (
    Weights,
    find_divisor,
    find_tail,
    is_fixed_map,
    reads_input,
    varying_axes,
)
from isnet_jax.lrp.plan.sites import (
    ActivationSite,
    AverageSite,
    ConeSite,
    ConstantSite,
    Context,
    CustomSite,
    LayerSite,
    OwnDerivativeSite,
    Plan,
    ProductSite,
    ShareSite,
    Site,
    TapSite,
    UnsupportedSite,
    WinnerSite,
)
from isnet_jax.lrp.plan.softmax import Softmax, find_softmax
from isnet_jax.lrp.rules import (
    BackwardRule,
    Epsilon,
    Flex,
    Gradient,
    LayerEpsilon,
    Pass,
    Rule,
    Zero,
    is_plain,
)
from isnet_jax.lrp.trace import jaxpr, marks, registry
from isnet_jax.lrp.trace.batch import Samples
from isnet_jax.lrp.trace.dependence import (
    Flow,
    between,
    is_relu,
    scan_dependence,
    variables,
)
from isnet_jax.lrp.trace.jaxpr import Constant, Graph, Operand, Operation, Variable, scan_counts
from isnet_jax.lrp.trace.norms import find_norms
from isnet_jax.lrp.trace.primitives import MOVES, WINNERS, facts


@dataclasses.dataclass(frozen=True)
class Inputs:
    """What is known of a graph's inputs, one entry an input.

    Attributes:
      depends: it depends on the explained input.
      carries: it carries relevance, too.
      first: it is the explained input up to scale, shift and rearrangement.
      parameters: it is a parameter, or computed from one.
      names: parameter names, by variable.
      texts: constants whose numbers are written into the user's functions.
    """

    depends: Sequence[bool]
    carries: Sequence[bool]
    first: Sequence[bool]
    parameters: Sequence[bool]
    names: Mapping[Variable, str]
    texts: Set[Variable] = frozenset()


def make_plan(
    graph: Graph,
    inputs: Inputs,
    wanted: Sequence[Operand],
    samples: Samples | None,
    context: Context,
) -> Plan:
    """Place the sites of `graph`.

    Args:
      wanted: the outputs that are explained.
      samples: where the samples are; None: the function has one sample only.
    """

    def chosen(flags: Sequence[bool]) -> set[Variable]:
        return {v for v, flag in zip(graph.inputs, flags, strict=True) if flag}

    sources = chosen(inputs.depends)
    for operation in graph.operations if context.places else ():
        if jaxpr.names_inside(operation) & context.places:
            sources.update(v for v in operation.outputs if graph.inexact(v))
    silent = chosen(inputs.depends) - chosen(inputs.carries)
    flow = Flow(graph, context.bodies, sources, silent, context.places)
    weights = Weights(flow, inputs.names, inputs.texts, chosen(inputs.parameters))
    explained = frozenset(variables(wanted))
    plan = Plan(graph, flow, context, chosen(inputs.first), explained)
    _Planner(plan, weights, samples).run()
    return plan


class _Planner:
    def __init__(self, plan: Plan, weights: Weights, samples: Samples | None):
        self.plan = plan
        self.graph = plan.graph
        self.flow = plan.flow
        self.live = plan.live
        self.sites = plan.sites
        self.weights = weights
        self.samples = samples
        self.composite: Composite = plan.context.composite
        self.softmaxes: list[tuple[Variable, Operation, Softmax]] = []

    def run(self) -> None:
        self.plan.own_derivatives.update(filter(self._has_own_derivative, self.graph.operations))
        norms = find_norms(self.flow, self.samples)
        self.centring = norms.centring
        marked = dict(self._marked())
        self.flow.cuts.update(norms.edges)
        self.flow.cuts.update(marked)
        for operation, position in norms.edges:
            mark = self._mark_behind(operation.inputs[position])
            if mark is not None:
                self.flow.cuts[operation, position] = marked[mark, 0]
        self.live.update(v for v in self.plan.wanted if self.flow.carries(v))
        for operation in reversed(self.graph.operations):
            if any(variable in self.live for variable in operation.outputs):
                self.live.update(self._visit(operation))
        self._hand_stabilisers_over()
        self._place_constants()
        self._protect_softmaxes()
        follow_carriers(self.plan, self.weights)

    def _has_own_derivative(self, operation: Operation) -> bool:
        if not any(map(self.flow.depends, operation.inputs)):
            return False
        # A layer with a derivative of its own is a lowering: its forward rule computes the layer.
        lowered = facts(operation.name).passing == "layer"
        return operation.own_derivative and not lowered and not is_relu(operation, self.flow)

    def _marked(self):
        for operation in self.graph.operations:
            meaning = marks.meaning_of(operation)
            if meaning in ("constant", "weight", "batch_statistics", "norm_statistics"):
                yield (operation, 0), meaning.removesuffix("_statistics")

    def _mark_behind(self, operand: Operand) -> Operation | None:
        """The mark of a statistic that the operand is a rearrangement of; it overrides."""
        while not isinstance(operand, Constant):
            producer = self.flow.producer.get(operand)
            if producer is None or producer.name not in MOVES:
                return None
            if (producer, 0) in self.flow.cuts:
                return producer
            operand = producer.inputs[0]
        return None

    # One operation: place its sites, return the inputs that relevance goes on to.

    def _visit(self, operation: Operation) -> list[Variable]:
        name, carrying = operation.name, self.flow.carrying_inputs(operation)
        if self.flow.is_place(operation):
            self._add(TapSite(operation, operation.outputs[0], operation.params["name"]))
            return carrying
        if name == "scan":
            return self._scan(operation, carrying)
        if self.flow.is_identity(operation):
            return self._identity(operation, carrying)
        if not carrying:
            return []
        handler = marks.handler(name) or registry.lookup(name)
        if handler is not None:
            return self._registered(operation, handler, carrying)
        if name == "custom_derivative":
            self._add(OwnDerivativeSite(operation, operation.outputs[0]))
            return carrying
        softmax = find_softmax(operation, self.flow)
        if softmax is not None:
            return self._softmax(operation, softmax)
        if facts(name).passing == "layer" and len(carrying) == 1:
            return self._layer(operation, carrying[0])
        activation = find_activation(operation, self.flow)
        if activation is not None and not self.graph.is_complex(activation.root):
            return self._activation(operation, activation)
        if name in ("mul", "dot_general", "conv_general_dilated"):
            return self._product(operation, carrying)
        if _has_winner(operation, self.graph):
            self._add(WinnerSite(operation, operation.outputs[0]))
            return carrying
        if self._is_plain(operation, carrying):
            self._place_sum(operation, carrying)
        elif not self._gradient_elsewhere():
            self._add(UnsupportedSite(operation, operation.outputs[0]))
        return carrying

    def _identity(self, operation: Operation, carrying: list[Variable]) -> list[Variable]:
        if len(operation.outputs) == 1:
            return carrying
        pairs = zip(operation.inputs, operation.outputs, strict=True)
        return [v for v, output in pairs if output in self.live and v in carrying]  # pyright: ignore

    def _gradient_elsewhere(self) -> bool:
        """Whether the composite is the plain VJP at all that is no layer and no sum."""
        own = isinstance(self.composite.activation, Gradient | BackwardRule)
        return own and isinstance(self.composite.product, Gradient)

    def _is_plain(self, operation: Operation, carrying: list[Variable]) -> bool:
        passing = facts(operation.name).passing
        if passing in ("moves", "sums", "wins", "selects") or operation.name == jaxpr.JOIN:
            return True
        if operation.name == "abs":  # the modulus of a complex value is homogeneous
            return True
        return passing == "divides" and operation.inputs[1] not in carrying

    def _registered(self, operation, handler, carrying: list[Variable]) -> list[Variable]:
        if handler == "linear":
            return carrying
        if handler == "activation":
            return self._activation(operation, Activation(carrying[0]), declared=True)
        self._add(CustomSite(operation, operation.outputs[0], handler))
        return carrying

    def _softmax(self, operation: Operation, softmax: Softmax) -> list[Variable]:
        (end,) = operation.outputs
        self.softmaxes.append((end, operation, softmax))
        return [softmax.logits]

    def _product(self, operation: Operation, carrying: list[Variable]) -> list[Variable]:
        if len(carrying) < 2:
            return carrying
        constant = constant_factor(operation, self.flow, self.composite)
        if constant is not None:
            position, what = constant
            self.flow.cuts[operation, position] = what
            return self.flow.carrying_inputs(operation)
        if not isinstance(self.composite.product, Gradient):
            self._add(ProductSite(operation, operation.outputs[0], Zero()))
        return carrying

    def _place_sum(self, operation: Operation, carrying: list[Variable]) -> None:
        name, composite = operation.name, self.composite
        if operation in self.centring:
            return
        if name == "reduce_sum" and self._is_written_out(operation):
            self.plan.guesses.append(
                f"{operation.where}: a product with a parameter is summed, as a layer does; it is "
                "taken for a scale and a sum, and no layer rule applies. Write it as a product "
                "of matrices or einsum to make it a layer"
            )
        if name in ("add", "sub", "add_any"):
            if len(set(carrying)) == 2 and not is_plain(composite.sum):
                self._add(ShareSite(operation, operation.outputs[0], composite.sum))
        elif name in ("reduce_sum", "reduce_window_sum") and not is_plain(composite.average):
            self._add(AverageSite(operation, find_divisor(operation, self.plan), composite.average))

    def _is_written_out(self, operation: Operation) -> bool:
        """A layer as multiplications and a sum, where a rule for layers would have mattered."""
        composite = self.composite
        rules = (composite.layer, composite.dense, composite.convolution, composite.first)
        if all(rule is None or is_plain(rule) for rule in rules):
            return False
        product = self.flow.made_by(operation.inputs[0])
        if product is None or product.name != "mul":
            return False
        factors = [o for o in product.inputs if not self.flow.depends(o)]
        if len(factors) != 1 or self.weights.origin(factors[0]) != "parameter":
            return False
        varying = varying_axes(factors[0], self.flow)
        return any(axis in varying for axis in operation.params["axes"])

    # Layers

    def _layer(self, operation: Operation, x: Variable) -> list[Variable]:
        if is_fixed_map(operation, [x], self.flow, self.weights):
            self._note_fixed_map(operation, x)
            if self.weights.copies(operation, operation.inputs[1 - operation.inputs.index(x)]):
                self.plan.copies.add(operation)
            return [x]
        side = 1 - operation.inputs.index(x)
        weight = operation.inputs[side]
        name = self.weights.name(weight) or operation.scope
        first = reads_input(x, self.flow, self.plan.first_sources, self.weights)
        convolution = self.weights.is_convolution(operation, weight)
        tail = find_tail(operation, side, self.plan)
        end = tail[-1].leaves if tail else operation.outputs[0]
        rule = self._rule(name, first, convolution)
        self._add(LayerSite(operation, end, name, rule, x, side, tail, first))
        return [x]

    def _note_fixed_map(self, operation: Operation, x: Variable) -> None:
        other = operation.inputs[1 - operation.inputs.index(x)]
        if not self.flow.depends(other) and self.weights.origin(other) == "text":
            self.plan.guesses.append(
                f"{operation.where}: a matrix that is written into the function is taken for a "
                'fixed map, not for a layer; lrp.mark(matrix, "weight") makes it one, '
                'lrp.mark(matrix, "fixed") says that it is none'
            )

    def _rule(self, name: str, first: bool, convolution: bool) -> Rule:
        composite = self.composite
        for pattern, rule in composite.names:
            if fnmatch.fnmatchcase(name, pattern):
                return rule
        if first and composite.first is not None:
            return composite.first
        rule = composite.convolution if convolution else composite.dense
        return composite.layer if rule is None else rule

    # Activations

    def _activation(
        self, operation: Operation, activation: Activation, declared: bool = False
    ) -> list[Variable]:
        rule, root, relu = self.composite.activation, activation.root, activation.relu
        self.plan.activations[operation.outputs[0]] = root
        unchanged = isinstance(rule, BackwardRule) and not relu
        if unchanged or isinstance(rule, Gradient) or (isinstance(rule, Pass) and relu):
            return self.flow.carrying_inputs(operation)
        end, inside = operation.outputs[0], ()
        if isinstance(rule, Flex) and not relu and not declared:
            inside = between(root, end, self.flow)
        self._add(ActivationSite(operation, end, rule, root, relu, inside))
        return [root]

    # Scans

    def _scan(self, operation: Operation, carrying: list[Variable]) -> list[Variable]:
        context = self.plan.context
        if not carrying and not jaxpr.names_inside(operation) & context.places:
            return []
        body = context.bodies(operation)
        constants, carried = scan_counts(operation.params)
        inputs = self._scan_inputs(operation, body, constants, carried)
        samples = None if self.samples is None else self.samples.inside(operation)
        wanted = [output in self.live for output in operation.outputs]
        while True:
            explained = [o for o, flag in zip(body.outputs, wanted, strict=True) if flag]
            plan = make_plan(body, inputs, explained, samples, context)
            reached = [
                flag or body.inputs[constants + i] in plan.live
                for i, flag in enumerate(wanted[:carried])
            ]
            if reached == wanted[:carried]:
                break
            wanted[:carried] = reached
        self.plan.bodies[operation] = plan
        inner = zip(operation.inputs, body.inputs, strict=True)
        reached = {o for o, v in inner if not isinstance(o, Constant) and v in plan.live}
        return [variable for variable in carrying if variable in reached]

    def _scan_inputs(self, operation, body: Graph, constants: int, carried: int) -> Inputs:
        flow, operands = self.flow, operation.inputs
        carry = range(constants, constants + carried)
        depends = [flow.depends(o) for o in operands]
        carries = [flow.carries(o) for o in operands]
        return Inputs(
            depends=scan_dependence(operation, depends, flow.bodies),
            carries=scan_dependence(operation, carries, flow.bodies, differentiable=True),
            first=[
                position not in carry
                and flow.carries(o)
                and reads_input(o, flow, self.plan.first_sources, self.weights)
                for position, o in enumerate(operands)
            ],
            parameters=[
                position not in carry and self.weights.origin(o) == "parameter"
                for position, o in enumerate(operands)
            ],
            names={
                inner: self.weights.name(outer)
                for inner, outer in zip(body.inputs, operands, strict=True)
                if not flow.carries(outer)
            },
        )

    # After the walk

    def _hand_stabilisers_over(self) -> None:
        """The activation behind a layer with a rule of its own passes relevance unchanged."""
        for variable, site in list(self.sites.items()):
            if not isinstance(site, ActivationSite) or isinstance(site.rule, BackwardRule):
                continue
            layer = self.sites.get(self._layer_before(site.root))
            if not isinstance(layer, LayerSite):
                continue
            if is_plain(layer.rule) and isinstance(site.rule, Epsilon) and site.rule.folds:
                options = site.rule.zero_bias, site.rule.constant_bias
                rule = LayerEpsilon(site.rule.epsilon, *options)
                self.sites[layer.at] = dataclasses.replace(layer, rule=rule)
                self.sites[variable] = dataclasses.replace(site, rule=_passing(site))
            elif not is_plain(layer.rule) and not isinstance(site.rule, Pass):
                self.sites[variable] = dataclasses.replace(site, rule=_passing(site))

    def _layer_before(self, variable: Variable) -> Variable:
        """Back over pools and rearrangements, to what an activation's stabiliser stands for."""
        moving = MOVES | WINNERS | {"div", "mul", "reduce_sum", "reduce_window_sum"}
        passed = (AverageSite, WinnerSite, TapSite)
        while variable not in self.sites or isinstance(self.sites[variable], passed):
            producer = self.flow.producer.get(variable)
            if producer is None or producer.name not in moving:
                return variable
            if self.flow.is_identity(producer):
                before = producer.inputs[producer.outputs.index(variable)]
                carrying = list(variables([before])) if self.flow.carries(before) else []
            else:
                carrying = list(dict.fromkeys(self.flow.carrying_inputs(producer)))
            if len(carrying) != 1:
                return variable
            (variable,) = carrying
        return variable

    def _place_constants(self) -> None:
        composite = self.composite
        treatments: dict[str, Treatment] = {
            "batch": composite.batch_statistics,
            "norm": composite.norm_statistics,
        }
        for edge, what in self.flow.cuts.items():
            operation, position = edge
            operand = operation.inputs[position]
            marked = operation.name == "name"  # its readers are live, it is not
            unread = self.live.isdisjoint(operation.outputs) and not marked
            if isinstance(operand, Constant) or unread or not self.flow.depends(operand):
                continue
            treatment = treatments.get(what, "constant")
            guess = self._guessed_axis(operand) if what in treatments else ""
            site = ConstantSite(operation, operand, edge, what, treatment, guess=guess)
            self.plan.constants[edge] = site

    def _guessed_axis(self, operand: Variable) -> str:
        if self.samples is None or not self.samples.lost(operand):
            return ""
        return "which axis the samples are on was lost; axis 0 is taken for it"

    def _protect_softmaxes(self) -> None:
        """What is inside a softmax may be read from outside too, and have a rule there."""
        for end, operation, softmax in self.softmaxes:
            inner = (v for op in softmax.inside if op is not operation for v in op.outputs)
            if any(variable in self.sites for variable in inner):
                self._add(ConeSite(operation, end, softmax.logits, softmax.inside))

    def _add(self, site: Site) -> None:
        self.sites[site.at] = site


def _passing(site: ActivationSite) -> Rule:
    """The activation's rule without a stabiliser."""
    return Gradient() if site.inside else Pass()


def _has_winner(operation: Operation, graph: Graph) -> bool:
    """Whether the operation is a maximum or minimum, over axes or of two values."""
    shape = graph.shape(operation.inputs[0])
    if operation.name in ("max", "min"):
        return all(graph.shape(operand) == shape for operand in operation.inputs)
    if operation.name not in ("reduce_max", "reduce_min"):
        return False
    return all(shape[axis] for axis in operation.params["axes"])
