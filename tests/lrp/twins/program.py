"""A program is a list of pieces; a twin is a program with rewrites that change nothing."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator
from typing import Any

import numpy as np
from jax import Array

from twins import layers, mixing, norms, rewriting, silence
from twins.activations import ACTIVATIONS, OPEN_TO_GUIDED
from twins.layers import Spelling

Shape = tuple[int, ...]
INPUTS: dict[str, Shape] = {"vectors": (3, 6), "images": (2, 6, 6, 3), "tokens": (2, 4, 6)}
CLASSES = 3
HIDDEN = 4


@dataclasses.dataclass(frozen=True)
class Piece:
    """One operation. `option`: the activation's or norm's name; `inner`: a branch's pieces."""

    kind: str
    option: str = ""
    width: int = 0
    inner: tuple[Piece, ...] = ()

    def __repr__(self) -> str:
        given = [(n, v) for n, v in vars(self).items() if n != "kind" and v]
        return f"Piece({', '.join([repr(self.kind), *(f'{n}={v!r}' for n, v in given)])})"

    @property
    def size(self) -> int:
        """How many numbers the piece takes: itself and what is inside."""
        return 1 + sum(piece.size for piece in self.inner)


@dataclasses.dataclass(frozen=True)
class Rewrite:
    """One change of the way a program is written.

    kind: "spell" (piece `start` as `name`), "wrap" (pieces `start` up to `stop` in `name`),
    "mark" (an identity `name` before piece `start`), "parameters" (those of piece `start` through
    `name`), "aux" (the value before piece `start` is returned too), "moments" (all moments are),
    "give" (how the input is handed over).
    """

    kind: str
    name: str = ""
    start: int = 0
    stop: int = 0


@dataclasses.dataclass(frozen=True)
class Program:
    """Pieces on an input of the family's shape, and what draws the parameters."""

    family: str
    pieces: tuple[Piece, ...]
    seed: int = 0

    def __call__(self, parameters: Any, x: Array, rewrites: tuple[Rewrite, ...] = ()) -> Any:
        """Logits (B, 3) and what the twin returns beside them."""
        wraps = tuple(r for r in rewrites if r.kind == "wrap")
        return _block(self.pieces, 0, rewrites, wraps, parameters, x)

    def numbered(self) -> Iterator[tuple[int, Piece, Piece | None, Shape]]:
        """(number, piece, the piece behind it, its input's shape) of every piece."""
        yield from _numbered(self.pieces, 0, INPUTS[self.family])

    def draw(self) -> tuple[dict[str, np.ndarray], np.ndarray]:
        """Parameters by "number.name", and an input in [0, 1]."""
        draw = np.random.default_rng(self.seed)
        parameters = {}
        for number, piece, _, shape in self.numbered():
            for name, size in parameter_shapes(piece, shape).items():
                fan = np.sqrt(np.prod(size[:-1])) if len(size) > 1 else 2
                parameters[f"{number}.{name}"] = draw.standard_normal(size) / fan * 1.2
        return parameters, draw.uniform(0, 1, INPUTS[self.family])


def parameter_shapes(piece: Piece, shape: Shape) -> dict[str, Shape]:
    n, width = shape[-1], piece.width
    match piece.kind:
        case "dense":
            return {"w": (n, width), "b": (width,)}
        case "conv":
            return {"w": (3, 3, n, width), "b": (width,)}
        case "norm":
            return {"scale": (n,), "shift": (n,)}
        case "gate":
            return {"w": (n, 2 * n), "b": (2 * n,)}
        case "silent":
            return {"w": (n, n)}
        case "parameter_gate":
            return {"g": (n,)}
        case "excite":
            return {"w": (n, HIDDEN), "b": (HIDDEN,), "u": (HIDDEN, n), "c": (n,)}
        case "attention":
            return {"w": (n, 3 * n), "b": (3 * n,)}
        case "experts":
            return {"w": (n, 3), "b": (3,), "u": (n, 3 * n), "c": (3 * n,)}
        case "recurrence":
            return {
                **dict.fromkeys(("v", "w", "u")[: 3 if piece.option else 2], (n, n)),
                **dict.fromkeys(("b", "c")[: 2 if piece.option else 1], (n,)),
            }
    return {}


def output_shape(piece: Piece, shape: Shape) -> Shape:
    match piece.kind:
        case "dense" | "conv":
            return (*shape[:-1], piece.width)
        case "max_pool" | "average_pool":
            return (shape[0], shape[1] // 2, shape[2] // 2, shape[3])
        case "resize":
            return (shape[0], shape[1] * 2, shape[2] * 2, shape[3])
        case "mean" | "recurrence":
            return (shape[0], shape[-1])
        case "twice" | "concat":
            return (*shape[:-1], 2 * shape[-1])
    return shape


_TABLES: dict[str, dict[str, Spelling]] = {
    "dense": layers.DENSE,
    "conv": layers.CONV,
    "max_pool": layers.MAX_POOL,
    "average_pool": layers.AVERAGE_POOL,
    "mean": layers.MEAN,
    "resize": layers.RESIZE,
    "gate": mixing.GATE,
    "parameter_gate": mixing.PARAMETER_GATE,
    "excite": mixing.EXCITE,
    "attention": mixing.ATTENTION,
    "causal_attention": mixing.CAUSAL_ATTENTION,
    "experts": mixing.EXPERTS,
    "residual": mixing.RESIDUAL,
    "concat": mixing.CONCAT,
    "twice": mixing.TWICE,
    "recurrence": mixing.RECURRENCE,
    "gated_recurrence": mixing.GATED_RECURRENCE,
    **{f"{source}_silent": table for source, table in silence.SILENT.items()},
}


@functools.cache
def spellings(piece: Piece, rank: int) -> dict[str, Spelling]:
    """The ways to write a piece whose input has so many axes; "plain" is one of them."""
    if piece.kind == "activation":
        table = ACTIVATIONS[piece.option]
        allowed = OPEN_TO_GUIDED.get(piece.option, tuple(table))
        plain = next(iter(table.values()))
        return {"plain": Spelling(lambda p, x: plain(x))} | {
            name: Spelling(
                lambda p, x, f=f: f(x), bars=frozenset() if name in allowed else {"guided"}
            )
            for name, f in list(table.items())[1:]
        }
    if piece.kind == "norm":
        ways = norms.spellings(piece.option, rank)
        return {
            "plain" if way == ways[0] else ", ".join(way): Spelling(
                lambda p, x, way=way, note=None: norms.normalise(
                    x, piece.option, way, p["scale"], p["shift"], note
                )
            )
            for way in ways
        }
    return _TABLES[f"{piece.option}_{piece.kind}" if piece.option else piece.kind]


def _numbered(pieces, number, shape):
    for position, piece in enumerate(pieces):
        behind = pieces[position + 1] if position + 1 < len(pieces) else None
        yield number, piece, behind, shape
        yield from _numbered(piece.inner, number + 1, shape)
        number += piece.size
        shape = output_shape(piece, shape)


def _block(pieces, number, rewrites, wraps, parameters, h) -> tuple[Array, dict[str, Any]]:
    """The pieces, numbered from `number`, on h; and the auxiliary values among them."""
    if not pieces:
        return h, {}
    for wrap in wraps:
        count = _reach(pieces, number, wrap)
        if count:
            others = tuple(w for w in wraps if w is not wrap)
            own = {
                name: value
                for name, value in parameters.items()
                if wrap.start <= int(name.split(".")[0]) < wrap.stop
            }
            run = functools.partial(_block, pieces[:count], number, rewrites, others)
            h, aux = rewriting.WRAPS[wrap.name].apply(run, own, h)
            rest = _block(pieces[count:], wrap.stop, rewrites, others, parameters, h)
            return rest[0], aux | rest[1]
    piece = pieces[0]
    own = {
        name.split(".")[1]: value
        for name, value in parameters.items()
        if int(name.split(".")[0]) == number
    }
    spelling, aux = "plain", {}
    for rewrite in rewrites:
        if rewrite.start == number:
            match rewrite.kind:
                case "spell":
                    spelling = rewrite.name
                case "mark":
                    h, own = rewriting.MARKS[rewrite.name].apply(h, own)
                case "parameters":
                    own = {k: rewriting.PARAMETERS[rewrite.name](v) for k, v in own.items()}
                case "aux":
                    aux[f"{number}.value"] = h
    apply = spellings(piece, h.ndim)[spelling].apply
    if piece.kind == "norm":
        noted = any(r.kind == "moments" for r in rewrites)

        def note(*moments):
            aux.update({f"{number}.moments": moments} if noted else {})

        h = apply(own, h, note=note)
    elif piece.inner:
        branch, inner_aux = _block(piece.inner, number + 1, rewrites, wraps, parameters, h)
        h = apply(own, h, branch)
        aux |= inner_aux
    else:
        h = apply(own, h)
    rest = _block(pieces[1:], number + piece.size, rewrites, wraps, parameters, h)
    return rest[0], aux | rest[1]


def _reach(pieces, number, wrap) -> int:
    """How many of the pieces the wrap covers, 0 if it does not start and end among them."""
    if wrap.start != number:
        return 0
    for position, piece in enumerate(pieces):
        number += piece.size
        if number == wrap.stop:
            return position + 1
    return 0
