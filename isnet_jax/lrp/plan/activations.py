"""What an activation is, recognised by what it computes.

An activation is an elementwise nonlinear function of one value. Where it starts and ends is plain
for `tanh(x)`, but not where shifts are part of it: `1 / (1 + exp(-x))` is an activation of x, and
`relu(x + bias)` is one of `x + bias`. So a function whose constants are written in the program is
evaluated on a grid and compared with the activations that people use.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from isnet_jax.lrp.trace.dependence import Flow, is_relu
from isnet_jax.lrp.trace.homogeneity import scaling
from isnet_jax.lrp.trace.jaxpr import Constant, Graph, Operand, Operation, Variable
from isnet_jax.lrp.trace.primitives import facts
from isnet_jax.lrp.trace.reductions import Reductions
from isnet_jax.lrp.trace.shapes import varying_axes


class Activation(NamedTuple):
    """An elementwise function of the value `root`.

    Attributes:
      relu: it is max(root, 0).
      name: of a known function that it is a multiple of, "" if of none.
    """

    root: Variable
    relu: bool = False
    name: str = ""


_DOUBT = (
    "the reciprocal of a statistic is taken for an activation, as it scales nothing that the "
    'statistic is of. If it normalises a value, lrp.mark(the reciprocal, "norm_statistics") says so'
)
_GRID = np.linspace(-6.3, 6.1, 41)
_ALL_SIZES = np.concatenate([sign * np.geomspace(1e-30, 1e30, 61) for sign in (-1, 1)] + [[0.0]])
_ROOTS = 8
_erf = np.vectorize(math.erf, otypes=[float])


def _sigmoid(x: Any) -> Any:
    return 1 / (1 + np.exp(-x))


_KNOWN: Mapping[str, Callable[[Any], Any]] = {
    "relu": lambda x: np.maximum(x, 0),
    "relu6": lambda x: np.clip(x, 0, 6),
    "sigmoid": _sigmoid,
    "mirrored sigmoid": lambda x: _sigmoid(-x),
    "log_sigmoid": lambda x: -np.logaddexp(-x, 0),
    "softplus": lambda x: np.logaddexp(x, 0),
    "silu": lambda x: x * _sigmoid(x),
    "gelu": lambda x: x * (1 + _erf(x / np.sqrt(2))) / 2,
    "gelu (tanh)": lambda x: x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3))) / 2,
    "elu": lambda x: np.where(x > 0, x, np.expm1(np.minimum(x, 0))),
    "hard_tanh": lambda x: np.clip(x, -1, 1),
    "hard_sigmoid": lambda x: np.clip(x + 3, 0, 6) / 6,
    "hard_silu": lambda x: x * np.clip(x + 3, 0, 6) / 6,
    "mish": lambda x: x * np.tanh(np.logaddexp(x, 0)),
    "softsign": lambda x: x / (1 + np.abs(x)),
    "squareplus": lambda x: (x + np.sqrt(x * x + 4)) / 2,
    "tanh": np.tanh,
    "exp": np.exp,
    "log cosh": lambda x: np.logaddexp(x, -x) - np.log(2),
}
_KNOWN_VALUES = {name: values(_GRID) for name, values in _KNOWN.items()}


def find_activation(operation: Operation, flow: Flow) -> Activation | None:
    """The activation that the operation completes, None if it completes none."""
    if not flow.is_elementwise(operation) or len(operation.outputs) != 1:
        return None
    if flow.is_identity(operation):
        return None
    if _only_scales(operation, flow):
        return _mirrored(operation, flow)
    return _known(operation, flow) or _nonlinear(operation, flow)


def doubt(end: Variable, root: Variable, flow: Flow) -> str:
    """Why it is a guess that an elementwise function is an activation, "" if it is none."""
    if not flow.analysis(Reductions).behind(root):
        return ""
    scale = scaling(end, {root}, flow)
    return _DOUBT if scale is not None and not scale.logarithm and scale.degree < 0 else ""


def _mirrored(operation: Operation, flow: Flow) -> Activation | None:
    """`-min(-x, 0)` and `(x + |x|) / 2`: what is scaled is no known function, or not to size."""
    carrying = flow.carrying_inputs(operation)
    producer = flow.made_by(carrying[0]) if len(carrying) == 1 else None
    if producer is None or not flow.is_elementwise(producer):
        return None
    scaled, found = _known(producer, flow), _known(operation, flow)
    if scaled is None or (found is not None and found.relu and not scaled.relu):
        return found
    return None


def _known(operation: Operation, flow: Flow) -> Activation | None:
    """A function that people use, by its values; of several ways to cut it the widest one."""
    (output,) = operation.outputs
    found: Activation | None = None
    for root in flow.elementwise_roots(output)[1 : _ROOTS + 1]:
        try:
            with np.errstate(all="ignore"):
                values = _evaluate(output, root, flow, _GRID)
        except _NotClosedError:
            break
        name, scale = _match(values)
        if name and (found is None or found.name != name):
            found = Activation(root, name == "relu" and abs(scale - 1) < 1e-6, name)
    return found


def _match(values: Any) -> tuple[str, float]:
    """The known function that the values are a positive multiple of, "" if there is none."""
    values = np.broadcast_to(np.asarray(values, float), _GRID.shape)
    if not np.all(np.isfinite(values)):
        return "", 0.0
    for name, known in _KNOWN_VALUES.items():
        scale = float(values @ known / (known @ known))
        if scale > 0 and np.abs(values - scale * known).max() < 3e-7 * np.abs(values).max():
            return name, scale
    return "", 0.0


class _NotClosedError(Exception):
    """The function reads more than its root and numbers in the program."""


def _evaluate(operand: Operand, root: Operand, flow: Flow, grid: Any) -> Any:
    known: dict[Operand, Any] = {root: grid}

    def value(operand: Operand) -> Any:
        if not isinstance(operand, Constant) and operand in known:
            return known[operand]
        number = flow.number(operand)
        if number is None and not isinstance(operand, Constant):
            producer = flow.producer.get(operand)
            if producer is None or not flow.is_elementwise(producer):
                raise _NotClosedError
            number = known[operand] = _apply(producer, operand, value, flow)
        if number is None:
            raise _NotClosedError
        return number

    return value(operand)


def _apply(
    operation: Operation, output: Variable, value: Callable[[Operand], Any], flow: Flow
) -> Any:
    if operation.name == "custom_jvp_call":
        body = flow.bodies(operation)
        inputs = [value(operand) for operand in operation.inputs]
        return _evaluate_body(body, inputs, flow)
    values = facts(operation.name).values
    if values is None:
        raise _NotClosedError
    if len(operation.outputs) > 1:
        return value(operation.inputs[operation.outputs.index(output)])
    return values(operation.params, *map(value, operation.inputs))


def _evaluate_body(body: Graph, inputs: list[Any], flow: Flow) -> Any:
    known: dict[Operand, Any] = dict(zip(body.inputs, inputs, strict=True))
    for operation in body.operations:
        operands = [o.value if isinstance(o, Constant) else known[o] for o in operation.inputs]
        if operation.name == "custom_jvp_call":
            known[operation.outputs[0]] = _evaluate_body(flow.bodies(operation), operands, flow)
            continue
        primitive = facts(operation.name)
        if primitive.values is None:
            raise _NotClosedError
        known[operation.outputs[0]] = primitive.values(operation.params, *operands)
    (output,) = body.outputs
    return output.value if isinstance(output, Constant) else known[output]


def _only_scales(operation: Operation, flow: Flow) -> bool:
    """Whether the operation is a multiple of one value: that belongs to no activation's end."""
    if operation.name == "neg":
        return True
    if operation.name not in ("mul", "div"):
        return False
    numbers = [flow.number(operand) is not None for operand in operation.inputs]
    return numbers[1] or (operation.name == "mul" and numbers[0])


# Functions that nobody knows


def _nonlinear(operation: Operation, flow: Flow) -> Activation | None:
    """The value that the operation is an elementwise nonlinear function of.

    `x * h(x)` and the like are one activation of x; so are activations in a row, such as a
    squared ReLU.
    """
    root = _nearest_root(operation, flow)
    relu = root is not None and is_relu(operation, flow) and root in operation.inputs
    while root is not None:
        producer = flow.producer.get(root)
        before = _nearest_root(producer, flow) if producer is not None else None
        if before is None:
            return Activation(root, relu)
        root, relu = before, False
    return None


def _nearest_root(operation: Operation, flow: Flow) -> Variable | None:
    if not flow.is_elementwise(operation) or flow.is_identity(operation):
        return None
    carrying = flow.carrying_inputs(operation)
    distinct = list(dict.fromkeys(carrying))
    name, shape = operation.name, flow.graph.shape(operation.outputs[0])
    if not distinct or any(flow.graph.shape(v) != shape for v in distinct):
        return None
    if len(distinct) > 1:
        return _of_several(operation, distinct, flow)
    (only,) = distinct
    match name:
        case "mul":
            return only if len(carrying) == 2 else _gated(operation, only, flow)
        case "div":
            return only if operation.inputs[1] == only else _gated(operation, only, flow)
        case "select_n":
            guards = not _chooses(operation, flow) or _guards(operation, only, flow)
            return None if guards else only
        case "max" | "min" if all(map(flow.depends, operation.inputs)):
            return None
    return only if facts(name).passing == "bends" else None


def _of_several(operation: Operation, distinct: list[Variable], flow: Flow) -> Variable | None:
    name = operation.name
    root = flow.common_root(distinct)
    if root is None or name in ("mul", "div", "max", "min", "pow", "rem", "atan2"):
        return root
    if name == "select_n":
        return root if _chooses(operation, flow) or root not in distinct else None
    if name in ("add", "sub", "add_any"):
        return root if root not in distinct and _is_closed(operation, root, flow) else None
    return None


def _chooses(select: Operation, flow: Flow) -> bool:
    """Whether the choice is made element by element, by a value: not by a statistic, or fixed."""
    predicate = select.inputs[0]
    if not flow.depends(predicate):
        return False
    long = {axis for axis, size in enumerate(flow.graph.shape(predicate)) if size != 1}
    repeated = varying_axes(predicate, flow) != long
    return not (repeated and flow.analysis(Reductions).behind(predicate))


def _guards(select: Operation, root: Variable, flow: Flow) -> bool:
    """Whether nothing but NaNs and infinities is replaced."""
    try:
        with np.errstate(all="ignore"):
            values = _evaluate(select.outputs[0], root, flow, _ALL_SIZES)
    except _NotClosedError:
        return False
    return np.array_equal(values, _ALL_SIZES)


def _is_closed(operation: Operation, root: Variable, flow: Flow) -> bool:
    """Whether the operation's value is a function of the root and of numbers alone."""
    try:
        with np.errstate(all="ignore"):
            values = np.asarray(_evaluate(operation.outputs[0], root, flow, _GRID), float)
    except _NotClosedError:
        return False
    second = np.diff(values, 2)
    return not np.abs(second).max() < 1e-9 * (1 + np.abs(values).max())


def _gated(operation: Operation, value: Variable, flow: Flow) -> Variable | None:
    """`x * (x > 0)`: a value times, or over, what compares it only."""
    others = [v for v in flow.depending_inputs(operation) if v != value]
    if len(others) != 1 or flow.carries(others[0]):
        return None
    compared = _compared_with(others[0], flow)
    roots = flow.elementwise_roots(value)
    return next((root for root in roots if compared == {root}), None)


def _compared_with(variable: Variable, flow: Flow) -> set[Variable]:
    """The relevant values that a value without relevance is an elementwise function of."""
    found, stack, seen = set(), [variable], set()
    while stack:
        current = stack.pop()
        if current in seen:
            continue
        seen.add(current)
        producer = flow.producer.get(current)
        if flow.carries(current):
            found.add(current)
        elif (
            producer is None
            or not flow.is_elementwise(producer)
            or producer.name == "stop_gradient"
        ):
            return set()
        else:
            stack.extend(flow.depending_inputs(producer))
    return found
