"""A user's function, traced and planned: names, checks, and its evaluation."""

from __future__ import annotations

import difflib
import fnmatch
import functools
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import CodeType, ModuleType
from typing import Any

import jax
import jax.numpy as jnp

from isnet_jax.errors import UserError
from isnet_jax.lrp import _jaxpr
from isnet_jax.lrp._carriers import zeros_like
from isnet_jax.lrp._cotangent import mark
from isnet_jax.lrp._interpreter import Places, evaluate
from isnet_jax.lrp._jaxpr import varying_like
from isnet_jax.lrp._planner import make_plan
from isnet_jax.lrp._sites import Context, Plan, Site, tap_shapes, walk


class Program:
    """`f`, traced and planned for its primals.

    Attributes:
      structure: the primals' tree.
      shapes: the output's tree of shapes and dtypes.
      plan: where rules apply.
      context: the composite, and the names of taps and masks.
    """

    def __init__(self, f: Callable[..., Any], primals: tuple, context: Context):
        self.context = context
        self.structure = jax.tree.structure(primals)
        try:
            graph, self.shapes = _jaxpr.trace(f, primals, context.kept)
        except Exception as error:
            if type(error).__name__ != "TraceContextError":  # Flax NNX's
                raise
            raise UserError(_changes_a_model(error)) from error
        depends = [graph.inexact(variable) for variable in graph.inputs]
        names = parameter_names(f, graph.constants)
        self.plan = make_plan(graph, depends, depends, names, context)

    @property
    def sites(self) -> list[Site]:
        return [site for plan in walk(self.plan) for site in plan.sites.values()]

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
            if site.kind == "unsupported"
        ]
        for plan, site in unsupported:
            if strict or site.operation.name == "while":
                raise UserError(_unsupported(plan, site))
        if unsupported:
            listed = ", ".join(
                f"{s.operation.name!r} at {s.operation.where}" for _, s in unsupported
            )
            _warn(f"lrp: these operations have no rule and keep their plain VJP: {listed}.")
        for where in dict.fromkeys(s.operation.where for s in self.sites if s.kind == "custom_vjp"):
            _warn(
                f"lrp: {where}: a custom_vjp keeps its own backward pass; put it in a named "
                "jax.jit and call lrp.register_rule to choose another."
            )
        for problem in (problem for plan in walk(self.plan) for problem in plan.problems):
            raise UserError(problem)
        self._check_places()
        self._check_layers()

    def _check_places(self) -> None:
        reached = {site.name for site in self.sites if site.kind == "tap"}
        known: set[str] = set()
        for operation in self.plan.graph.operations:
            known |= _jaxpr.names_inside(operation)
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
                if site.kind == "tap" and shapes.setdefault(site.name, shape) != shape:
                    raise UserError(
                        f"lrp: two places are named {site.name!r}, of shapes {shapes[site.name]} "
                        f"and {shape}; relevance at places of one name is added up. Rename one."
                    )

    def check_masks(self, masks: Mapping[str, Any]) -> None:
        """Raise where a mask does not fit its place."""
        for plan in walk(self.plan):
            for site in plan.sites.values():
                if site.kind == "tap" and site.name in masks:
                    shape, mask = plan.graph.shape(site.at), masks[site.name].shape
                    sizes = zip(mask[::-1], shape[::-1], strict=False)
                    if len(mask) > len(shape) or any(m not in (1, n) for m, n in sizes):
                        raise UserError(
                            f"lrp: the mask at {site.name!r} has shape {mask}; expected one that "
                            f"broadcasts to the value there, {shape}."
                        )

    def _check_layers(self) -> None:
        composite = self.context.composite
        layers = [site for site in self.sites if site.kind == "layer"]
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

    def __call__(
        self, leaves: Sequence[Any], carriers: Sequence[Any], taps: Mapping, masks: Mapping
    ) -> Any:
        """The output's tree; differentiable with respect to the carriers (None: an integer)."""
        times_input = self.context.composite.times_input
        marked, of_inputs = [], {}
        for variable, leaf, carrier in zip(self.plan.graph.inputs, leaves, carriers, strict=True):
            if carrier is not None:
                of_inputs[variable] = carrier
                leaf = mark(leaf, carrier, times_input)
            marked.append(leaf)
        flat = evaluate(self.plan, marked, of_inputs, Places(taps, masks, times_input))
        return jax.tree.unflatten(jax.tree.structure(self.shapes), flat)


def parameter_names(f: Callable[..., Any], constants: Mapping[int, Any]) -> dict[int, str]:
    """Names for the arrays that `f` reads: the path in the closed-over or global pytree."""
    paths: dict[int, str] = {}
    for holder in _holders(f):
        for path, leaf in jax.tree_util.tree_flatten_with_path(holder)[0]:
            text = jax.tree_util.keystr(path, simple=True, separator="/")
            parts = [part for part in text.split("/") if part != "params"]
            while len(parts) > 1 and parts[-1] in ("value", "raw_value"):
                parts.pop()
            paths.setdefault(id(leaf), "/".join(parts[:-1] or parts))
    return {
        variable: paths[id(value)] for variable, value in constants.items() if id(value) in paths
    }


def _holders(f: Any, depth: int = 0) -> Iterator[Any]:
    if depth > 3 or f is None:
        return
    if isinstance(f, functools.partial):
        yield from (*f.args, f.keywords)
        yield from _holders(f.func, depth + 1)
        return
    for cell in getattr(f, "__closure__", None) or ():
        try:
            contents = cell.cell_contents
        except ValueError:  # a cell that is not filled yet
            continue
        yield contents
        if callable(contents):
            yield from _holders(contents, depth + 1)
    names = _global_names(getattr(f, "__code__", None))
    for contents in (f.__globals__[name] for name in names if name in f.__globals__):
        if not isinstance(contents, type | ModuleType):
            yield contents
    yield from _holders(getattr(f, "__self__", None), depth + 1)
    yield from _holders(getattr(f, "__wrapped__", None), depth + 1)
    yield f


def _global_names(code: CodeType | None) -> Iterator[str]:
    """What a function and the functions inside it may read from the module's names."""
    if code is not None:
        yield from code.co_names
        for constant in code.co_consts:
            if isinstance(constant, CodeType):
                yield from _global_names(constant)


def _changes_a_model(error: Exception) -> str:
    return (
        f"lrp: f changes a Flax model that it captures ({str(error).partition(' (http')[0]}), as "
        "batch norm and dropout do in train mode; a traced function must not. Use model.eval(), or "
        "give f a copy: `graph, state = nnx.split(model)` and in f `copy = nnx.merge(graph, state, "
        "copy=True)`. With has_aux=True, f returns (copy(x), nnx.state(copy)) to keep what changed."
    )


def _unsupported(plan: Plan, site: Site) -> str:
    operation = site.operation
    if operation.name == "while":
        return (
            f"lrp: relevance would pass the while loop at {operation.where}, which has no "
            "reverse-mode derivative. Use jax.lax.scan, or jax.lax.fori_loop with fixed bounds."
        )
    shapes = ", ".join(str(plan.graph.shape(operand)) for operand in operation.inputs)
    return (
        f"lrp: no rule for the operation {operation.name!r} at {operation.where}, inputs of shapes "
        f"{shapes}, through which relevance would pass. Two ways out: "
        f'lrp.register_rule("{operation.name}", "linear" | "activation" | a function), or put the '
        "function that uses it under a named jax.jit and register a rule for that name. "
        "(strict=False keeps its plain VJP.)"
    )


def _warn(message: str) -> None:
    warnings.warn(message, stacklevel=4)


def carrier_for(leaf: jax.Array) -> jax.Array | None:
    """Zeros whose cotangent is the leaf's relevance, in float32 or wider; None for integers."""
    return zeros_like(leaf) if jnp.issubdtype(leaf.dtype, jnp.inexact) else None


def zeros_for(shapes: Mapping[str, jax.ShapeDtypeStruct], leaves: list[Any]) -> dict[str, Any]:
    """Zeros of these shapes that vary, under shard_map, over the axes that the leaves vary over."""
    return {
        name: functools.reduce(varying_like, leaves, jnp.zeros(kind.shape, kind.dtype))
        for name, kind in shapes.items()
    }
