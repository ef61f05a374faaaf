"""What a rule applies to: sites, plans, and the facts that hold for one call of `lrp.vjp`."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import jax

from isnet_jax.lrp import _facts, _registry
from isnet_jax.lrp._dataflow import Dataflow
from isnet_jax.lrp._jaxpr import Graph, Operation, Variable
from isnet_jax.lrp.composites import Composite


@dataclasses.dataclass(frozen=True, eq=False)
class Site:
    """A place where relevance is redistributed.

    Attributes:
      kind: "layer", "activation", "sum", "average", "product", "winner", "statistics", "tap",
        "custom", "custom_vjp" or "unsupported".
      name: the parameter's path, a scope or a tap's name; "" where there is none.
      operation: the operation it stands for.
      at: the variable whose value the rule is attached to.
      rule: a rule, or a word.
      route: the variable that receives the cotangent, where that is not `at` itself.
      tail: the operations between a layer and `at`, affine in it per channel.
      relu: the activation is one, so that its output alone tells its factor.
      first: the layer reads the input.
    """

    kind: str
    name: str
    operation: Operation
    at: Variable
    rule: Any
    route: Variable | None = None
    tail: tuple[Operation, ...] = ()
    relu: bool = False
    first: bool = False


@dataclasses.dataclass(eq=False)
class Plan:
    """A graph, its sites by the variable they attach to, and the facts behind them.

    Attributes:
      control: the bodies of each control-flow operation that relevance passes.
      activations: the root of every activation that relevance passes.
      first_sources: inputs that are the explained input up to scale, shift and rearrangement.
      live: the graph's values that relevance reaches, inputs included.
      carrier_inputs: inputs at which relevance itself, not G, arrives.
      problems: what cannot be done, in words for the user.
    """

    graph: Graph
    flow: Dataflow
    sites: dict[Variable, Site]
    control: dict[Operation, tuple[Plan, ...]]
    activations: dict[Variable, Variable]
    first_sources: set[Variable]
    live: set[Variable]
    carrier_inputs: set[Variable]
    problems: list[str]


@dataclasses.dataclass(frozen=True)
class Context:
    """What holds for all graphs of one call of `lrp.vjp`.

    Attributes:
      taps: names of the places whose relevance is returned.
      masked: names of the places where relevance is masked.
    """

    composite: Composite
    taps: frozenset[str]
    masked: frozenset[str] = frozenset()

    @property
    def places(self) -> frozenset[str]:
        return self.taps | self.masked

    def kept(self, name: str) -> bool:
        """Whether a function under `jax.jit` is one operation."""
        whole = name in _facts.WHOLE or name in _facts.ACTIVATIONS
        return whole or _registry.lookup(name) is not None


def walk(plan: Plan) -> Iterator[Plan]:
    """The plan and those of its control flow, outermost first."""
    yield plan
    for bodies in plan.control.values():
        for body in bodies:
            yield from walk(body)


def tap_shapes(plan: Plan, taps: frozenset[str]) -> dict[str, jax.ShapeDtypeStruct]:
    """The relevance at each tap that relevance reaches; a scan stacks it on a leading axis."""
    found = {}
    for site in plan.sites.values():
        if site.kind == "tap" and site.name in taps:
            kind = plan.graph.types[site.at]
            dtype = jax.numpy.promote_types(kind.dtype, jax.numpy.float32)
            found[site.name] = jax.ShapeDtypeStruct(kind.shape, dtype)
    for operation, bodies in plan.control.items():
        leading = (operation.params["length"],) if operation.name == "scan" else ()
        for body in bodies:
            for name, shape in tap_shapes(body, taps).items():
                found[name] = jax.ShapeDtypeStruct((*leading, *shape.shape), shape.dtype)
    return found
