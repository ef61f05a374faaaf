"""A traced function as a flat program.

Everything that only wraps is opened: `jit`, `jax.checkpoint`, a `scan` or `fori_loop` of one step,
a `cond` whose branches are the same program or whose choice is known. What is computed twice is
computed once; what is split and joined again is the value it was. What is inside a checkpoint is
remembered as a block, so that it is evaluated under a checkpoint again; the branches of any other
`cond` are opened too, and joined by a selection. So the rest of the engine sees one list of
operations. Variables are integers, since one inner jaxpr may be opened twice.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.core import Tracer

from isnet_jax.lrp.trace import primitives
from isnet_jax.lrp.trace.jaxpr import (
    JOIN,
    Block,
    Branches,
    Checkpoint,
    Constant,
    Graph,
    Operand,
    Operation,
    Variable,
    bodies_in,
    is_literal,
    opened,
    operations_of,
    scan_counts,
)
from isnet_jax.lrp.trace.rejoined import same_value

_INLINED = frozenset({"jit", "pjit", "closed_call", "core_call", "custom_lin"})
_CUSTOM = frozenset({"custom_jvp_call", "custom_vjp_call"})
_CHECKPOINTS = frozenset({"remat2", "checkpoint", "remat"})
_EXTREMES = {"reduce_max": lax.max, "reduce_min": lax.min}
_COLLECTIVES = {"psum": "reduce_sum", "pmax": "reduce_max", "pmin": "reduce_min"}


class _Builder:
    def __init__(self, kept: Callable[[str], bool]):
        self.kept = kept
        self.types: dict[Variable, Any] = {}
        self.constants: dict[Variable, Any] = {}
        self.held: dict[int, Variable] = {}
        self.block: Block = []
        self.computed: dict[Any, tuple[Variable, ...]] = {}
        self.makers: dict[Variable, Operation] = {}
        self.callers: list[Any] = []

    def fresh(self, type_: Any) -> Variable:
        variable = len(self.types)
        self.types[variable] = type_
        return variable

    def inline(self, jaxpr: Any, operands: Sequence[Operand]) -> tuple[Operand, ...]:
        variables = [*jaxpr.constvars, *jaxpr.invars]
        known: dict[Any, Operand] = dict(zip(variables, operands, strict=True))

        def read(atom: Any) -> Operand:
            return Constant(atom.val) if is_literal(atom) else known[atom]

        for equation in jaxpr.eqns:
            inputs = tuple(read(atom) for atom in equation.invars)
            known.update(zip(equation.outvars, self._equation(equation, inputs), strict=True))
        return tuple(read(atom) for atom in jaxpr.outvars)

    def _equation(self, equation: Any, inputs: tuple[Operand, ...]) -> tuple[Operand, ...]:
        name, params = equation.primitive.name, equation.params
        if self.kept(str(params.get("name", ""))) and name != "name":
            return self._append(equation, inputs, str(params["name"]))
        if name in _INLINED:
            return self._opened(equation, _body(params), inputs)
        if name in _CHECKPOINTS:
            return self._checkpoint(equation, inputs)
        if name == "cond":
            return self._cond(equation, inputs)
        if name == "scan" and params["length"] == 1:
            return self._one_step(equation, inputs)
        if name == "dot_general" and _contracts_nothing(equation):
            return self._elementwise_product(equation, inputs)
        if name in _COLLECTIVES and _is_positional(params):
            return self._reduced(equation, inputs, _COLLECTIVES[name])
        if name in _EXTREMES:
            pair = self._stacked_pair(equation, inputs[0])
            if pair:
                shape = equation.outvars[0].aval.shape
                run = _EXTREMES[name]
                return (self._step(equation, name.removeprefix("reduce_"), pair, shape, {}, run),)
        if name == "gather" and self._takes_all(equation, inputs):
            axes = tuple(params["dimension_numbers"].collapsed_slice_dims)
            return (self._squeezed(equation, inputs[0], axes),)
        if name == "argmax" and self._is_boolean(inputs[0]):
            pair = self._stacked_pair(equation, inputs[0])
            if pair:
                return (self._first_of_pair(equation, *pair),)
        return self._append(equation, inputs, name)

    def _takes_all(self, equation: Any, inputs: tuple[Operand, ...]) -> bool:
        """Whether a fixed index takes the only element of each axis that it indexes."""
        operand, index = inputs
        numbers = equation.params["dimension_numbers"]
        whole = equation.params["slice_sizes"] == self.shape(operand)
        in_order = list(numbers.offset_dims) == list(range(len(equation.outvars[0].aval.shape)))
        return whole and in_order and not numbers.operand_batching_dims and self._is_fixed(index)

    def _is_fixed(self, operand: Operand) -> bool:
        """Whether a value is computed from what the program holds alone."""
        stack, seen = [operand], set()
        while stack:
            current = stack.pop()
            if isinstance(current, Constant) or current in self.constants or current in seen:
                continue
            seen.add(current)
            maker = self.makers.get(current)
            if maker is None:
                return False
            stack.extend(maker.inputs)
        return True

    def _is_boolean(self, operand: Operand) -> bool:
        return not isinstance(operand, Constant) and self.types[operand].dtype == bool

    def _first_of_pair(self, equation: Any, first: Operand, second: Operand) -> Operand:
        """Which of two conditions is the first to hold, as `jnp.select` asks: 0 or 1."""
        (output,) = equation.outvars
        shape, dtype = output.aval.shape, output.aval.dtype
        failed = self._step(equation, "not", (first,), shape, {}, lax.bitwise_not)
        only = self._step(equation, "and", (failed, second), shape, {}, lax.bitwise_and)
        run, params = partial(lax.convert_element_type, new_dtype=dtype), {"new_dtype": dtype}
        return self._step(equation, "convert_element_type", (only,), shape, params, run, dtype)

    def _opened(self, equation: Any, body: Any, inputs: Sequence[Operand]) -> tuple[Operand, ...]:
        self.callers.append(equation.source_info)
        jaxpr, consts = opened(body)
        captured = [self.captured(value) for value in consts]
        outputs = self.inline(jaxpr, [*captured, *inputs])
        self.callers.pop()
        return outputs

    def captured(self, value: Any) -> Variable:
        """The variable for a value that the program holds."""
        if id(value) not in self.held:
            variable = self.held[id(value)] = self.fresh(jax.typeof(value))
            self.constants[variable] = value
        return self.held[id(value)]

    def _inside(self, run: Callable[[], Any]) -> tuple[Any, Block]:
        outer, self.block = (self.block, self.computed), []
        self.computed = {}
        result = run()
        block, (self.block, self.computed) = self.block, outer
        return result, block

    def _checkpoint(self, equation: Any, inputs: tuple[Operand, ...]) -> tuple[Operand, ...]:
        params = equation.params
        outputs, block = self._inside(lambda: self._opened(equation, params["jaxpr"], inputs))
        flags = params["prevent_cse"]
        prevent = flags if isinstance(flags, bool) else any(flags)
        if block:
            self.block.append(Checkpoint(block, params["policy"], prevent))
        return outputs

    def _cond(self, equation: Any, inputs: tuple[Operand, ...]) -> tuple[Operand, ...]:
        index, *operands = inputs
        branches = equation.params["branches"]
        if isinstance(index, Constant):
            chosen = int(np.clip(int(index.value), 0, len(branches) - 1))
            return self._opened(equation, branches[chosen], operands)
        if _same_programs(branches):
            return self._opened(equation, branches[0], operands)
        built = [
            self._inside(lambda body=body: self._opened(equation, body, operands))
            for body in branches
        ]
        results, joins = [], []
        for position, variable in enumerate(equation.outvars):
            chosen = [outputs[position] for outputs, _ in built]
            if all(operand == chosen[0] for operand in chosen):
                results.append(chosen[0])  # every branch hands the same value through
                continue
            output = self.fresh(variable.aval)
            inputs = (index, *chosen)
            joins.append(self._operation(JOIN, inputs, (output,), {}, equation, _joined))
            results.append(output)
        self.block.append(Branches(index, tuple(block for _, block in built), tuple(joins)))
        return tuple(results)

    def _elementwise_product(
        self, equation: Any, inputs: tuple[Operand, ...]
    ) -> tuple[Operand, ...]:
        """A product that sums nothing multiplies element by element: batch, left, right axes."""
        (_, batched), (output,) = equation.params["dimension_numbers"], equation.outvars
        ranks = [len(self.shape(operand)) for operand in inputs]
        free = [[a for a in range(ranks[s]) if a not in batched[s]] for s in (0, 1)]
        offsets = (len(batched[0]), len(batched[0]) + len(free[0]))
        factors = []
        for side, operand in enumerate(inputs):
            order = (*batched[side], *free[side])
            kept = (*range(len(batched[0])), *(offsets[side] + i for i in range(len(free[side]))))
            turned = self._step(
                equation,
                "transpose",
                (operand,),
                [self.shape(operand)[a] for a in order],
                {"permutation": order},
                partial(lax.transpose, permutation=order),
            )
            factors.append(
                self._step(
                    equation,
                    "broadcast_in_dim",
                    (turned,),
                    output.aval.shape,
                    {"shape": output.aval.shape, "broadcast_dimensions": kept},
                    partial(
                        lax.broadcast_in_dim, shape=output.aval.shape, broadcast_dimensions=kept
                    ),
                )
            )
        return (self._step(equation, "mul", tuple(factors), output.aval.shape, {}, lax.mul),)

    def _reduced(
        self, equation: Any, inputs: tuple[Operand, ...], name: str
    ) -> tuple[Operand, ...]:
        """A collective over axes of `jax.vmap` is a reduction."""
        params, bind = {"axes": tuple(equation.params["axes"])}, _binder(equation, None)

        def run(value: Any) -> Any:
            return bind(value)[0]

        return tuple(
            self._step(equation, name, (operand,), variable.aval.shape, params, run)
            for operand, variable in zip(inputs, equation.outvars, strict=True)
        )

    def _stacked_pair(self, equation: Any, stacked: Operand) -> tuple[Operand, ...]:
        """The two values that are stacked along the axis that is reduced, () if there are none."""
        maker = None if isinstance(stacked, Constant) else self.makers.get(stacked)
        if maker is None or len(maker.inputs) != 2 or len(equation.params["axes"]) != 1:
            return ()
        (axis,) = equation.params["axes"]
        if maker.name == "stack" and maker.params["axis"] == axis:
            return maker.inputs
        if maker.name != "concatenate" or maker.params["dimension"] != axis:
            return ()
        if self.shape(stacked)[axis] != 2:
            return ()
        return tuple(self._squeezed(equation, piece, (axis,)) for piece in maker.inputs)

    def _squeezed(self, equation: Any, operand: Operand, axes: tuple[int, ...]) -> Operand:
        shape = [size for axis, size in enumerate(self.shape(operand)) if axis not in axes]
        run = partial(lax.squeeze, dimensions=axes)
        return self._step(equation, "squeeze", (operand,), shape, {"dimensions": axes}, run)

    def _step(
        self,
        equation: Any,
        name: str,
        inputs: tuple[Operand, ...],
        shape: Sequence[int],
        params: Mapping[str, Any],
        run: Callable[..., Any],
        dtype: Any = None,
    ) -> Operand:
        """An operation that stands for a part of an equation; `dtype`: not that of its inputs."""
        same = same_value(name, inputs, params, tuple(shape), self.makers, self.shape)
        if (
            same is None
            and name == "transpose"
            and list(params["permutation"]) == sorted(params["permutation"])
        ):
            same = inputs[0]
        if same is not None:
            return same
        (first, *_) = inputs
        like = first.value if isinstance(first, Constant) else self.types[first]
        output = self.fresh(jax.ShapeDtypeStruct(tuple(shape), dtype or like.dtype))
        step = self._operation(
            name, inputs, (output,), params, equation, lambda *values: (run(*values),)
        )
        self.makers[output] = step
        self.block.append(step)
        return output

    def _one_step(self, equation: Any, inputs: tuple[Operand, ...]) -> tuple[Operand, ...]:
        constants, carried = scan_counts(equation.params)
        start = constants + carried
        slices = [self._squeezed(equation, operand, (0,)) for operand in inputs[start:]]
        body = equation.params["jaxpr"]
        outputs = self._opened(equation, body, [*inputs[:start], *slices])
        stacked = [
            self._with_leading_axis(equation, operand, variable.aval)
            for operand, variable in zip(outputs[carried:], equation.outvars[carried:], strict=True)
        ]
        return (*outputs[:carried], *stacked)

    def _with_leading_axis(self, equation: Any, operand: Operand, type_: Any) -> Operand:
        params = {"shape": type_.shape, "broadcast_dimensions": tuple(range(1, len(type_.shape)))}
        run = partial(lax.expand_dims, dimensions=(0,))
        return self._step(equation, "broadcast_in_dim", (operand,), type_.shape, params, run)

    def _append(
        self, equation: Any, inputs: tuple[Operand, ...], name: str
    ) -> tuple[Variable, ...]:
        if len(equation.outvars) == 1:
            shape = tuple(equation.outvars[0].aval.shape)
            same = same_value(name, inputs, equation.params, shape, self.makers, self.shape)
            if same is not None:
                return (same,)
        key = _key(equation, inputs) if name in primitives.TABLE else None
        if key in self.computed:
            return self.computed[key]
        outputs = tuple(self.fresh(variable.aval) for variable in equation.outvars)
        if key is not None:
            self.computed[key] = outputs
        params, inner, bodies = equation.params, _only_equation(equation), ()
        if inner is not None:
            name, params = inner.primitive.name, inner.params
        elif name not in primitives.TABLE or name == "custom_jvp_call":
            bodies = bodies_in(params)
            if (
                name == "custom_jvp_call" and not is_elementwise(equation)
            ) or name == "custom_vjp_call":
                name = "custom_derivative"
        run = _binder(equation, inner)
        operation = self._operation(name, inputs, outputs, params, equation, run, bodies)
        self.makers.update((output, operation) for output in outputs)
        self.block.append(operation)
        return outputs

    def shape(self, operand: Operand) -> tuple[int, ...]:
        if isinstance(operand, Constant):
            return jnp.shape(operand.value)
        return tuple(self.types[operand].shape)

    def _operation(self, name, inputs, outputs, params, equation, run, inner=()) -> Operation:
        info = equation.source_info
        places = (info, *reversed(self.callers))
        own, scope = equation.primitive.name in _CUSTOM, str(info.name_stack)
        return Operation(name, inputs, outputs, params, scope, run, inner, places, own)


def _binder(equation: Any, inner: Any | None) -> Callable[..., tuple[Any, ...]]:
    """On values of other shapes than the program's, a layer that has its own derivative is its
    primitive."""
    shapes = [variable.aval.shape for variable in equation.invars] if inner is not None else None

    def run(*values: Any) -> tuple[Any, ...]:
        other = shapes is not None and [jnp.shape(value) for value in values] != shapes
        chosen = inner if other and inner is not None else equation
        parameters = chosen.primitive.get_bind_params(chosen.params)
        with chosen.ctx.manager:
            result = chosen.primitive.bind(*values, **parameters)
        return tuple(result) if chosen.primitive.multiple_results else (result,)

    return run


def _key(equation: Any, inputs: tuple[Operand, ...]) -> Any:
    """The same for equations that compute the same; None: nothing is known to be."""
    operands = tuple(map(_identity, inputs))
    key = (equation.primitive.name, operands, tuple(sorted(equation.params.items())))
    try:
        hash(key)
    except TypeError:
        return None
    return key


def _identity(operand: Operand) -> Any:
    if not isinstance(operand, Constant):
        return operand
    if isinstance(operand.value, Tracer):
        return ("traced", id(operand.value))
    value = np.asarray(operand.value)
    return (str(value.dtype), value.shape, value.tobytes())


def _contracts_nothing(equation: Any) -> bool:
    contracted, _ = equation.params["dimension_numbers"]
    types = {variable.aval.dtype for variable in (*equation.invars, *equation.outvars)}
    return not contracted[0] and len(types) == 1


def _joined(index: Any, *values: Any) -> tuple[Any, ...]:
    """A join on other values than the program's; the program's own come from its branches."""
    return (lax.switch(index, [lambda value=value: value for value in values]),)


def _body(params: Mapping[str, Any]) -> Any:
    return params["jaxpr" if "jaxpr" in params else "call_jaxpr"]


def _is_positional(params: Mapping[str, Any]) -> bool:
    """Whether a collective is over axes of arrays alone, as `jax.vmap` leaves it."""
    groups = params.get("axis_index_groups")
    return groups is None and all(isinstance(axis, int) for axis in params["axes"])


def _same_programs(branches: Sequence[Any]) -> bool:
    jaxprs, constants = zip(*map(opened, branches), strict=True)
    if len({len(jaxpr.eqns) for jaxpr in jaxprs}) > 1 or any(map(len, constants)):
        return False
    return len({str(jaxpr) for jaxpr in jaxprs}) == 1


def _only_equation(equation: Any) -> Any | None:
    """The layer that a `custom_vjp` consists of: one with its own derivative, a lowering.

    What is said of a layer's primitive is true of it.
    """
    if equation.primitive.name != "custom_vjp_call":
        return None
    body, _ = opened(equation.params["call_jaxpr"])
    if len(body.eqns) != 1 or body.constvars:
        return None
    (inner,) = body.eqns
    same = inner.invars == body.invars and inner.outvars == body.outvars
    return inner if same and inner.primitive.name in primitives.LAYERS else None


def is_elementwise(equation: Any) -> bool:
    """Whether a `custom_jvp_call` maps its inputs element by element, as `jax.nn.relu` does."""
    (output,) = equation.outvars if len(equation.outvars) == 1 else (None,)
    if output is None or any(v.aval.shape not in ((), output.aval.shape) for v in equation.invars):
        return False
    body = build(equation.params["call_jaxpr"], lambda name: False)
    return all(operation.name in primitives.ELEMENTWISE for operation in body.operations)


def build(body: Any, kept: Callable[[str], bool]) -> Graph:
    """The flat program of a jaxpr."""
    jaxpr, constants = opened(body)
    builder = _Builder(kept)
    captured = [builder.captured(value) for value in constants]
    inputs = tuple(builder.fresh(variable.aval) for variable in jaxpr.invars)
    outputs = builder.inline(jaxpr, [*captured, *inputs])
    operations = tuple(operations_of(builder.block))
    return Graph(inputs, outputs, builder.block, operations, builder.types, builder.constants)


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
    return build(closed, kept), shapes


def body_of(operation: Operation, kept: Callable[[str], bool]) -> Graph:
    """The flat program of an operation's only body."""
    (body,) = operation.inner
    return build(body, kept)
