"""`vjp`, `relevance` and `tap`: LRP beside `jax.vjp`."""

from __future__ import annotations

import difflib
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.ad_checkpoint import checkpoint_name

from isnet_jax.errors import UserError
from isnet_jax.lrp import _jaxpr
from isnet_jax.lrp._cotangent import mark
from isnet_jax.lrp._interpreter import carrier_for, evaluate
from isnet_jax.lrp._sites import Context, Plan, make_plan
from isnet_jax.lrp.composites import Composite, as_composite
from isnet_jax.lrp.rules import Rule

Rules = Rule | Composite


def tap(value: Any, name: str) -> Any:
    """Mark a place in a model: `vjp(..., taps=(name,))` returns the relevance there.

    The same as `jax.ad_checkpoint.checkpoint_name`, which models may use instead; without
    `taps=` it does nothing.
    """
    return checkpoint_name(value, name)


def vjp(
    f: Callable[..., Any],
    *primals: Any,
    rules: Rules,
    taps: Sequence[str] = (),
    has_aux: bool = False,
) -> tuple[Any, ...]:
    """`f(*primals)` and a pullback that is LRP instead of the gradient.

    `f` is any JAX function, such as a Flax, Equinox or Haiku model, unmodified. It is traced
    once; the result composes with jit, vmap over seeds, remat, pmap and with reverse-mode
    gradients of losses on the relevance. It is reverse-mode only: `jax.jvp` with respect to the
    primals raises.

    Args:
      f: a function of `primals`; pytrees of arrays in and out.
      primals: where it is explained. Leaves of integer type receive no relevance.
      rules: a rule or a composite, such as `Epsilon(1e-2)`.
      taps: names of places marked with `tap`.
      has_aux: `f` returns `(output, auxiliary)`; the auxiliary part is not explained.

    Returns:
      `(output, pullback)`, or `(output, pullback, auxiliary)`. The output is bit-equal to f's.
      `pullback(seed)`, seed like the output (the relevance at a logit is logit times seed),
      returns relevance in the shape of the primal (a tuple if there are several), in float32 or
      wider; with taps, `(relevance, {name: relevance at the tap})`.

    Raises:
      UserError: an operation that LRP has no rule for, a tap or a name that is not there.
    """
    program = _Program(f, primals, rules, taps, has_aux)
    leaves = jax.tree.leaves(primals)
    carriers = [
        carrier_for(leaf) if jnp.issubdtype(leaf.dtype, jnp.inexact) else None for leaf in leaves
    ]
    tap_carriers = {
        name: jnp.zeros(kind.shape, jnp.promote_types(kind.dtype, jnp.float32))
        for name, kind in program.taps.items()
    }

    def run(carriers, tap_carriers):
        return program(leaves, carriers, tap_carriers)

    output, pull, auxiliary = jax.vjp(run, carriers, tap_carriers, has_aux=True)

    def pullback(seed: Any) -> Any:
        relevances, at_taps = pull(seed)
        relevance = jax.tree.unflatten(program.structure, relevances)
        relevance = relevance[0] if len(primals) == 1 else relevance
        return (relevance, at_taps) if taps else relevance

    return (output, pullback, auxiliary) if has_aux else (output, pullback)


def relevance(
    f: Callable[..., Any], x: Any, *, target: Any, rules: Rules
) -> tuple[jax.Array, jax.Array]:
    """Logits and the relevance of one logit, or of every one.

    Args:
      f: x -> logits (B, C).
      x: (B, ...).
      target: a class for all samples (int), one a sample ((B,) ints), or "all".
      rules: a rule or a composite.

    Returns:
      Logits (B, C), and relevance like x; with "all", classes on axis 1: (B, C, ...).

    Raises:
      UserError: a target out of range or of another shape, or logits that are not (B, C).
    """
    logits, pullback = vjp(f, x, rules=rules)
    if getattr(logits, "ndim", None) != 2:
        raise UserError(
            f"lrp.relevance: f returned {jax.tree.map(jnp.shape, logits)}; expected logits of "
            "shape (B, C). For other outputs use lrp.vjp and seed its pullback."
        )
    batch, classes = logits.shape
    if isinstance(target, str):
        if target != "all":
            raise UserError(f'lrp.relevance: target is {target!r}; expected ints or "all".')
        seeds = jnp.eye(classes, dtype=logits.dtype)[:, None].repeat(batch, 1)
        return logits, jax.tree.map(lambda r: jnp.moveaxis(r, 0, 1), jax.vmap(pullback)(seeds))
    target = jnp.asarray(target)
    if target.shape not in ((), (batch,)) or not jnp.issubdtype(target.dtype, jnp.integer):
        raise UserError(
            f"lrp.relevance: target is {target.dtype} of shape {target.shape}; expected an int or "
            f"ints of shape ({batch},), one a sample."
        )
    if not isinstance(target, jax.core.Tracer):
        wrong = np.asarray(target)[(np.asarray(target) < 0) | (np.asarray(target) >= classes)]
        if wrong.size:
            raise UserError(
                f"lrp.relevance: target {int(wrong.flat[0])} is out of range; the logits have "
                f"{classes} classes, 0 to {classes - 1}."
            )
    seed = jax.nn.one_hot(jnp.broadcast_to(target, (batch,)), classes, dtype=logits.dtype)
    return logits, pullback(seed)


class _Program:
    """`f`, traced and planned: callable on leaves and carriers."""

    def __init__(self, f, primals, rules, taps, has_aux):
        self.structure = jax.tree.structure(primals)
        context = Context(as_composite(rules), frozenset(taps))
        self.graph, self.shapes = _jaxpr.trace(f, primals, context.kept)
        if has_aux and not (isinstance(self.shapes, tuple) and len(self.shapes) == 2):
            raise UserError("lrp.vjp(has_aux=True): f must return (output, auxiliary).")
        self.has_aux = has_aux
        depends = [self.graph.inexact(variable) for variable in self.graph.inputs]
        names = parameter_names(f, self.graph.constants)
        self.plan = make_plan(self.graph, depends, depends, names, context)
        self.taps = {}
        for plan in walk(self.plan):
            for site in plan.sites.values():
                if site.kind == "tap":
                    self.taps[site.name] = plan.graph.types[site.at]
        self._check(context)

    def _check(self, context: Context) -> None:
        sites = [site for plan in walk(self.plan) for site in plan.sites.values()]
        for site in sites:
            if site.kind == "unsupported":
                raise UserError(_unsupported(self.plan, site))
        marked = {
            op.params["name"]
            for plan in walk(self.plan)
            for op in plan.graph.operations
            if op.name == "name"
        }
        for name in sorted(context.taps - set(self.taps)):
            known = ", ".join(sorted(marked)) or "none"
            raise UserError(
                f"lrp: no relevance reaches a place named {name!r}; places marked with lrp.tap or "
                f"checkpoint_name: {known}."
            )
        layers = [site for site in sites if site.kind == "layer"]
        first = context.composite.first
        if first is not None and not any(site.rule == first for site in layers):
            raise UserError(
                f"lrp: no layer for the composite's first-layer rule {first}: no convolution or "
                "dense layer reads the input up to scale, shift and rearrangement. Use first=None."
            )
        used = {site.rule for site in layers}
        for pattern, rule in context.composite.names:
            if rule not in used:
                names = sorted({site.name for site in layers})
                near = difflib.get_close_matches(pattern, names, n=1)
                hint = f" Did you mean {near[0]!r}?" if near else ""
                raise UserError(
                    f"lrp: the pattern {pattern!r} matches no layer.{hint} Layers: "
                    f"{', '.join(name or '(unnamed)' for name in names)}."
                )

    def __call__(self, leaves, carriers, tap_carriers):
        graph = self.graph
        marked, of_inputs = [], {}
        for variable, leaf, carrier in zip(graph.inputs, leaves, carriers, strict=True):
            if carrier is not None:
                of_inputs[variable] = carrier
                leaf = mark(leaf, carrier)
            marked.append(leaf)
        flat = evaluate(self.plan, marked, of_inputs, tap_carriers)
        result = jax.tree.unflatten(jax.tree.structure(self.shapes), flat)
        return result if self.has_aux else (result, ())


def walk(plan: Plan) -> Iterator[Plan]:
    """The plan and those of its control flow, outermost first."""
    yield plan
    for bodies in plan.control.values():
        for body in bodies:
            yield from walk(body)


def parameter_names(f: Callable[..., Any], constants: Mapping[int, Any]) -> dict[int, str]:
    """Names for the arrays that `f` is closed over: the path in the pytree that holds them."""
    paths: dict[int, str] = {}
    for holder in _holders(f):
        for path, leaf in jax.tree_util.tree_flatten_with_path(holder)[0]:
            parts = [
                part
                for part in jax.tree_util.keystr(path, simple=True, separator="/").split("/")
                if part not in ("value", "raw_value", "params")
            ]
            paths.setdefault(id(leaf), "/".join(parts[:-1]))
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
    yield from _holders(getattr(f, "__self__", None), depth + 1)
    yield from _holders(getattr(f, "__wrapped__", None), depth + 1)
    yield f


def _unsupported(plan: Plan, site: Any) -> str:
    operation = site.operation
    owner = next(p for p in walk(plan) if operation in p.graph.operations)
    shapes = ", ".join(str(owner.graph.shape(operand)) for operand in operation.inputs)
    return (
        f"lrp: no rule for the operation {operation.name!r} at {operation.where}, inputs of shapes "
        f"{shapes}, through which relevance would pass. Two ways out: "
        f'lrp.register_rule("{operation.name}", "linear" | "activation" | a function), or put the '
        "function that uses it under a named jax.jit and register a rule for that name."
    )
