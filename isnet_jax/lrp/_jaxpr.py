"""The one file that touches JAX's jaxpr API: a traced function as a flat list of operations.

Nested `jit`s are inlined, except those whose name a rule is registered for; variables become
integers, so that the same inner jaxpr may be inlined twice.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.extend as jex
import jax.numpy as jnp
from jax import lax
from jax.extend import source_info_util

from isnet_jax.lrp import _facts

_INLINED = frozenset({"jit", "pjit", "closed_call", "core_call", "custom_lin"})
_LIBRARIES = (
    *(f"/site-packages/{name}/" for name in ("jax", "flax", "haiku", "equinox")),
    "/isnet_jax/lrp/",
    "/functools.py",
    "/contextlib.py",
)

Variable = int


@dataclasses.dataclass(frozen=True)
class Constant:
    """An operand whose value is part of the program."""

    value: Any


Operand = Variable | Constant


@dataclasses.dataclass(frozen=True, eq=False)
class Operation:
    """One equation of a jaxpr.

    Attributes:
      name: the primitive's name, or the name of a kept `jit`.
      scope: the `jax.named_scope` stack, "" where there is none.
    """

    name: str
    inputs: tuple[Operand, ...]
    outputs: tuple[Variable, ...]
    params: Mapping[str, Any]
    scope: str
    _equation: Any
    _inner: Any
    _callers: tuple[Any, ...]

    @property
    def where(self) -> str:
        """ "file:line (function)" of the user's code."""
        places = [self._equation.source_info, *reversed(self._callers)]
        found = (_user_frame(place) for place in places)
        return next(filter(None, found), None) or source_info_util.summarize(places[0])

    def bind(self, *values: Any) -> tuple[Any, ...]:
        """The operation itself, exactly as the user's program runs it.

        On values of other shapes than the program's, a layer that has its own derivative is its
        primitive.
        """
        equation = self._equation
        if self._inner is not None and any(
            jnp.shape(value) != variable.aval.shape
            for value, variable in zip(values, equation.invars, strict=True)
        ):
            equation = self._inner
        parameters = equation.primitive.get_bind_params(equation.params)
        with equation.ctx.manager:
            result = equation.primitive.bind(*values, **parameters)
        return tuple(result) if equation.primitive.multiple_results else (result,)


@dataclasses.dataclass(frozen=True, eq=False)
class Graph:
    """A flat program: `constants` are known values, `inputs` come from the caller."""

    inputs: tuple[Variable, ...]
    outputs: tuple[Operand, ...]
    operations: tuple[Operation, ...]
    types: Mapping[Variable, Any]
    constants: Mapping[Variable, Any]

    def shape(self, operand: Operand) -> tuple[int, ...]:
        if isinstance(operand, Constant):
            return jnp.shape(operand.value)
        return tuple(self.types[operand].shape)

    def inexact(self, operand: Operand) -> bool:
        """Whether the operand can carry a cotangent (floating point or complex)."""
        if isinstance(operand, Constant):
            return False
        return jnp.issubdtype(self.types[operand].dtype, jnp.inexact)

    def is_complex(self, variable: Variable) -> bool:
        return jnp.issubdtype(self.types[variable].dtype, jnp.complexfloating)


class _Builder:
    def __init__(self, kept: Callable[[str], bool]):
        self.kept = kept
        self.types: dict[Variable, Any] = {}
        self.constants: dict[Variable, Any] = {}
        self.operations: list[Operation] = []
        self.callers: list[Any] = []

    def fresh(self, type_: Any) -> Variable:
        variable = len(self.types)
        self.types[variable] = type_
        return variable

    def inline(self, jaxpr: Any, operands: Sequence[Operand]) -> tuple[Operand, ...]:
        variables = [*jaxpr.constvars, *jaxpr.invars]
        known: dict[Any, Operand] = dict(zip(variables, operands, strict=True))

        def read(atom: Any) -> Operand:
            if isinstance(atom, jex.core.Literal):
                return Constant(atom.val)
            return known[atom]

        for equation in jaxpr.eqns:
            inputs = tuple(read(atom) for atom in equation.invars)
            if self._is_inlined(equation):
                parameters = equation.params
                body = parameters["jaxpr" if "jaxpr" in parameters else "call_jaxpr"]
                self.callers.append(equation.source_info)
                outputs = self.inline_body(body, inputs)
                self.callers.pop()
            else:
                outputs = self._append(equation, inputs)
            known.update(zip(equation.outvars, outputs, strict=True))
        return tuple(read(atom) for atom in jaxpr.outvars)

    def _is_inlined(self, equation: Any) -> bool:
        name = equation.primitive.name
        if name == "custom_jvp_call":
            return not (self.kept(str(equation.params.get("name", ""))) or is_elementwise(equation))
        return name in _INLINED and not self.kept(str(equation.params.get("name", "")))

    def inline_body(self, body: Any, operands: Sequence[Operand]) -> tuple[Operand, ...]:
        """`inline` for a jaxpr that may be closed over constants."""
        if isinstance(body, jex.core.ClosedJaxpr):
            captured = [Constant(value) for value in body.consts]
            return self.inline(body.jaxpr, [*captured, *operands])
        return self.inline(body, operands)

    def _append(self, equation: Any, inputs: tuple[Operand, ...]) -> tuple[Variable, ...]:
        outputs = tuple(self.fresh(variable.aval) for variable in equation.outvars)
        inner = _only_equation(equation)
        name = (inner or equation).primitive.name
        if self.kept(str(equation.params.get("name", ""))) and name != "name":
            name = str(equation.params["name"])
        self.operations.append(
            Operation(
                name=name,
                inputs=inputs,
                outputs=outputs,
                params=(inner or equation).params,
                scope=str(equation.source_info.name_stack),
                _equation=equation,
                _inner=inner,
                _callers=tuple(self.callers),
            )
        )
        return outputs


def _only_equation(equation: Any) -> Any | None:
    """The layer that a `custom_vjp` consists of: one with its own derivative, a lowering.

    What is said of a layer's primitive is true of it.
    """
    if equation.primitive.name != "custom_vjp_call":
        return None
    body = equation.params["call_jaxpr"].jaxpr
    if len(body.eqns) != 1 or body.constvars:
        return None
    (inner,) = body.eqns
    same = inner.invars == body.invars and inner.outvars == body.outvars
    return inner if same and inner.primitive.name in _facts.LAYERS else None


def is_elementwise(equation: Any) -> bool:
    """Whether a `custom_jvp_call` maps its inputs element by element, as `jax.nn.relu` does."""
    (output,) = equation.outvars if len(equation.outvars) == 1 else (None,)
    if output is None or any(v.aval.shape not in ((), output.aval.shape) for v in equation.invars):
        return False
    body = _build(equation.params["call_jaxpr"].jaxpr, (), lambda name: False)
    return all(operation.name in _facts.ELEMENTWISE for operation in body.operations)


def names_inside(operation: Operation) -> set[str]:
    """The names that `checkpoint_name` gives in the operation and its bodies."""
    return _names_inside(operation._equation)


def _names_inside(equation: Any) -> set[str]:
    if equation.primitive.name == "name":
        return {equation.params["name"]}
    found = set()
    for body in jex.core.jaxprs_in_params(equation.params):
        for inner in body.eqns:
            found |= _names_inside(inner)
    return found


def _user_frame(source_info: Any) -> str | None:
    """ "file:line (function)" of the innermost frame outside the libraries."""
    for frame in getattr(source_info.traceback, "frames", None) or ():
        path = frame.file_name.replace("\\", "/")
        if not any(library in path for library in _LIBRARIES):
            return f"{frame.file_name}:{frame.line_num} ({frame.function_name})"
    return None


def _build(jaxpr: Any, constants: Sequence[Any], kept: Callable[[str], bool]) -> Graph:
    builder = _Builder(kept)
    captured = []
    for variable, value in zip(jaxpr.constvars, constants, strict=True):
        captured.append(builder.fresh(variable.aval))
        builder.constants[captured[-1]] = value
    inputs = tuple(builder.fresh(variable.aval) for variable in jaxpr.invars)
    outputs = builder.inline(jaxpr, [*captured, *inputs])
    return Graph(inputs, outputs, tuple(builder.operations), builder.types, builder.constants)


def trace(function: Callable[..., Any], arguments: tuple, kept: Callable[[str], bool]):
    """Trace `function(*arguments)`.

    Returns:
      The graph, whose inputs are the leaves of `arguments`, and the output's tree of
      `jax.ShapeDtypeStruct`s.
    """

    def fresh(*arguments: Any) -> Any:
        return function(*arguments)

    # JAX keeps traces by the function's identity: a model that was changed in place would be
    # explained as it was at the first call.
    closed, shapes = jax.make_jaxpr(fresh, return_shape=True)(*arguments)
    return _build(closed.jaxpr, closed.consts, kept), shapes


def subgraphs(operation: Operation, kept: Callable[[str], bool]) -> tuple[Graph, ...]:
    """The bodies of an operation: one for remat, scan and custom_jvp, one a branch for cond."""
    parameters = operation.params
    if "branches" in parameters:
        bodies = parameters["branches"]
    else:
        bodies = (parameters["jaxpr" if "jaxpr" in parameters else "call_jaxpr"],)
    return tuple(
        _build(body.jaxpr, body.consts, kept)
        if isinstance(body, jex.core.ClosedJaxpr)
        else _build(body, (), kept)
        for body in bodies
    )


def varying_like(value: Any, like: Any) -> Any:
    """The value, typed under shard_map as varying over the mesh axes that `like` varies over."""
    missing = _varying_axes(like) - _varying_axes(value)
    return lax.pcast(value, tuple(missing), to="varying") if missing else value


def _varying_axes(value: Any) -> frozenset[Any]:
    type_ = jax.typeof(value)
    manual = getattr(type_, "manual_axis_type", None)  # before jax 0.10: `vma` on the type itself
    return manual.varying if manual is not None else getattr(type_, "vma", frozenset())
