"""A layer as rules see it: what follows it folded into its weights, its input's range."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from isnet_jax.lrp.plan.layers import channel_axes, weight_axes
from isnet_jax.lrp.plan.sites import LayerSite, Plan, Step
from isnet_jax.lrp.rules import Layer, LayerRule, Level, RelevanceRule
from isnet_jax.lrp.trace.jaxpr import Constant, Operand, Variable, varying_like
from isnet_jax.lrp.trace.primitives import MOVES, SHAPING
from isnet_jax.lrp.trace.shapes import Channels, moved_axes, varying_axes

_AFFINE: dict[str, Callable[[Any, Any], Any]] = {
    "add": jnp.add,
    "sub": jnp.subtract,
    "mul": jnp.multiply,
    "div": jnp.divide,
}


class Folded(NamedTuple):
    """A folded layer, and functions: its operation, and the way back from the tail's shape."""

    layer: Layer
    apply: Callable[[Any, Any], Any]
    restore: Callable[[Any], Any]


class Folding:
    """Reads the values of one evaluation; computes only what a rule asks for."""

    def __init__(self, plan: Plan, values: Mapping[Variable, Any]):
        self.plan = plan
        self.graph = plan.graph
        self.flow = plan.flow
        self.first_sources = plan.first_sources
        self.values = values
        self.layers: dict[Variable, Folded] = {}
        self.insides: dict[Variable, Any] = {}

    def layer(self, site: LayerSite) -> Folded:
        """The folded layer of a site."""
        if site.at not in self.layers:
            self.layers[site.at] = self._fold(site, site.rule)  # pyright: ignore[reportArgumentType]
        return self.layers[site.at]

    def _fold(self, site: LayerSite, rule: LayerRule | RelevanceRule) -> Folded:
        operation, x, side, constant = site.operation, site.x, site.side, rule.constant_bias
        weight = self.read(operation.inputs[side])
        output = operation.outputs[0]
        axes = weight_axes(operation, side, self.flow)
        shape = self.graph.shape(output)
        unit = jnp.ones(
            [size if axis in axes else 1 for axis, size in enumerate(shape)],
            self.values[output].dtype,
        )
        bias = self._through_tail(site, jnp.zeros_like(unit), constant)
        factor = self._through_tail(site, unit, constant) - bias
        kernel = [1] * weight.ndim
        for axis, kernel_axis in axes.items():
            kernel[kernel_axis] = shape[axis]
        order = sorted(axes, key=lambda axis: axes[axis])
        per_kernel = jnp.transpose(
            factor, [*order, *(axis for axis in range(factor.ndim) if axis not in axes)]
        ).reshape(kernel)

        def apply(x: Any, weight: Any) -> Any:
            x = varying_like(x, weight)
            return operation.bind(*((x, weight) if side == 1 else (weight, x)))[0]

        def shaped(z: Any) -> Any:
            for step in site.tail:
                if step.operation.name in SHAPING:
                    (z,) = step.operation.bind(z)
            return z

        def restore(y: Any) -> Any:
            _, pull = jax.vjp(shaped, varying_like(jnp.zeros(shape, y.dtype), y))
            return pull(y)[0]

        layer = Layer(
            x=self.values[x],
            weight=(weight * per_kernel).astype(weight.dtype),
            bias=bias,
            z=factor * self.values[output] + bias if constant else restore(self.values[site.at]),
            low=self._bound(site, x, getattr(rule, "low", None)),
            high=self._bound(site, x, getattr(rule, "high", None)),
            inside=self._inside(x) if isinstance(rule, RelevanceRule) else None,
            nonnegative=self.flow.nonnegative(x),
        )
        return Folded(layer, apply, restore)

    def _inside(self, variable: Variable) -> Any | None:
        """0 where the value is padding, else 1; None if none is to be seen."""
        if variable not in self.insides:
            self.insides[variable] = self._computed_inside(variable)
        return self.insides[variable]

    def _computed_inside(self, variable: Variable) -> Any | None:
        producer = self.flow.producer.get(variable)
        copies = producer in self.plan.copies
        if producer is None or not (copies or producer.name in MOVES):
            return None
        carrying = self.flow.carrying_inputs(producer)
        known = {source: self._inside(source) for source in carrying}
        pads = producer.name == "pad"
        if not (pads or copies) and all(found is None for found in known.values()):
            return None

        def read(operand: Operand) -> Any:
            if operand not in known:
                return jnp.zeros_like(self.read(operand)) if pads else self.read(operand)
            found = known[operand]  # pyright: ignore[reportArgumentType]
            return jnp.ones_like(self.values[operand]) if found is None else found  # pyright: ignore

        operands = map(read, producer.inputs)
        return producer.bind(*operands)[producer.outputs.index(variable)]

    def read(self, operand: Operand) -> Any:
        if isinstance(operand, Constant):
            return operand.value
        if operand not in self.values:  # a branch of a cond keeps it to itself
            producer = self.flow.producer[operand]
            outputs = producer.bind(*map(self.read, producer.inputs))
            return outputs[producer.outputs.index(operand)]
        return self.values[operand]

    # The tail

    def _through_tail(self, site: LayerSite, value: Any, constant: bool) -> Any:
        """What the operations after the layer make of a value that is constant per channel.

        Args:
          constant: biases and statistics enter as constants of the outer gradient.
        """
        shape = value.shape
        start = axes = channel_axes(site.operation, site.side, self.flow)
        for step in site.tail:
            if step.operation.name in SHAPING:
                moved = moved_axes(step.operation, axes, self.flow)
                assert moved is not None
                value = _placed(value, axes, moved, self.graph.shape(step.leaves))
                axes = moved
            else:
                value = self._through_step(step, value, constant)
        moved = axes != start or value.ndim != len(shape)
        return _placed(value, axes, start, shape) if moved else value

    def _through_step(self, step: Step, value: Any, constant: bool) -> Any:
        name, params = step.operation.name, step.operation.params
        if step.branches:
            results = []
            for branch in step.branches:
                result = value
                for inner in branch:
                    result = self._through_step(inner, result, constant)
                results.append(jnp.broadcast_to(result, value.shape))
            index = jnp.clip(self.read(step.operation.inputs[0]), 0, len(results) - 1)
            return jnp.take(jnp.stack(results), index.astype(int), axis=0)
        if name == "convert_element_type":
            return value.astype(params["new_dtype"])
        if name not in _AFFINE:
            return value
        operands = [
            value
            if operand == step.enters
            else self._per_channel(step, position, value.ndim, constant)
            for position, operand in enumerate(step.operation.inputs)
        ]
        return _AFFINE[name](*operands)

    def _per_channel(self, step: Step, position: int, rank: int, constant: bool) -> Any:
        operand = self.flow.origin(step.operation.inputs[position])
        producer = None if isinstance(operand, Constant) else self.flow.producer.get(operand)
        broadcast = producer is not None and producer.name == "broadcast_in_dim"
        source = producer.inputs[0] if broadcast and producer else operand
        if not constant:
            value = self.read(source)
        elif step.operation.name in ("add", "sub"):
            value = lax.stop_gradient(jnp.asarray(self.read(source)))
        else:
            value = self._frozen(source)
        if broadcast and producer is not None:
            shape = [1] * rank
            for axis, size in zip(
                producer.params["broadcast_dimensions"], jnp.shape(value), strict=True
            ):
                shape[axis] = size
            value = jnp.reshape(value, shape)
        varying = varying_axes(operand, self.flow)
        for axis, size in enumerate(jnp.shape(value)):
            if size > 1 and axis not in varying:
                value = lax.slice_in_dim(value, 0, 1, axis=axis)
        return value

    def _frozen(self, operand: Operand) -> Any:
        """The operand's value with the statistics in it constant, but not what scales them."""
        if not self.flow.depends(operand):
            return self.read(operand)
        producer = self.flow.producer.get(operand)  # pyright: ignore[reportArgumentType]
        scales = producer is not None and (
            producer.name in SHAPING
            or self.flow.is_identity(producer)
            or (producer.name in ("mul", "div") and len(self.flow.depending_inputs(producer)) == 1)
        )
        if not scales or producer is None:
            return lax.stop_gradient(self.read(operand))
        values = [self._frozen(o) for o in producer.inputs]
        return producer.bind(*values)[producer.outputs.index(operand)]  # pyright: ignore

    # The input's range

    def _bound(self, site: LayerSite, x: Variable, level: Level | None) -> Any | None:
        """The layer's input where the model's input is `level` everywhere; None if it is zero.

        At layers that do not read the model's input: where their own input is.
        """
        if level is None:
            return None
        operation = site.operation
        if site.first and x not in self.first_sources:
            return None if level == 0 and self._only_moved(x) else self._at_level(x, level)
        if level == 0:
            return None
        if isinstance(level, tuple):
            return _filled(self.values[x], level)
        assert not isinstance(level, tuple)
        shape = list(self.graph.shape(x))
        if operation.name == "conv_general_dilated":
            shape[operation.params["dimension_numbers"].lhs_spec[0]] = 1
        else:
            side = operation.inputs.index(x)
            contracted, batched = operation.params["dimension_numbers"]
            kept = (*contracted[side], *batched[side])
            shape = [size if axis in kept else 1 for axis, size in enumerate(shape)]
        return jnp.full(shape, level, self.values[x].dtype)

    def _behind_input(self, variable: Variable) -> set[Variable]:
        """The value and those between the model's input and it, the input excluded."""
        stack, found = [variable], set()
        while stack:
            current = stack.pop()
            if current not in self.first_sources and current not in found:
                found.add(current)
                stack.extend(self.flow.carrying_inputs(self.flow.producer[current]))
        return found

    def _only_moved(self, variable: Variable) -> bool:
        producers = map(self.flow.producer.__getitem__, self._behind_input(variable))
        return all(producer.name not in _AFFINE for producer in producers)

    def _at_level(self, variable: Variable, level: Level) -> Any:
        wanted, known = self._behind_input(variable), {}

        def read(operand: Operand) -> Any:
            if isinstance(operand, Constant):
                return operand.value
            if operand in self.first_sources:
                return _filled(self.values[operand], level)
            if operand not in known:
                inside = operand not in wanted and operand in self.values
                known[operand] = self.values[operand] if inside else computed(operand)
            return known[operand]

        def computed(operand: Variable) -> Any:
            producer = self.flow.producer[operand]
            outputs = producer.bind(*map(read, producer.inputs))
            known.update(zip(producer.outputs, outputs, strict=True))
            return known[operand]

        # In the order they run, so that `read` goes no deeper than what a branch keeps to itself.
        for operation in self.graph.operations:
            if not wanted.isdisjoint(operation.outputs):
                computed(operation.outputs[0])
        return known[variable]


def _placed(value: Any, axes: Channels, new: Channels, shape: Sequence[int]) -> Any:
    """A value of size one but on `axes`, with these moved to `new` among the axes of `shape`."""
    old, places = list(itertools.chain(*axes)), list(itertools.chain(*new))
    others = [axis for axis in range(value.ndim) if axis not in old]
    sizes = [shape[place] for place in places]
    flat = jnp.transpose(value, [*old, *others]).reshape(sizes)
    order = sorted(range(len(places)), key=places.__getitem__)
    kept = [size if axis in places else 1 for axis, size in enumerate(shape)]
    return jnp.transpose(flat, order).reshape(kept)


def _filled(like: Any, level: Level) -> Any:
    """The level, or a level for each element of the last axis, in the shape of `like`."""
    return jnp.broadcast_to(jnp.asarray(level, like.dtype), like.shape)
