"""Which axis of each value runs over the samples.

The samples' axis is the input's axis 0, if it comes out again: followed through the program, it
is an axis of the explained output. A function of one sample has none. Where the axis was merged
with others behind it (windows of an image), it is the axis' slow part.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import NamedTuple

from isnet_jax.lrp.trace.dependence import Bodies
from isnet_jax.lrp.trace.jaxpr import (
    JOIN,
    Constant,
    Graph,
    Operand,
    Operation,
    Variable,
    ancestors,
    scan_counts,
)
from isnet_jax.lrp.trace.primitives import facts


class Place(NamedTuple):
    """The samples along `axis`, each `inner` elements long."""

    axis: int
    inner: int = 1


class Samples:
    """Where the samples are in each value of a graph.

    Attributes:
      known: by variable: their place; None: they are not told apart (they were reduced over, or
        the value does not depend on them); absent: not known.
    """

    def __init__(
        self,
        graph: Graph,
        bodies: Bodies,
        inputs: Mapping[int, Place | None],
        samples: Sequence[int] = (),
    ):
        """`samples`: inputs that are one sample each; they are put together by the program."""
        self.graph = graph
        self.bodies = bodies
        self.known: dict[int, Place | None] = dict(inputs)
        self._inside: dict[Operation, Samples] = {}
        for variable in graph.constants:
            self.known[variable] = None
        for operation in graph.operations:
            self._follow(operation)
            if len(samples) > 1 and operation.name in ("stack", "concatenate"):
                self._put_together(operation, samples)

    def _put_together(self, operation: Operation, samples: Sequence[int]) -> None:
        """`stack` of all the samples: from here on they are along its axis."""
        found = []
        for operand in operation.inputs:
            while not isinstance(operand, Constant) and operand in self._makers:
                maker = self._makers[operand]
                if not facts(maker.name).shaping and not facts(maker.name).identity:
                    break
                operand = maker.inputs[0]
            found.append(operand)
        if found == list(samples):
            stacked = operation.name == "stack"
            axis = operation.params["axis" if stacked else "dimension"]
            size = self.graph.shape(operation.outputs[0])[axis]
            if size == len(samples):
                self.known[operation.outputs[0]] = Place(axis)

    def of(self, operand: Operand) -> Place | None:
        return None if isinstance(operand, Constant) else self.known.get(operand)

    def inside(self, scan: Operation) -> Samples:
        """Where the samples are in a scan's body."""
        if scan not in self._inside:
            self._inside[scan] = Samples(self.bodies(scan), self.bodies, {})
        return self._inside[scan]

    def lost(self, operand: Operand) -> bool:
        """Whether it is not known where the samples are."""
        return not isinstance(operand, Constant) and operand not in self.known

    def _follow(self, operation: Operation) -> None:
        if any(self.lost(operand) for operand in operation.inputs):
            return
        places = [self.of(operand) for operand in operation.inputs]
        if all(place is None for place in places):
            self.known.update((variable, None) for variable in operation.outputs)
            return
        found = self._outputs(operation, places)
        if found is not None:
            self.known.update(zip(operation.outputs, found, strict=True))

    def _outputs(
        self, operation: Operation, places: Sequence[Place | None]
    ) -> list[Place | None] | None:
        primitive, name = facts(operation.name), operation.name
        shape = self.graph.shape(operation.inputs[0])
        first = places[0]
        if primitive.identity and len(operation.inputs) == len(operation.outputs):
            return list(places)
        if primitive.elementwise or name == JOIN:
            return [next(filter(None, places))]
        if name == "scan":
            return self._scan(operation, places)
        if name == "dot_general":
            return [self._product(operation, places)]
        if name == "conv_general_dilated":
            return None if first is None else self._convolved(operation, first)
        if name in ("concatenate", "dynamic_update_slice") or name.startswith("scatter"):
            place = next(filter(None, places))
            joined = name == "concatenate" and place.axis == operation.params["dimension"]
            return None if joined else [place]
        if name == "stack":
            place, axis = next(filter(None, places)), operation.params["axis"]
            return [Place(place.axis + (place.axis >= axis), place.inner)]
        if first is None:
            return None
        moved = self._moved(operation, first, shape)
        return None if isinstance(moved, bool) else [moved for _ in operation.outputs]

    def _moved(
        self, operation: Operation, place: Place, shape: tuple[int, ...]
    ) -> Place | bool | None:
        """The place after an operation on one value; None: reduced over, False: not known."""
        name, params, axis = operation.name, operation.params, place.axis
        after = self.graph.shape(operation.outputs[0]) if operation.outputs else ()
        if name in ("reshape", "expand_dims"):
            return reshaped(place, shape, after) or False
        if name == "transpose":
            return Place(params["permutation"].index(axis), place.inner)
        if name == "broadcast_in_dim":
            return Place(params["broadcast_dimensions"][axis], place.inner)
        if name == "squeeze":
            return Place(axis - sum(d < axis for d in params["dimensions"]), place.inner)
        if name == "unstack":
            gone = params["axis"]
            return None if gone == axis else Place(axis - (gone < axis), place.inner)
        if name in ("argmax", "argmin") or (
            facts(name).reduces and "axes" in params and name.startswith("reduce_")
        ):
            axes = params["axes"]
            return None if axis in axes else Place(axis - sum(a < axis for a in axes), place.inner)
        if name == "gather":
            return _gathered(params, place, shape)
        if facts(name).passing is not None and len(after) == len(shape):
            return place if after[axis] == shape[axis] else False
        return False

    def _product(self, operation: Operation, places: Sequence[Place | None]) -> Place | None:
        contracted, batched = operation.params["dimension_numbers"]
        start = len(batched[0])
        for side, place in enumerate(places):
            rank = len(self.graph.shape(operation.inputs[side]))
            free = [a for a in range(rank) if a not in (*contracted[side], *batched[side])]
            if place is not None and place.axis in batched[side]:
                return Place(list(batched[side]).index(place.axis), place.inner)
            if place is not None and place.axis in free:
                return Place(start + free.index(place.axis), place.inner)
            if place is not None and self._is_made(operation.inputs[1 - side]):
                return self._mixed(operation, side, place)
            start += len(free)
        return None

    def _mixed(self, product: Operation, side: int, place: Place) -> Place | None:
        """Where a square matrix that the program makes, such as a centring one, puts them."""
        other = 1 - side
        contracted, batched = product.params["dimension_numbers"]
        shapes = [self.graph.shape(operand) for operand in product.inputs]
        taken = (*contracted[other], *batched[other])
        free = [axis for axis in range(len(shapes[other])) if axis not in taken]
        if len(free) != 1 or shapes[other][free[0]] != shapes[side][place.axis]:
            return None
        before = len(shapes[side]) - len(contracted[side]) if other else len(batched[other])
        return Place(before, place.inner)

    def _convolved(self, operation: Operation, place: Place) -> list[Place | None] | None:
        """Along the images; channels are summed over, and pixels mixed."""
        params = operation.params
        lhs, kernel, after = params["dimension_numbers"]
        position = lhs.index(place.axis)
        if position == 0:
            return [Place(after[0], place.inner)] if params["batch_group_count"] == 1 else None
        if position == 1:
            return [None] if params["feature_group_count"] == 1 else None
        window = self.graph.shape(operation.inputs[1])[kernel[position]]
        return [None] if window > 1 else None

    def _is_made(self, operand: Operand) -> bool:
        """Whether the program computes an array from nothing: no input, none that it holds."""

        def inputs(variable: Variable) -> Sequence[Operand]:
            maker = self._makers.get(variable)
            return () if maker is None else maker.inputs

        if isinstance(operand, Constant):
            return False
        return all(v in self._makers or not self.graph.shape(v) for v in ancestors(operand, inputs))

    @cached_property
    def _makers(self) -> dict[int, Operation]:
        return {v: operation for operation in self.graph.operations for v in operation.outputs}

    def _scan(
        self, operation: Operation, places: Sequence[Place | None]
    ) -> list[Place | None] | None:
        constants, carried = scan_counts(operation.params)
        start = constants + carried
        body, inside = self.bodies(operation), list(places)
        for position in range(start, len(inside)):
            place = inside[position]
            if place is not None and place.axis == 0:
                return None
            inside[position] = place and Place(place.axis - 1, place.inner)
        inner, found = self, list(places)
        for _ in range(2):  # a carry that begins as a constant gets the samples from the first step
            inner = Samples(body, self.bodies, dict(zip(body.inputs, inside, strict=True)))
            if any(inner.lost(output) for output in body.outputs):
                return None
            found = [inner.of(output) for output in body.outputs]
            carry = zip(inside[constants:start], found[:carried], strict=True)
            inside[constants:start] = [before or after for before, after in carry]
        self._inside[operation] = inner
        stacked = [place and Place(place.axis + 1, place.inner) for place in found[carried:]]
        return [*inside[constants:start], *stacked]


def reshaped(place: Place, before: tuple[int, ...], after: tuple[int, ...]) -> Place | None:
    """Where a reshape takes the samples; None: they are merged behind another axis."""
    samples = before[place.axis] // place.inner
    stride = place.inner * math.prod(before[place.axis + 1 :])
    if math.prod(before) == 0:
        return Place(after.index(0)) if 0 in after and before[place.axis] == 0 else None
    for axis, size in enumerate(after):
        behind = math.prod(after[axis + 1 :])
        inner, rest = divmod(stride, behind)
        if rest == 0 and inner > 0 and size == samples * inner:
            return Place(axis, inner)
    return None


def _gathered(params: Mapping, place: Place, shape: tuple[int, ...]) -> Place | bool:
    """`x[:, i]` and the like: the samples' axis is taken whole."""
    numbers, axis = params["dimension_numbers"], place.axis
    collapsed = (*numbers.collapsed_slice_dims, *numbers.operand_batching_dims)
    if axis in collapsed or params["slice_sizes"][axis] != shape[axis]:
        return False
    kept = [a for a in range(len(shape)) if a not in collapsed]
    return Place(numbers.offset_dims[kept.index(axis)], place.inner)
