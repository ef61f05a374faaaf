"""A user's function, traced and planned: names, checks, and its evaluation."""

from __future__ import annotations

import difflib
import fnmatch
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import jax

from isnet_jax.errors import UserError
from isnet_jax.lrp.names import sources_of
from isnet_jax.lrp.plan.planner import Inputs, make_plan
from isnet_jax.lrp.plan.sites import (
    Context,
    LayerSite,
    OwnDerivativeSite,
    Plan,
    Site,
    TapSite,
    UnsupportedSite,
    tap_shapes,
    walk,
)
from isnet_jax.lrp.refusals import changes_a_model, is_of_a_captured_model, no_rule
from isnet_jax.lrp.run.cotangents import Attach
from isnet_jax.lrp.run.interpreter import Places, evaluate
from isnet_jax.lrp.run.probes import Probes
from isnet_jax.lrp.trace import jaxpr
from isnet_jax.lrp.trace.batch import Place, Samples
from isnet_jax.lrp.trace.builder import trace
from isnet_jax.lrp.trace.jaxpr import Graph, Variable
from isnet_jax.lrp.trace.primitives import LAYERS, MOVES

BatchAxis = int | None | Literal["auto"]


class Program:
    """`f`, traced and planned for its primals.

    Args:
      argnums, batch_axis: as for `vjp`.
      has_aux: f returns `(output, auxiliary)`; only the output is explained.

    Attributes:
      explained: for each leaf of the primals, whether it is explained.
      shapes: the output's tree of shapes and dtypes.
      plan: where rules apply.
      context: the composite, and the names of taps and masks.
    """

    def __init__(
        self,
        f: Callable[..., Any],
        primals: tuple,
        context: Context,
        argnums: int | Sequence[int] | None = None,
        batch_axis: BatchAxis = "auto",
        has_aux: bool = False,
    ):
        self.context = context
        self.argnums = argnums
        self.primals = jax.tree.structure(primals)
        chosen = _chosen(argnums, len(primals))
        self.explained = [
            position in chosen
            for position, primal in enumerate(primals)
            for _ in jax.tree.leaves(primal)
        ]
        try:
            graph, self.shapes = trace(f, primals, context.kept)
        except Exception as error:
            if not is_of_a_captured_model(error):
                raise
            raise UserError(changes_a_model(error)) from error
        if has_aux and not (isinstance(self.shapes, tuple) and len(self.shapes) == 2):
            raise UserError("lrp.vjp(has_aux=True): f must return (output, auxiliary).")
        self._check_inputs(graph)
        wanted = graph.outputs
        if has_aux:
            wanted = wanted[: len(jax.tree.leaves(self.shapes[0]))]
        depends = [
            explained and graph.inexact(variable)
            for explained, variable in zip(self.explained, graph.inputs, strict=True)
        ]
        sources = sources_of(f, graph.constants)
        inputs = Inputs(
            depends=depends,
            carries=depends,
            first=depends,
            parameters=[not flag for flag in depends],
            names=sources.names,
            texts=sources.texts,
        )
        samples = _find_samples(graph, wanted, depends, batch_axis, context)
        self.plan = make_plan(graph, inputs, wanted, samples, context)

    def selected(self, relevances: Sequence[Any]) -> Any:
        """The relevance of the explained primals, in their trees."""
        trees = jax.tree.unflatten(self.primals, relevances)
        if isinstance(self.argnums, int):
            return trees[self.argnums]
        chosen = _chosen(self.argnums, len(trees))
        if self.argnums is None:
            return trees[0] if len(trees) == 1 else trees
        return tuple(trees[position] for position in chosen)

    @property
    def sites(self) -> list[Site]:
        return [site for plan in walk(self.plan) for site in plan.all_sites()]

    def tap_shapes(self) -> dict[str, jax.ShapeDtypeStruct]:
        return tap_shapes(self.plan, self.context.taps)

    def check(self, strict: bool) -> None:
        """Raise what the user has to mend, warn of what is not LRP.

        Args:
          strict: an operation without a rule is an error; otherwise it keeps its plain VJP.
        """
        unsupported = [
            (plan, site)
            for plan in walk(self.plan)
            for site in plan.sites.values()
            if isinstance(site, UnsupportedSite)
        ]
        for plan, site in unsupported:
            if strict or site.operation.name == "while":
                raise UserError(no_rule(plan, site))
        if unsupported:
            listed = ", ".join(
                f"{s.operation.name!r} at {s.operation.where}" for _, s in unsupported
            )
            _warn(f"lrp: these operations have no rule and keep their plain VJP: {listed}.")
        own = [s for s in self.sites if isinstance(s, OwnDerivativeSite)]
        for where, how in dict.fromkeys((s.operation.where, s.how) for s in own):
            _warn(
                f"lrp: {where}: a {how} keeps its own backward pass; put it in a named "
                "jax.jit and call lrp.register_rule to choose another."
            )
        guesses = [guess for plan in walk(self.plan) for guess in plan.guesses]
        guesses += [f"{s.operation.where}: {s.guess}" for s in self.sites if s.guess]
        if guesses:
            _warn("lrp guessed: " + "; ".join(dict.fromkeys(guesses)) + ".")
        for problem in (problem for plan in walk(self.plan) for problem in plan.problems):
            raise UserError(problem)
        self._check_places()
        self._check_layers()

    def _check_places(self) -> None:
        reached = {site.label for site in self.sites if isinstance(site, TapSite)}
        known: set[str] = set()
        for operation in self.plan.graph.operations:
            known |= jaxpr.names_inside(operation)
        for name in sorted(self.context.places - reached):
            listed = ", ".join(sorted(known)) or "none"
            raise UserError(
                f"lrp: no relevance reaches a place named {name!r}; places marked with lrp.tap or "
                f"checkpoint_name: {listed}."
            )

        shapes: dict[str, tuple[int, ...]] = {}
        for plan in walk(self.plan):
            for site in plan.sites.values():
                shape = plan.graph.shape(site.at)
                if isinstance(site, TapSite) and shapes.setdefault(site.name, shape) != shape:
                    raise UserError(
                        f"lrp: two places are named {site.name!r}, of shapes {shapes[site.name]} "
                        f"and {shape}; relevance at places of one name is added up. Rename one."
                    )

    def check_masks(self, masks: Mapping[str, Any]) -> None:
        """Raise where a mask does not fit its place."""
        for plan in walk(self.plan):
            for site in plan.sites.values():
                if isinstance(site, TapSite) and site.name in masks:
                    shape, mask = plan.graph.shape(site.at), masks[site.name].shape
                    sizes = zip(mask[::-1], shape[::-1], strict=False)
                    if len(mask) > len(shape) or any(m not in (1, n) for m, n in sizes):
                        raise UserError(
                            f"lrp: the mask at {site.name!r} has shape {mask}; expected one that "
                            f"broadcasts to the value there, {shape}."
                        )

    def _check_layers(self) -> None:
        composite = self.context.composite
        self._check_products()
        layers = [site for site in self.sites if isinstance(site, LayerSite)]
        if composite.first is not None and not any(site.first for site in layers):
            raise UserError(
                f"lrp: no layer for the composite's first-layer rule {composite.first}: no "
                "convolution or dense layer reads the input up to scale, shift and "
                "rearrangement. Use first=None."
            )
        names = sorted({site.name for site in layers})
        for pattern, _ in composite.names:
            if not any(fnmatch.fnmatchcase(name, pattern) for name in names):
                near = difflib.get_close_matches(pattern, names, n=1)
                hint = f" Did you mean {near[0]!r}?" if near else ""
                raise UserError(
                    f"lrp: the pattern {pattern!r} matches no layer.{hint} Layers: "
                    f"{', '.join(name or '(unnamed)' for name in names) or 'none'}."
                )

    def _check_inputs(self, graph: Graph) -> None:
        explained = [v for v, flag in zip(graph.inputs, self.explained, strict=True) if flag]
        inexact = [v for v in explained if graph.inexact(v)]
        narrow = any(graph.types[v].dtype.itemsize == 1 for v in inexact)
        if narrow or (explained and not inexact and not self.context.places):
            kinds = ", ".join(dict.fromkeys(str(graph.types[v].dtype) for v in explained))
            raise UserError(
                f"lrp: the input is of type {kinds}; relevance needs floating-point numbers of 16 "
                "bits or more. "
                "Convert it first, for example x.astype(float) / 255, or explain the values that "
                "are looked up with it: mark them with lrp.tap and name them in taps=."
            )

    def _check_products(self) -> None:
        """Parameters among the primals would get half of the relevance of every layer."""
        if self.argnums is not None or sum(self.explained) < 2:
            return
        graph, flow = self.plan.graph, self.plan.flow
        for operation in graph.operations:
            live = not self.plan.live.isdisjoint(operation.outputs)
            if operation.name not in LAYERS or not live:
                continue
            if operation.name == "dot_general" and any(operation.params["dimension_numbers"][1]):
                continue
            if len(set(flow.carrying_inputs(operation))) < 2:
                continue
            leaves = [_leaf(o, self.plan) for o in operation.inputs]
            if any(leaf is not None for leaf in leaves) and leaves[0] != leaves[1]:
                raise UserError(
                    f"lrp: the product at {operation.where} multiplies two of the primals, as a "
                    "layer does whose parameters are given as primals; each would get half of the "
                    "relevance. Explain the input alone: lrp.vjp(lambda x: f(parameters, x), x, "
                    "...), or lrp.vjp(f, parameters, x, argnums=1). If both are meant, say so: "
                    "argnums=(0, 1)."
                )

    def __call__(
        self,
        leaves: Sequence[Any],
        carriers: Sequence[Any],
        taps: Mapping,
        masks: Mapping,
        token: Any,
        probes: Probes | None = None,
    ) -> Any:
        """The output's tree; differentiable with respect to the carriers (None: an integer)."""
        times_input = self.context.composite.times_input
        attach = Attach(token)
        marked, of_inputs = [], {}
        for variable, leaf, carrier in zip(self.plan.graph.inputs, leaves, carriers, strict=True):
            if carrier is not None:
                of_inputs[variable] = carrier
                leaf = attach.marked(leaf, carrier, times_input)
            marked.append(leaf)
        places = Places(taps, masks, times_input, probes)
        flat = evaluate(self.plan, marked, of_inputs, places, attach)
        return jax.tree.unflatten(jax.tree.structure(self.shapes), flat)


def _chosen(argnums: int | Sequence[int] | None, count: int) -> list[int]:
    if argnums is None:
        return list(range(count))
    given = [argnums] if isinstance(argnums, int) else list(argnums)
    if any(not -count <= number < count for number in given):
        raise UserError(
            f"lrp: argnums is {argnums}; expected numbers from 0 to {count - 1}, one a primal."
        )
    return [number % count for number in given]


def _find_samples(
    graph: Graph, wanted: Sequence[Any], depends: Sequence[bool], axis: BatchAxis, context: Context
) -> Samples | None:
    """Where the samples are; None: f takes one sample."""
    explained = [v for v, flag in zip(graph.inputs, depends, strict=True) if flag]
    if axis is None or not explained:
        return None
    if axis != "auto":
        return _along(graph, explained, axis, context)
    for tried in range(len(graph.shape(explained[0]))):
        samples = _along(graph, explained, tried, context)
        if any(_keeps_samples(o, samples) for o in wanted):
            return samples
    samples = Samples(graph, context.bodies, dict.fromkeys(graph.inputs), explained)
    return samples if any(_keeps_samples(o, samples) for o in wanted) else None


def _along(graph: Graph, explained: Sequence[Variable], axis: int, context: Context) -> Samples:
    def size(variable: Variable) -> int | None:
        shape = graph.shape(variable)
        return shape[axis] if -len(shape) <= axis < len(shape) else None

    sizes = {size(v) for v in explained} - {None}
    places = {
        v: Place(axis % len(graph.shape(v))) if size(v) in sizes else None for v in graph.inputs
    }
    return Samples(graph, context.bodies, places)


def _keeps_samples(output: Any, samples: Samples) -> bool:
    shape = samples.graph.shape(output)
    return samples.lost(output) or samples.of(output) is not None or not shape


def _leaf(operand: Any, plan: Plan) -> Variable | None:
    """The input that the operand is a rearrangement of."""
    while not isinstance(operand, jaxpr.Constant):
        if operand in plan.graph.inputs:
            return operand if plan.flow.carries(operand) else None
        producer = plan.flow.producer.get(operand)
        if producer is None or producer.name not in MOVES or len(producer.inputs) != 1:
            return None
        (operand,) = producer.inputs
    return None


def _warn(message: str) -> None:
    warnings.warn(message, stacklevel=4)
