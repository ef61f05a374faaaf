"""What a rule applies to: typed sites, plans, and the facts that hold for one call of `lrp.vjp`."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from functools import cached_property
from typing import Any, ClassVar, NamedTuple

import jax

from isnet_jax.lrp.composites import Composite, Treatment
from isnet_jax.lrp.plan.weights import Weights
from isnet_jax.lrp.rules import Rule, Stabiliser
from isnet_jax.lrp.trace import marks, registry
from isnet_jax.lrp.trace.builder import body_of
from isnet_jax.lrp.trace.dependence import Bodies, Edge, Flow
from isnet_jax.lrp.trace.jaxpr import JOIN, Graph, Operation, Variable
from isnet_jax.lrp.trace.primitives import facts


class Step(NamedTuple):
    """One operation of a layer's tail.

    Attributes:
      enters, leaves: the value before it and the one after it.
      branches: at a join of a cond, the steps of each branch that lead there.
    """

    operation: Operation
    enters: Variable
    leaves: Variable
    branches: tuple[tuple[Step, ...], ...] = ()

    def all(self) -> Iterator[Step]:
        """The step and those of its branches."""
        for branch in self.branches:
            for step in branch:
                yield from step.all()
        yield self


@dataclasses.dataclass(frozen=True, eq=False)
class Site:
    """A place where relevance is redistributed other than by the plain VJP.

    Attributes:
      operation: the operation it stands for.
      at: the variable whose value the rule is attached to.
      guess: why the place was taken for what it is, if that is a guess; "" if it is none.
    """

    operation: Operation
    at: Variable
    guess: str = dataclasses.field(default="", kw_only=True)
    kind: ClassVar[str]

    @property
    def name(self) -> str:
        return self.operation.scope

    @property
    def applied(self) -> str:
        """The rule, in words."""
        return self.kind

    @property
    def routes(self) -> tuple[Variable, ...]:
        """Where relevance goes on to, if the site says so itself."""
        return ()


@dataclasses.dataclass(frozen=True, eq=False)
class LayerSite(Site):
    """A convolution or product with weights.

    Attributes:
      parameter: the path of its weights, or a scope; "" where there is none.
      rule: a rule for layers.
      x: its input.
      side: the position of the weights among the operation's inputs.
      tail: what follows and is affine in it per channel, up to `at`.
      first: it reads the model's input.
    """

    kind: ClassVar[str] = "layer"
    parameter: str
    rule: Rule
    x: Variable
    side: int
    tail: tuple[Step, ...]
    first: bool

    @property
    def name(self) -> str:
        return self.parameter

    @property
    def applied(self) -> str:
        return str(self.rule)

    @property
    def routes(self) -> tuple[Variable, ...]:
        return (self.x,)


@dataclasses.dataclass(frozen=True, eq=False)
class ActivationSite(Site):
    """An elementwise nonlinear function of `root`, however many operations it takes.

    Attributes:
      relu: it is max(x, 0), so that its output alone tells its factor.
      inside: the operations from the root to `at`, where the rule needs their derivative.
    """

    kind: ClassVar[str] = "activation"
    rule: Rule
    root: Variable
    relu: bool
    inside: tuple[Operation, ...] = ()

    @property
    def applied(self) -> str:
        return str(self.rule)

    @property
    def routes(self) -> tuple[Variable, ...]:
        return (self.root,)


@dataclasses.dataclass(frozen=True, eq=False)
class ShareSite(Site):
    """A sum of two relevant values, or an average."""

    kind: ClassVar[str] = "sum"
    rule: Rule

    @property
    def applied(self) -> str:
        return str(self.rule)


@dataclasses.dataclass(frozen=True, eq=False)
class AverageSite(ShareSite):
    kind: ClassVar[str] = "average"


@dataclasses.dataclass(frozen=True, eq=False)
class ProductSite(Site):
    """A product of two relevant values: half of the relevance to each."""

    kind: ClassVar[str] = "product"
    rule: Rule

    @property
    def applied(self) -> str:
        return str(self.rule)


@dataclasses.dataclass(frozen=True, eq=False)
class WinnerSite(Site):
    """A maximum or minimum: the winner takes all, by its place."""

    kind: ClassVar[str] = "winner"


@dataclasses.dataclass(frozen=True, eq=False)
class ConeSite(Site):
    """Operations that are one to relevance: from `root` to `at` the plain VJP.

    Attributes:
      kind_of: "softmax", or "linear" for a function that the user marked.
      inside: the operations, in order.
    """

    kind: ClassVar[str] = "softmax"
    root: Variable
    inside: tuple[Operation, ...]

    @property
    def applied(self) -> str:
        return "plain VJP"

    @property
    def routes(self) -> tuple[Variable, ...]:
        return (self.root,)


@dataclasses.dataclass(frozen=True, eq=False)
class ConstantSite(Site):
    """An operand that is a constant for relevance: a norm's statistic, an attention weight, a gate.

    Attributes:
      edge: the operation and the operand's position; `at` is the operand.
      what: "batch", "norm", "softmax", "gate" or "marked".
      treatment: "constant", or "gradient" for the plain VJP.
    """

    kind: ClassVar[str] = "statistics"
    edge: Edge
    what: str
    treatment: Treatment

    @property
    def name(self) -> str:
        return self.what

    @property
    def applied(self) -> str:
        return self.treatment


@dataclasses.dataclass(frozen=True, eq=False)
class TapSite(Site):
    """A named place whose relevance was asked for, or is masked."""

    kind: ClassVar[str] = "tap"
    label: str

    @property
    def name(self) -> str:
        return self.label


@dataclasses.dataclass(frozen=True, eq=False)
class CustomSite(Site):
    """An operation with a rule from `register_rule`."""

    kind: ClassVar[str] = "custom"
    handler: Any

    @property
    def applied(self) -> str:
        return str(self.handler)


@dataclasses.dataclass(frozen=True, eq=False)
class OwnDerivativeSite(Site):
    """A `custom_vjp` or `custom_jvp` of the user's, bound as it is."""

    kind: ClassVar[str] = "custom_vjp"

    @property
    def how(self) -> str:
        return "custom_vjp" if "bwd" in self.operation.params else "custom_jvp"

    @property
    def applied(self) -> str:
        return "its own VJP"


@dataclasses.dataclass(frozen=True, eq=False)
class UnsupportedSite(Site):
    kind: ClassVar[str] = "unsupported"

    @property
    def applied(self) -> str:
        return "none"


Carried = tuple[Variable, Stabiliser]
"""A value at which relevance itself arrives, and the stabiliser of its next division."""


@dataclasses.dataclass(eq=False)
class Plan:
    """A graph, its sites by the variable they attach to, and the facts behind them.

    Attributes:
      weights: where its products' operands come from.
      constants: the edges that are constants for relevance.
      bodies: the plan of each scan's body.
      own_derivatives: operations on relevant values that bring a derivative of the user's.
      copies: products and convolutions that only copy values.
      activations: the root of every activation that relevance passes.
      first_sources: inputs that are the explained input up to scale, shift and rearrangement.
      wanted: the outputs that are explained.
      live: the graph's values that relevance reaches, inputs included.
      carried: where relevance itself, not G, arrives, and where it goes on to from there.
      preprocessed: sums and multiples that the model's input is put through first.
      carrier_inputs: those of the graph's inputs at which it arrives.
      guesses: what was guessed, in words for the user.
      problems: what cannot be done, in words for the user.
    """

    graph: Graph
    flow: Flow
    context: Context
    weights: Weights
    first_sources: set[Variable]
    wanted: frozenset[Variable]
    sites: dict[Variable, Site] = dataclasses.field(default_factory=dict)
    constants: dict[Edge, ConstantSite] = dataclasses.field(default_factory=dict)
    bodies: dict[Operation, Plan] = dataclasses.field(default_factory=dict)
    own_derivatives: set[Operation] = dataclasses.field(default_factory=set)
    copies: set[Operation] = dataclasses.field(default_factory=set)
    activations: dict[Variable, Variable] = dataclasses.field(default_factory=dict)
    live: set[Variable] = dataclasses.field(default_factory=set)
    carried: dict[Carried, tuple[Carried, ...]] = dataclasses.field(default_factory=dict)
    preprocessed: set[Variable] = dataclasses.field(default_factory=set)
    carrier_inputs: set[Variable] = dataclasses.field(default_factory=set)
    guesses: list[str] = dataclasses.field(default_factory=list)
    problems: list[str] = dataclasses.field(default_factory=list)

    def all_sites(self) -> list[Site]:
        return [*self.sites.values(), *self.constants.values()]

    def live_consumer(self, variable: Variable) -> Operation | None:
        """The only operation by which relevance reaches the value, if there is one."""
        readers = self.live_readers(variable)
        return readers[0] if len(readers) == 1 and variable not in self.wanted else None

    def live_readers(self, variable: Variable) -> list[Operation]:
        return [op for op in self.flow.consumers[variable] if self._reads(op, variable)]

    def reachable_joins(self, variable: Variable) -> list[Operation]:
        """The joins of conds that a value reaches elementwise, if it is no output."""
        if variable in self.wanted:
            return []
        found, stack = [], self.live_readers(variable)
        while stack:
            operation = stack.pop()
            if operation.name == JOIN:
                found.append(operation)
            elif facts(operation.name).elementwise and len(operation.outputs) == 1:
                stack.extend(self.live_readers(operation.outputs[0]))
            if len(stack) > 8:
                return []
        return list(dict.fromkeys(found))

    def _reads(self, operation: Operation, variable: Variable) -> bool:
        return any(v in self.live for v in operation.outputs) and (
            variable in self.flow.carrying_inputs(operation)
        )


@dataclasses.dataclass(frozen=True, eq=False)
class Context:
    """What holds for all graphs of one call of `lrp.vjp`.

    Attributes:
      taps: names of the places whose relevance is returned.
      masked: names of the places where relevance is masked.
    """

    composite: Composite
    taps: frozenset[str] = frozenset()
    masked: frozenset[str] = frozenset()

    @property
    def places(self) -> frozenset[str]:
        return self.taps | self.masked

    def kept(self, name: str) -> bool:
        """Whether a function under `jax.jit` is one operation."""
        return marks.is_mark(name) or registry.lookup(name) is not None

    @cached_property
    def bodies(self) -> Bodies:
        """The flat program of an operation's body, built once."""
        built: dict[Operation, Graph] = {}

        def body(operation: Operation) -> Graph:
            if operation not in built:
                built[operation] = body_of(operation, self.kept)
            return built[operation]

        return body


def walk(plan: Plan) -> Iterator[Plan]:
    """The plan and those of its scans, outermost first."""
    yield plan
    for body in plan.bodies.values():
        yield from walk(body)


def tap_shapes(plan: Plan, taps: frozenset[str]) -> dict[str, jax.ShapeDtypeStruct]:
    """The relevance at each tap that relevance reaches; a scan stacks it on a leading axis."""
    found = {}
    for site in plan.sites.values():
        if isinstance(site, TapSite) and site.label in taps:
            kind = plan.graph.types[site.at]
            dtype = jax.numpy.promote_types(kind.dtype, jax.numpy.float32)
            found[site.label] = jax.ShapeDtypeStruct(kind.shape, dtype)
    for operation, body in plan.bodies.items():
        length = operation.params["length"]
        for name, shape in tap_shapes(body, taps).items():
            found[name] = jax.ShapeDtypeStruct((length, *shape.shape), shape.dtype)
    return found
