"""Values that are taken apart and put together again: they are the value they were.

`concatenate` of all pieces of a `split`, `stack` of an `unstack`, a reshape or transpose and its
inverse, the part of a concatenation that is one of its operands.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol


class Maker(Protocol):
    """An operation, as far as it matters here."""

    @property
    def name(self) -> str: ...
    @property
    def inputs(self) -> tuple[Any, ...]: ...
    @property
    def outputs(self) -> tuple[int, ...]: ...
    @property
    def params(self) -> Mapping[str, Any]: ...


_RESHAPING = frozenset({"reshape", "squeeze", "expand_dims", "broadcast_in_dim"})


def same_value(
    name: str,
    inputs: Sequence[Any],
    params: Mapping[str, Any],
    shape: tuple[int, ...],
    makers: Mapping[int, Maker],
    shape_of: Callable[[Any], tuple[int, ...]],
) -> Any | None:
    """The operand that an operation's result equals, None if there is none.

    Args:
      inputs: its operands: variables (ints) or constants.
      shape: the result's.
      makers: what computes each variable.
    """
    seen = _Seen(makers, shape_of)
    if not all(isinstance(operand, int) for operand in inputs):
        return None
    match name:
        case "concatenate":
            return seen.joined(inputs, params["dimension"], shape)
        case "stack":
            return seen.stacked(inputs, params["axis"], shape)
        case "slice":
            return seen.part(inputs[0], params, shape)
        case "transpose":
            return seen.turned_back(inputs[0], params["permutation"])
        case _ if name in _RESHAPING and _keeps_order(name, params, shape_of(inputs[0]), shape):
            return seen.reshaped_back(inputs[0], shape)
    return None


class _Seen:
    def __init__(self, makers: Mapping[int, Maker], shape_of: Callable[[Any], tuple[int, ...]]):
        self.makers = makers
        self.shape_of = shape_of

    def before_reshapes(self, variable: int) -> list[int]:
        """The value and those that it is a mere reshape of, nearest first."""
        found = [variable]
        while True:
            maker = self.makers.get(found[-1])
            if maker is None or maker.name not in _RESHAPING:
                return found
            (operand,) = maker.inputs
            before, after = self.shape_of(operand), self.shape_of(found[-1])
            if not isinstance(operand, int) or not _keeps_order(
                maker.name, maker.params, before, after
            ):
                return found
            found.append(operand)

    def reshaped_back(self, variable: int, shape: tuple[int, ...]) -> int | None:
        return next((v for v in self.before_reshapes(variable) if self.shape_of(v) == shape), None)

    def turned_back(self, variable: int, permutation: Sequence[int]) -> int | None:
        maker = self.makers.get(variable)
        if maker is None or maker.name != "transpose":
            return None
        first = maker.params["permutation"]
        whole = [first[axis] for axis in permutation]
        return maker.inputs[0] if whole == sorted(whole) else None

    def joined(self, inputs: Sequence[int], axis: int, shape: tuple[int, ...]) -> int | None:
        pieces = [self._piece(variable, axis) for variable in inputs]
        start, source = 0, None
        for piece, variable in zip(pieces, inputs, strict=True):
            if piece is None or piece[1] != start or source not in (None, piece[0]):
                return None
            source, start = piece[0], start + self.shape_of(variable)[axis]
        whole = source is not None and self.shape_of(source) == shape
        return source if whole else None

    def _piece(self, variable: int, axis: int) -> tuple[int, int] | None:
        """The value that this is a piece of along an axis, and where the piece starts."""
        shape = self.shape_of(variable)
        for candidate in self.before_reshapes(variable):
            maker = self.makers.get(candidate)
            if maker is None:
                continue
            (source,) = maker.inputs[:1] or (None,)
            if not isinstance(source, int):
                continue
            if maker.name == "unstack" and maker.params["axis"] == axis:
                whole = self.shape_of(source)
                if shape == (*whole[:axis], 1, *whole[axis + 1 :]):
                    return source, maker.outputs.index(candidate)
            if self.shape_of(candidate) != shape:
                continue
            if maker.name == "split" and maker.params["axis"] == axis:
                position = maker.outputs.index(candidate)
                return source, sum(maker.params["sizes"][:position])
            if maker.name == "slice" and _cuts_only(maker.params, self.shape_of(source), axis):
                return source, maker.params["start_indices"][axis]
        return None

    def stacked(self, inputs: Sequence[int], axis: int, shape: tuple[int, ...]) -> int | None:
        makers = [self.makers.get(variable) for variable in inputs]
        first = makers[0]
        if first is None or first.name != "unstack" or first.params["axis"] != axis:
            return None
        source = first.inputs[0]
        whole = tuple(inputs) == first.outputs and self.shape_of(source) == shape
        return source if whole else None

    def part(self, variable: int, params: Mapping[str, Any], shape: tuple[int, ...]) -> int | None:
        maker = self.makers.get(variable)
        if maker is None or maker.name != "concatenate":
            return None
        axis, start = maker.params["dimension"], 0
        if not _cuts_only(params, self.shape_of(variable), axis):
            return None
        for operand in maker.inputs:
            if start == params["start_indices"][axis] and self.shape_of(operand) == shape:
                return operand
            start += self.shape_of(operand)[axis]
        return None


def _keeps_order(
    name: str, params: Mapping[str, Any], before: tuple[int, ...], after: tuple[int, ...]
) -> bool:
    """Whether the elements stay in their order: no broadcast, no transpose."""
    if math.prod(before) != math.prod(after) or (params.get("dimensions") and name == "reshape"):
        return False
    if name == "broadcast_in_dim":
        axes = params["broadcast_dimensions"]
        return list(axes) == sorted(axes)
    return True


def _cuts_only(params: Mapping[str, Any], shape: tuple[int, ...], axis: int) -> bool:
    strides = params["strides"] or (1,) * len(shape)
    return all(
        stride == 1 and (a == axis or (start == 0 and limit == size))
        for a, (start, limit, stride, size) in enumerate(
            zip(params["start_indices"], params["limit_indices"], strides, shape, strict=True)
        )
    )
