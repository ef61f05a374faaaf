"""A layer as rules see it: what follows it folded into its weights, its input traced back."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from isnet_jax.lrp import _facts
from isnet_jax.lrp._jaxpr import Constant, Operand, Operation, Variable
from isnet_jax.lrp._sites import Plan, Site, weight_axes
from isnet_jax.lrp.rules import Layer, RelevanceRule

_AFFINE: dict[str, Callable[[Any, Any], Any]] = {
    "add": jnp.add,
    "sub": jnp.subtract,
    "mul": jnp.multiply,
    "div": jnp.divide,
}


class Folding:
    """Reads the values of one evaluation; computes only what a rule asks for."""

    def __init__(
        self, plan: Plan, values: Mapping[Variable, Any], carriers: Mapping[Variable, Any]
    ):
        self.graph = plan.graph
        self.flow = plan.flow
        self.first_sources = plan.first_sources
        self.values = values
        self.carriers = carriers

    def layer(self, site: Site, rule: RelevanceRule) -> tuple[Layer, Callable[..., Any]]:
        """The folded layer, its `apply` apart: it is a function, the rest are arrays."""
        operation, x = site.operation, site.route
        assert x is not None
        side = 1 - operation.inputs.index(x)
        weight = self._read(operation.inputs[side])
        output = operation.outputs[0]
        axes = weight_axes(operation, self.flow)
        shape = self.graph.shape(output)
        unit = jnp.ones(
            [size if axis in axes else 1 for axis, size in enumerate(shape)],
            self.values[output].dtype,
        )
        bias = self._through_tail(site, jnp.zeros_like(unit))
        factor = self._through_tail(site, unit) - bias
        kernel = [1] * weight.ndim
        for axis, kernel_axis in axes.items():
            kernel[kernel_axis] = shape[axis]
        order = sorted(axes, key=lambda axis: axes[axis])
        per_kernel = jnp.transpose(
            factor, [*order, *(axis for axis in range(factor.ndim) if axis not in axes)]
        ).reshape(kernel)

        def apply(x: Any, weight: Any) -> Any:
            return operation.bind(*((x, weight) if side == 1 else (weight, x)))[0]

        layer = Layer(
            x=self.values[x],
            weight=weight * per_kernel,
            bias=bias,
            z=factor * self.values[output] + bias,
            low=self._bound(operation, x, rule.low),
            high=self._bound(operation, x, rule.high),
        )
        return layer, apply

    def carrier(self, variable: Variable) -> Any:
        """The input's carrier, moved as the user's program moves the input to `variable`."""
        if variable in self.carriers:
            return self.carriers[variable]
        producer = self.flow.producer[variable]
        moved = {v: self.carrier(v) for v in self.flow.carrying_inputs(producer)}
        if producer.name in _AFFINE or producer.name in _facts.IDENTITIES:
            (value,) = set(moved.values()) if len(moved) == 1 else (None,)
            return value
        like = next(iter(moved.values())).dtype
        operands = [
            moved[o] if o in moved else _cast_floats(self._read(o), like) for o in producer.inputs
        ]
        return producer.bind(*operands)[producer.outputs.index(variable)]

    def _read(self, operand: Operand) -> Any:
        return operand.value if isinstance(operand, Constant) else self.values[operand]

    # The tail

    def _through_tail(self, site: Site, value: Any) -> Any:
        """What the operations after the layer make of a value that is constant per channel.

        Biases and statistics enter as constants of the outer gradient.
        """
        current = site.operation.outputs[0]
        for operation in site.tail:
            if operation.name in _AFFINE:
                additive = operation.name in ("add", "sub")
                operands = [
                    value if operand == current else self._per_channel(operand, value.ndim, additive)
                    for operand in operation.inputs
                ]
                value = _AFFINE[operation.name](*operands)
            elif operation.name == "convert_element_type":
                value = value.astype(operation.params["new_dtype"])
            current = operation.outputs[0]
        return value

    def _per_channel(self, operand: Operand, rank: int, constant: bool) -> Any:
        producer = None if isinstance(operand, Constant) else self.flow.producer.get(operand)
        if producer is not None and producer.name == "broadcast_in_dim":
            constant = constant or operand in self.flow.statistics
            source = self._frozen(producer.inputs[0], constant)
            shape = [1] * rank
            for axis, size in zip(
                producer.params["broadcast_dimensions"], source.shape, strict=True
            ):
                shape[axis] = size
            value = source.reshape(shape)
        else:
            value = self._frozen(operand, constant)
        return lax.stop_gradient(value) if constant else value

    def _frozen(self, operand: Operand, constant: bool) -> Any:
        """The operand's value with the statistics in it constant."""
        if isinstance(operand, Constant) or constant or operand not in self.flow.depending:
            return self._read(operand)
        if operand in self.flow.statistics:
            return lax.stop_gradient(self.values[operand])
        producer = self.flow.producer[operand]
        values = [self._frozen(o, constant) for o in producer.inputs]
        return producer.bind(*values)[producer.outputs.index(operand)]

    # The input's range

    def _bound(self, operation: Operation, x: Variable, level: float) -> Any | None:
        """The layer's input where the model's input is `level` everywhere; None if it is zero."""
        if x not in self.first_sources:
            return None if level == 0 and self._only_moved(x) else self._at_level(x, level)
        if level == 0:
            return None
        shape = list(self.graph.shape(x))
        if operation.name == "conv_general_dilated":
            shape[operation.params["dimension_numbers"].lhs_spec[0]] = 1
        else:
            side = operation.inputs.index(x)
            contracted, batched = operation.params["dimension_numbers"]
            kept = (*contracted[side], *batched[side])
            shape = [size if axis in kept else 1 for axis, size in enumerate(shape)]
        return jnp.full(shape, level, self.values[x].dtype)

    def _only_moved(self, variable: Variable) -> bool:
        if variable in self.first_sources:
            return True
        producer = self.flow.producer[variable]
        return producer.name not in _AFFINE and all(
            map(self._only_moved, self.flow.carrying_inputs(producer))
        )

    def _at_level(self, variable: Variable, level: float) -> Any:
        if variable in self.first_sources:
            return jnp.full_like(self.values[variable], level)
        producer = self.flow.producer[variable]
        operands = [
            self._at_level(o, level) if self.flow.carries(o) else self._read(o)
            for o in producer.inputs
        ]
        return producer.bind(*operands)[producer.outputs.index(variable)]


def _cast_floats(value: Any, dtype: Any) -> Any:
    value = jnp.asarray(value)
    return value.astype(dtype) if jnp.issubdtype(value.dtype, jnp.inexact) else value


def redistribute(
    rule: RelevanceRule, apply: Callable[..., Any], residuals: tuple[Layer, Any], g: Any
) -> Any:
    """The pullback of a relevance rule: G at the layer's output to relevance at its input."""
    layer, value = residuals
    dtype = jnp.promote_types(value.dtype, jnp.float32)
    relevance = value.astype(dtype) * g.astype(dtype)
    result = rule.redistribute(layer, apply, relevance)
    return result.astype(dtype)


jax.tree_util.register_dataclass(Layer)
