"""A traced program as the engine sees it: a flat list of operations on numbered variables.

The one file that touches JAX's jaxpr API.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any

import jax
import jax.extend as jex
import jax.numpy as jnp
from jax import lax

JOIN = "join"
"""The name of the operation that selects among the outputs of a cond's branches."""
_LIBRARIES = (
    *(
        f"/site-packages/{name}/"
        for name in ("jax", "flax", "haiku", "equinox", "jaxtyping", "beartype")
    ),
    "<@beartype",
    "/isnet_jax/lrp/",
    "/functools.py",
    "/contextlib.py",
)

Variable = int


@dataclasses.dataclass(frozen=True)
class Constant:
    """An operand whose value is written into the program."""

    value: Any

    __hash__ = object.__hash__  # a literal array has no hash of its own


Operand = Variable | Constant


def ancestors(
    operand: Operand, inputs: Callable[[Variable], Iterable[Operand]]
) -> Iterator[Variable]:
    """The operand and all that it is computed from, each once, constants of the text apart.

    Args:
      inputs: what a variable is computed from directly.
    """
    stack, seen = [operand], set()
    while stack:
        current = stack.pop()
        if not isinstance(current, Constant) and current not in seen:
            seen.add(current)
            yield current
            stack.extend(inputs(current))


@dataclasses.dataclass(frozen=True, eq=False)
class Operation:
    """One equation of a jaxpr, or a step that stands for a part of one.

    Attributes:
      name: the primitive's name, or the name of a kept `jit`.
      scope: the `jax.named_scope` stack, "" where there is none.
      run: the operation itself, exactly as the user's program runs it.
      inner: its body, where it has one.
      own_derivative: a `custom_jvp` or `custom_vjp`, whatever its name.
      places: source information, innermost first.
    """

    name: str
    inputs: tuple[Operand, ...]
    outputs: tuple[Variable, ...]
    params: Mapping[str, Any]
    scope: str
    run: Callable[..., tuple[Any, ...]]
    inner: tuple[Any, ...] = ()
    places: tuple[Any, ...] = ()
    own_derivative: bool = False

    @property
    def where(self) -> str:
        """ "file:line (function)" of the user's code, of what it holds if need be."""
        found = (_user_frame(place) for place in (*self.places, *_places_inside(self.inner)))
        return next(filter(None, found), "the explained function itself")

    def bind(self, *values: Any) -> tuple[Any, ...]:
        return self.run(*values)


@dataclasses.dataclass(frozen=True, eq=False)
class Checkpoint:
    """Operations that are computed again instead of kept: `jax.checkpoint`."""

    block: Block
    policy: Any
    prevent_cse: bool


@dataclasses.dataclass(frozen=True, eq=False)
class Branches:
    """A `cond`: its branches, and the joins that take one value of each."""

    index: Operand
    blocks: tuple[Block, ...]
    joins: tuple[Operation, ...]


Block = list["Operation | Checkpoint | Branches"]


def operations_of(block: Block) -> Iterator[Operation]:
    """All operations of a block in the order they run, joins behind their branches."""
    for item in block:
        match item:
            case Operation():
                yield item
            case Checkpoint():
                yield from operations_of(item.block)
            case Branches():
                for branch in item.blocks:
                    yield from operations_of(branch)
                yield from item.joins


def _conds(block: Block, outer: Branches | None = None) -> Iterator[tuple[Operation, Branches]]:
    """The operations in branches, each with the innermost cond."""
    for item in block:
        match item:
            case Operation():
                if outer is not None:
                    yield item, outer
            case Checkpoint():
                yield from _conds(item.block, outer)
            case Branches():
                for branch in item.blocks:
                    yield from _conds(branch, item)
                if outer is not None:
                    yield from ((join, outer) for join in item.joins)


@dataclasses.dataclass(frozen=True, eq=False)
class Graph:
    """A flat program: `constants` are known values, `inputs` come from the caller.

    Attributes:
      block: the operations as they are evaluated, with checkpoints and branches.
      operations: the same in one list, as they are understood.
    """

    inputs: tuple[Variable, ...]
    outputs: tuple[Operand, ...]
    block: Block
    operations: tuple[Operation, ...]
    types: Mapping[Variable, Any]
    constants: Mapping[Variable, Any]

    def shape(self, operand: Operand) -> tuple[int, ...]:
        if isinstance(operand, Constant):
            return jnp.shape(operand.value)
        return tuple(self.types[operand].shape)

    @cached_property
    def conds(self) -> Mapping[Operation, Branches]:
        """The innermost cond of each operation that is in a branch of one."""
        return dict(_conds(self.block))

    def inexact(self, operand: Operand) -> bool:
        """Whether the operand can carry a cotangent (floating point or complex)."""
        if isinstance(operand, Constant):
            return False
        return jnp.issubdtype(self.types[operand].dtype, jnp.inexact)

    def is_complex(self, variable: Variable) -> bool:
        return jnp.issubdtype(self.types[variable].dtype, jnp.complexfloating)


def is_literal(atom: Any) -> bool:
    """Whether a jaxpr's operand is a number that is written into it."""
    return isinstance(atom, jex.core.Literal)


def bodies_in(params: Mapping[str, Any]) -> tuple[Any, ...]:
    """The jaxprs among an equation's parameters."""
    return tuple(jex.core.jaxprs_in_params(params))


def opened(body: Any) -> tuple[Any, Sequence[Any]]:
    """A jaxpr and the constants it is closed over."""
    if isinstance(body, jex.core.ClosedJaxpr):
        return body.jaxpr, body.consts
    return body, ()


def scan_counts(params: Mapping[str, Any]) -> tuple[int, int]:
    """How many of a scan's inputs are constants, and how many its carry."""
    if "num_consts" in params:
        return params["num_consts"], params["num_carry"]
    constants, carry, _ = params["ft_in"].unpack()  # jax 0.11 and newer
    return len(list(constants)), len(list(carry))


def names_inside(operation: Operation) -> set[str]:
    """The names that `checkpoint_name` gives in the operation and its bodies."""
    if operation.name == "name":
        return {operation.params["name"]}
    return set().union(*map(_names, operation.inner))


def _names(body: Any) -> set[str]:
    found = set()
    for equation in opened(body)[0].eqns:
        if equation.primitive.name == "name":
            found.add(equation.params["name"])
        for inner in bodies_in(equation.params):
            found |= _names(inner)
    return found


def _places_inside(bodies: Sequence[Any]) -> Iterator[Any]:
    return (equation.source_info for body in bodies for equation in opened(body)[0].eqns)


def _user_frame(source_info: Any) -> str | None:
    """ "file:line (function)" of the innermost frame outside the libraries."""
    for frame in getattr(source_info.traceback, "frames", None) or ():
        path = frame.file_name.replace("\\", "/")
        if not any(library in path for library in _LIBRARIES):
            return f"{frame.file_name}:{frame.line_num} ({frame.function_name})"
    return None


def written_in_text(value: Any) -> bool:
    """Whether a constant is an array of numbers of the host, not one of JAX's."""
    return not isinstance(value, jax.Array)


def varying_like(value: Any, like: Any) -> Any:
    """The value, typed under shard_map as varying over the mesh axes that `like` varies over."""
    missing = _varying_axes(like) - _varying_axes(value)
    return lax.pcast(value, tuple(missing), to="varying") if missing else value


def _varying_axes(value: Any) -> frozenset[Any]:
    type_ = jax.typeof(value)
    manual = getattr(type_, "manual_axis_type", None)  # before jax 0.10: `vma` on the type itself
    return manual.varying if manual is not None else getattr(type_, "vma", frozenset())
