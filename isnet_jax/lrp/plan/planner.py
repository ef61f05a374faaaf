"""One backward walk over a traced program places a `Site` at each operation that is more than the
plain VJP, or says what it cannot place."""

from __future__ import annotations

import dataclasses
import fnmatch
from collections.abc import Mapping, Sequence, Set

from isnet_jax.lrp.composites import Composite, Treatment
from isnet_jax.lrp.plan.activations import Activation, doubt, find_activation
from isnet_jax.lrp.plan.carried import follow_carriers
from isnet_jax.lrp.plan.gates import constant_factor
from isnet_jax.lrp.plan.layers import (
    find_divisor,
    find_tail,
    is_fixed_map,
    reads_input,
    written_out,
)
from isnet_jax.lrp.plan.pieces import (
    note_fixed_map,
    note_layer,
    note_outer_product,
    note_pieces,
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
    walk,
)
from isnet_jax.lrp.plan.softmax import Mixture, Softmax, find_mixture, find_softmax
from isnet_jax.lrp.plan.stabilisers import hand_over
from isnet_jax.lrp.plan.weights import Weights
from isnet_jax.lrp.rules import (
    BackwardRule,
    Flex,
    Gradient,
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
from isnet_jax.lrp.trace.primitives import MOVES, facts


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
    """Place the sites of `graph`, a whole program.

    Args:
      wanted: the outputs that are explained.
      samples: where the samples are; None: the function has one sample only.
    """
    plan = _planned(graph, inputs, wanted, samples, context)
    hand_over(plan)
    for body in reversed(list(walk(plan))):  # innermost first
        follow_carriers(body)
    return plan


def _planned(
    graph: Graph,
    inputs: Inputs,
    wanted: Sequence[Operand],
    samples: Samples | None,
    context: Context,
) -> Plan:
    """The plan of a program or of a scan's body by itself."""

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
    plan = Plan(graph, flow, context, weights, chosen(inputs.first), explained)
    _Planner(plan, samples).run()
    return plan


class _Planner:
    def __init__(self, plan: Plan, samples: Samples | None):
        self.plan = plan
        self.graph = plan.graph
        self.flow = plan.flow
        self.live = plan.live
        self.sites = plan.sites
        self.weights = plan.weights
        self.samples = samples
        self.composite: Composite = plan.context.composite
        self.softmaxes: list[tuple[Variable, Operation, Softmax]] = []
        self.mixtures: list[tuple[Operation, Mixture]] = []

    def run(self) -> None:
        self.plan.own_derivatives.update(filter(self._has_own_derivative, self.graph.operations))
        norms = find_norms(self.flow, self.samples)
        self.centring = norms.centring
        self.scales_behind = norms.behind
        self.guesses = dict(norms.guesses)
        marked = dict(self._marked())
        self.flow.cuts.update(norms.edges)
        self.flow.cuts.update(marked)
        for operation, position in norms.edges:
            mark = self._mark_behind(operation.inputs[position])
            if mark is not None:
                self.flow.cuts[operation, position] = marked[mark, 0]
                self.guesses.pop((operation, position), None)
        self.live.update(v for v in self.plan.wanted if self.flow.carries(v))
        for operation in reversed(self.graph.operations):
            if any(variable in self.live for variable in operation.outputs):
                self.live.update(self._visit(operation))
        self._place_constants()
        self._protect_softmaxes()
        note_pieces(self.plan)

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
        mixture = find_mixture(operation, self.flow)
        if mixture is not None:
            return self._mixture(operation, mixture)
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
        if name == "reduce_sum" and self._has_layer_rules():
            product = written_out(operation, self.plan)
            if product is not None:
                return self._layer(product, self.flow.carrying_inputs(product)[0])
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
        if passing == "solves":
            return set(carrying) <= {operation.inputs[-1]}
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

    def _mixture(self, operation: Operation, mixture: Mixture) -> list[Variable]:
        if self.composite.softmax == "constant":
            self.flow.cuts[mixture.product, mixture.side] = "softmax"
            self.flow.cuts[operation, mixture.factor] = "softmax"
            return self.flow.carrying_inputs(operation)
        self.mixtures.append((operation, mixture))
        if not isinstance(self.composite.product, Gradient):
            self._add(ProductSite(operation, operation.outputs[0], Zero()))
        return [mixture.logits, mixture.mixed]

    def _product(self, operation: Operation, carrying: list[Variable]) -> list[Variable]:
        if len(carrying) < 2:
            if operation.name == "mul" and self._has_layer_rules():
                note_outer_product(operation, carrying[0], self.plan)
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
        if name in ("add", "sub", "add_any"):
            if len(set(carrying)) == 2 and not is_plain(composite.sum):
                self._add(ShareSite(operation, operation.outputs[0], composite.sum))
        elif name in ("reduce_sum", "reduce_window_sum") and not is_plain(composite.average):
            self._add(AverageSite(operation, find_divisor(operation, self.plan), composite.average))

    def _has_layer_rules(self) -> bool:
        composite = self.composite
        rules = (composite.layer, composite.dense, composite.convolution, composite.first)
        named = (rule for _, rule in composite.names)
        return not all(rule is None or is_plain(rule) for rule in (*rules, *named))

    # Layers

    def _layer(self, operation: Operation, x: Variable) -> list[Variable]:
        if is_fixed_map(operation, [x], self.flow, self.weights):
            note_fixed_map(operation, x, self.plan, self.samples)
            if self.weights.copies(operation, operation.inputs[1 - operation.inputs.index(x)]):
                self.plan.copies.add(operation)
            return [x]
        side = 1 - operation.inputs.index(x)
        weight = operation.inputs[side]
        name = self.weights.name(weight) or operation.scope
        first = reads_input(x, self.flow, self.plan.first_sources, self.weights)
        convolution = self.weights.is_convolution(operation, weight)
        tail, torn = find_tail(operation, side, self.plan)
        end = tail[-1].leaves if tail else operation.outputs[0]
        rule = self._rule(name, first, convolution)
        site = LayerSite(operation, end, name, rule, x, side, tail, first)
        if not is_plain(rule):
            note_layer(site, torn, self.scales_behind, self.plan)
        self._add(site)
        return [x]

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
        if isinstance(rule, BackwardRule) and not relu:
            return self.flow.carrying_inputs(operation)
        if isinstance(rule, Gradient) or (isinstance(rule, Pass) and relu):
            return [root]  # The plain VJP, of all its parts too.
        end, inside = operation.outputs[0], ()
        if isinstance(rule, Flex) and not relu and not declared:
            inside = between(root, end, self.flow)
        guess = "" if declared else doubt(end, root, self.flow)
        self._add(ActivationSite(operation, end, rule, root, relu, inside, guess=guess))
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
            plan = _planned(body, inputs, explained, samples, context)
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
            guess = self.guesses.get(edge, "")
            if what in treatments and not guess:
                guess = self._guessed_axis(operand)
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
        for operation, mixture in self.mixtures:
            inner = (v for op in mixture.inside if op is not operation for v in op.outputs)
            if any(variable in self.sites for variable in inner):
                self.plan.problems.append(
                    f"lrp: the softmax that is normalised at {operation.where}, behind the product "
                    "with its values, has parts that are read elsewhere, too. Normalise it before "
                    "the product: jax.nn.softmax(scores) @ values."
                )

    def _add(self, site: Site) -> None:
        self.sites[site.at] = site


def _has_winner(operation: Operation, graph: Graph) -> bool:
    """Whether the operation is a maximum or minimum, over axes or of two values."""
    shape = graph.shape(operation.inputs[0])
    if operation.name in ("max", "min"):
        return all(graph.shape(operand) == shape for operand in operation.inputs)
    if operation.name not in ("reduce_max", "reduce_min"):
        return False
    return all(shape[axis] for axis in operation.params["axes"])
