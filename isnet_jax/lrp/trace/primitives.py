"""What LRP has to know of JAX's primitives: one table, one line an operation.

A new primitive is one entry of `TABLE`. What `Primitive` says of it is all the engine knows.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any, Literal

import numpy as np

Passing = Literal[
    "moves", "sums", "solves", "wins", "bends", "layer", "multiplies", "divides", "selects"
]


@dataclasses.dataclass(frozen=True)
class Primitive:
    """Facts about one primitive.

    Attributes:
      passing: how relevance passes: values are only moved ("moves": the plain VJP, and relevance
        itself moves the same way), summed ("sums": the plain VJP shares in proportion; "solves":
        likewise from the last operand, the right side of equations with constant factors), compared
        ("wins"), bent one by one ("bends": an activation), or one of the operations that the
        planner looks at itself. None: relevance cannot pass.
      elementwise: out[i] depends on in[i] only, after broadcasting of axes of size one.
      identity: each output is the input at its place, unchanged in value and shape.
      shaping: no element is lost or repeated, but for broadcasting.
      reduces: sums or compares elements along axes.
      sign: "never": not negative whatever the input; "keeps": not negative where no operand is.
      values: the operation on NumPy arrays, for elementwise ones: `(params, *operands)`.
    """

    passing: Passing | None = None
    elementwise: bool = False
    identity: bool = False
    shaping: bool = False
    reduces: bool = False
    sign: Literal["never", "keeps"] | None = None
    values: Callable[..., Any] | None = None


_MOVES = Primitive("moves", sign="keeps")
_MOVES_INDEXED = Primitive("moves")
_SHAPES = Primitive("moves", shaping=True, sign="keeps")
_SUMS = Primitive("sums")
_WINS = Primitive("wins")


def _same(values: Callable[..., Any] = lambda params, x: x) -> Primitive:
    return Primitive("moves", elementwise=True, identity=True, sign="keeps", values=values)


def _bends(values: Callable[..., Any] | None = None, sign: Any = None) -> Primitive:
    apply = None if values is None else (lambda params, *operands: values(*operands))
    return Primitive("bends", elementwise=True, sign=sign, values=apply)


def _compares(values: Callable[..., Any]) -> Primitive:
    return Primitive(None, elementwise=True, values=lambda params, *operands: values(*operands))


def _binary(passing: Passing, values: Callable[..., Any], sign: Any = None) -> Primitive:
    return Primitive(passing, True, sign=sign, values=lambda params, *operands: values(*operands))


_erf = np.vectorize(math.erf, otypes=[float])


def _cast(params: Mapping[str, Any], x: Any) -> Any:
    floating = np.issubdtype(np.dtype(params["new_dtype"]), np.inexact)
    return np.asarray(x, float) if floating else np.asarray(x, params["new_dtype"])


TABLE: dict[str, Primitive] = {
    # Values are moved.
    "reshape": _SHAPES,
    "transpose": _SHAPES,
    "broadcast_in_dim": _SHAPES,
    "squeeze": _SHAPES,
    "expand_dims": _SHAPES,
    "rev": _MOVES,
    "slice": _MOVES,
    "pad": _MOVES,
    "concatenate": _MOVES,
    "split": _MOVES,
    "stack": _MOVES,
    "unstack": _MOVES,
    "tile": _MOVES,
    "roll": _MOVES,
    "gather": _MOVES_INDEXED,
    "dynamic_slice": _MOVES_INDEXED,
    "conj": _MOVES_INDEXED,
    "convert_element_type": _same(_cast),
    "reduce_precision": _same(),
    "copy": _same(),
    "copy_p": _same(),
    "name": _same(),
    "sharding_constraint": _same(),
    "mesh_cast": _same(),
    "reshard": _same(),
    "pvary": _same(),
    "pcast": _same(),
    "optimization_barrier": _same(),
    "device_put": _same(),
    # Values are summed.
    "add": _binary("sums", np.add, "keeps"),
    "add_any": _binary("sums", np.add, "keeps"),
    "sub": _binary("sums", np.subtract),
    "neg": _binary("sums", np.negative),
    "reduce_sum": Primitive("sums", reduces=True, sign="keeps"),
    "psum": Primitive("sums", reduces=True),
    "psum_invariant": Primitive("sums", reduces=True),
    "pmean": Primitive("sums", reduces=True),
    "cumsum": Primitive("sums", reduces=True, sign="keeps"),
    "cumlogsumexp": Primitive(None),
    "reduce_window_sum": Primitive("sums", reduces=True, sign="keeps"),
    "all_gather": _SUMS,
    "reduce_scatter": _SUMS,
    "all_to_all": _SUMS,
    "ppermute": _SUMS,
    "scatter": _SUMS,
    "scatter-add": _SUMS,
    "scatter_add": _SUMS,
    "scatter-sub": _SUMS,
    "scatter_sub": _SUMS,
    "dynamic_update_slice": _SUMS,
    "real": _SUMS,
    "imag": _SUMS,
    "complex": _SUMS,
    "fft": _SUMS,
    "triangular_solve": Primitive("solves"),
    "custom_linear_solve": Primitive("solves"),
    # The winner takes all.
    "reduce_max": Primitive("wins", reduces=True, sign="keeps"),
    "reduce_min": Primitive("wins", reduces=True, sign="keeps"),
    "reduce_window_max": Primitive("wins", sign="keeps"),
    "reduce_window_min": _WINS,
    "cummax": _WINS,
    "cummin": _WINS,
    "sort": _WINS,
    "top_k": _WINS,
    "approx_top_k": _WINS,
    "pmax": _WINS,
    "pmin": _WINS,
    "argmax": _WINS,
    "argmin": _WINS,
    "select_and_gather_add": _WINS,
    # The planner looks at these itself.
    "dot_general": Primitive("layer"),
    "conv_general_dilated": Primitive("layer"),
    "mul": _binary("multiplies", np.multiply, "keeps"),
    "div": _binary("divides", np.divide, "keeps"),
    "select_n": Primitive(
        "selects", True, values=lambda params, which, *cases: _choose(which, cases)
    ),
    # Values are bent one by one.
    "exp": _bends(np.exp, "never"),
    "exp2": _bends(np.exp2, "never"),
    "expm1": _bends(np.expm1),
    "log": _bends(np.log),
    "log2": _bends(np.log2),
    "log1p": _bends(np.log1p),
    "tanh": _bends(np.tanh),
    "logistic": _bends(lambda x: 1 / (1 + np.exp(-x)), "never"),
    "erf": _bends(_erf),
    "erfc": _bends(lambda x: 1 - _erf(x), "never"),
    "erf_inv": _bends(),
    "sqrt": _bends(np.sqrt, "never"),
    "rsqrt": _bends(lambda x: 1 / np.sqrt(x), "never"),
    "cbrt": _bends(np.cbrt),
    "abs": _bends(np.abs, "never"),
    "square": _bends(np.square, "never"),
    "integer_pow": Primitive(
        "bends", True, values=lambda params, x: np.power(np.asarray(x, float), params["y"])
    ),
    "pow": _binary("bends", lambda x, y: np.power(np.asarray(x, float), y)),
    "sin": _bends(np.sin),
    "cos": _bends(np.cos),
    "tan": _bends(np.tan),
    "asin": _bends(np.arcsin),
    "acos": _bends(np.arccos),
    "atan": _bends(np.arctan),
    "sinh": _bends(np.sinh),
    "cosh": _bends(np.cosh, "never"),
    "asinh": _bends(np.arcsinh),
    "acosh": _bends(np.arccosh),
    "atanh": _bends(np.arctanh),
    "max": _binary("bends", np.maximum, "keeps"),
    "min": _binary("bends", np.minimum, "keeps"),
    "clamp": Primitive(
        "bends", True, values=lambda params, low, x, high: np.minimum(np.maximum(x, low), high)
    ),
    "sign": _bends(np.sign),
    "floor": _bends(np.floor),
    "ceil": _bends(np.ceil),
    "round": _bends(np.round),
    "lgamma": _bends(),
    "digamma": _bends(),
    "nextafter": _bends(),
    "rem": _binary("bends", np.fmod),
    "atan2": _binary("bends", np.arctan2),
    # A function with a derivative of its own that maps element by element, such as jax.nn.relu.
    "custom_jvp_call": Primitive("bends", elementwise=True),
    # No relevance: comparisons, and what is cut by the user.
    "eq": _compares(np.equal),
    "ne": _compares(np.not_equal),
    "lt": _compares(np.less),
    "le": _compares(np.less_equal),
    "gt": _compares(np.greater),
    "ge": _compares(np.greater_equal),
    "and": _compares(np.logical_and),
    "or": _compares(np.logical_or),
    "xor": _compares(np.logical_xor),
    "not": _compares(np.logical_not),
    "is_finite": _compares(np.isfinite),
    "stop_gradient": _compares(lambda x: x),
}

_UNKNOWN = Primitive()


def _choose(which: Any, cases: tuple[Any, ...]) -> Any:
    return np.choose(np.asarray(which, int), [np.asarray(case, float) for case in cases])


def facts(name: str) -> Primitive:
    """What is known of the primitive; of one that is not in the table: nothing."""
    return TABLE.get(name, _UNKNOWN)


def _named(**wanted: Any) -> frozenset[str]:
    return frozenset(
        name
        for name, primitive in TABLE.items()
        if all(getattr(primitive, field) == value for field, value in wanted.items())
    )


MOVES = _named(passing="moves")
SUMS = _named(passing="sums") | _named(passing="solves")
WINNERS = _named(passing="wins")
BENDING = _named(passing="bends")
LAYERS = _named(passing="layer")
ELEMENTWISE = _named(elementwise=True)
IDENTITIES = _named(identity=True)
SHAPING = _named(shaping=True)
REDUCTIONS = _named(reduces=True)
