"""Evaluation in NumPy, op by op: XLA would spend seconds on compiling every drawn program.

It is also independent of XLA. Operations that are not in the table are run by JAX.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import scipy.special
from jax.extend.core import ClosedJaxpr, Literal

_BODIES = ("jaxpr", "call_jaxpr", "fun_jaxpr")
_LETTERS = "abcdefghijklmnopqrstuvwxyz"


class Traced:
    """A function traced as under jit, and run without being compiled."""

    def __init__(self, f: Callable[..., Any], *arguments: Any):
        self._closed, self._shapes = jax.make_jaxpr(f, return_shape=True)(*arguments)

    def __call__(self, *arguments: Any) -> Any:
        with np.errstate(all="ignore"):
            results = _run(self._closed, [np.asarray(leaf) for leaf in jax.tree.leaves(arguments)])
        return jax.tree.unflatten(jax.tree.structure(self._shapes), results)

    def only(self, name: str) -> Callable[..., Any]:
        """One of the arrays that it gives by name, by no more operations than that takes."""
        places = [path for path, _ in jax.tree_util.tree_flatten_with_path(self._shapes)[0]]
        number = places.index((jax.tree_util.DictKey(name),))
        results = self._closed.jaxpr.outvars[number : number + 1]
        equations = _needed(self._closed.jaxpr.eqns, results)

        def run(*arguments):
            inputs = [np.asarray(leaf) for leaf in jax.tree.leaves(arguments)]
            with np.errstate(all="ignore"):
                return _values(self._closed, equations, results, inputs)[0]

        return run


def _needed(equations, results) -> list[Any]:
    needed, kept = {*map(id, results)}, []
    for equation in reversed(equations):
        if not needed.isdisjoint(map(id, equation.outvars)):
            kept.append(equation)
            needed.update(map(id, equation.invars))
    return kept[::-1]


def _run(body, inputs) -> list[Any]:
    closed = body if isinstance(body, ClosedJaxpr) else ClosedJaxpr(body, ())
    return _values(closed, closed.jaxpr.eqns, closed.jaxpr.outvars, inputs)


def _values(closed, equations, results, inputs) -> list[Any]:
    """Of these results, by these of the equations."""
    variables = (*closed.jaxpr.constvars, *closed.jaxpr.invars)
    values = dict(zip(variables, (*map(np.asarray, closed.consts), *inputs), strict=True))

    def read(v):
        return np.asarray(v.val) if isinstance(v, Literal) else values[v]

    for equation in equations:
        outputs = _equation(equation, [read(v) for v in equation.invars])
        values.update(zip(equation.outvars, outputs, strict=True))
    return [read(v) for v in results]


def _equation(equation, inputs) -> list[Any]:
    primitive, params = equation.primitive, equation.params
    name = primitive.name
    if name in _MANY:
        return list(_MANY[name](params, *inputs))
    if name in _ONE:
        return [_ONE[name](*inputs)]
    if name in _WITH_PARAMETERS:
        return [_WITH_PARAMETERS[name](params, *inputs)]
    if name == "cond":
        return _run(params["branches"][int(inputs[0])], inputs[1:])
    if name == "scan" and "num_consts" in params:
        return _scan(params, inputs)
    body = next((params[key] for key in _BODIES if key in params), None)
    if body is not None and name not in ("scan", "while", "reduce"):
        return _run(body, inputs)
    outputs = primitive.bind(*inputs, **params)
    return [np.asarray(a) for a in (outputs if primitive.multiple_results else [outputs])]


def _scan(params, inputs):
    count, carried = params["num_consts"], params["num_carry"]
    consts, carry = inputs[:count], list(inputs[count : count + carried])
    stacked, steps = inputs[count + carried :], []
    order = range(params["length"])
    for i in reversed(order) if params["reverse"] else order:
        outputs = _run(params["jaxpr"], [*consts, *carry, *(a[i] for a in stacked)])
        carry = outputs[:carried]
        steps.append(outputs[carried:])
    if params["reverse"]:
        steps.reverse()
    return [*carry, *map(np.stack, zip(*steps, strict=True))]


def _logistic(x):
    return 1 / (1 + np.exp(-x))


def _select(which, *cases):
    return np.where(which, cases[1], cases[0]) if len(cases) == 2 else np.choose(which, cases)


_ONE: dict[str, Callable[..., Any]] = {
    **{name: getattr(np, name) for name in ("exp", "exp2", "expm1", "log", "log1p", "tanh")},
    **{name: getattr(np, name) for name in ("sqrt", "cbrt", "sign", "floor", "ceil", "square")},
    **{name: getattr(np, name) for name in ("sinh", "cosh", "sin", "cos", "abs", "real", "imag")},
    "erf": scipy.special.erf,
    "erfc": scipy.special.erfc,
    "logistic": _logistic,
    "rsqrt": lambda x: 1 / np.sqrt(x),
    "neg": np.negative,
    "is_finite": np.isfinite,
    "not": np.logical_not,
    "and": np.bitwise_and,
    "or": np.bitwise_or,
    "add": np.add,
    "add_any": np.add,
    "sub": np.subtract,
    "mul": np.multiply,
    "div": lambda a, b: a / b if np.issubdtype(a.dtype, np.inexact) else a // b,
    "max": np.maximum,
    "min": np.minimum,
    "pow": np.power,
    "complex": lambda a, b: a + 1j * b,
    "conj": np.conj,
    "eq": np.equal,
    "ne": np.not_equal,
    "lt": np.less,
    "le": np.less_equal,
    "gt": np.greater,
    "ge": np.greater_equal,
    "select_n": _select,
    "clamp": lambda low, x, high: np.clip(x, low, high),
}


def _broadcast(params, x):
    shape = [1] * len(params["shape"])
    for axis, size in zip(params["broadcast_dimensions"], x.shape, strict=True):
        shape[axis] = size
    return np.broadcast_to(x.reshape(shape), params["shape"])


def _slice(params, x):
    steps = params["strides"] or (1,) * x.ndim
    bounds = zip(params["start_indices"], params["limit_indices"], steps, strict=True)
    return x[tuple(slice(*bound) for bound in bounds)]


def _pad(params, x, value):
    shape = [
        low + high + size + max(size - 1, 0) * between
        for size, (low, high, between) in zip(x.shape, params["padding_config"], strict=True)
    ]
    result = np.full(shape, value, x.dtype)
    target, source = [], []
    for size, (low, _, between), full in zip(x.shape, params["padding_config"], shape, strict=True):
        at = low + np.arange(size) * (between + 1)
        inside = (at >= 0) & (at < full)
        target.append(at[inside])
        source.append(np.arange(size)[inside])
    result[np.ix_(*target)] = x[np.ix_(*source)]
    return result


def _iota(params):
    shape = [1] * len(params["shape"])
    shape[params["dimension"]] = -1
    along = np.arange(params["shape"][params["dimension"]], dtype=params["dtype"])
    return np.broadcast_to(along.reshape(shape), params["shape"])


def _dot(params, a, b):
    (contracted, batched) = params["dimension_numbers"]
    letters = iter(_LETTERS)
    names = [[""] * a.ndim, [""] * b.ndim]
    for left, right in (batched, contracted):
        for i, j in zip(left, right, strict=True):
            names[0][i] = names[1][j] = next(letters)
    batch = [names[0][i] for i in batched[0]]
    free = [[], []]
    for side in (0, 1):
        for axis, letter in enumerate(names[side]):
            if not letter:
                names[side][axis] = next(letters)
                free[side].append(names[side][axis])
    result = "".join((*batch, *free[0], *free[1]))
    return np.einsum(f"{''.join(names[0])},{''.join(names[1])}->{result}", a, b)


def _reduce(function):
    return lambda params, x: function(x, axis=tuple(params["axes"]))


_WITH_PARAMETERS: dict[str, Callable[..., Any]] = {
    "broadcast_in_dim": _broadcast,
    "slice": _slice,
    "pad": _pad,
    "iota": _iota,
    "dot_general": _dot,
    "reshape": lambda params, x: x.reshape(params["new_sizes"]),
    "squeeze": lambda params, x: np.squeeze(x, tuple(params["dimensions"])),
    "expand_dims": lambda params, x: np.expand_dims(x, tuple(params["dimensions"])),
    "transpose": lambda params, x: x.transpose(params["permutation"]),
    "rev": lambda params, x: np.flip(x, params["dimensions"]),
    "concatenate": lambda params, *xs: np.concatenate(xs, params["dimension"]),
    "convert_element_type": lambda params, x: x.astype(params["new_dtype"]),
    "integer_pow": lambda params, x: x ** float(params["y"]),
    "reduce_sum": _reduce(np.sum),
    "reduce_max": _reduce(np.max),
    "reduce_min": _reduce(np.min),
    "reduce_prod": _reduce(np.prod),
    "reduce_and": _reduce(np.all),
    "reduce_or": _reduce(np.any),
}

# Those that change nothing here, and those of several results.
_MANY: dict[str, Callable[..., Any]] = {
    **dict.fromkeys(
        ("copy", "copy_p", "name", "reduce_precision", "optimization_barrier", "device_put"),
        lambda params, *xs: xs,
    ),
    "split": lambda params, x: np.split(x, np.cumsum(params["sizes"])[:-1], params["axis"]),
}
