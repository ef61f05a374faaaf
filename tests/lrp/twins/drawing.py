"""Programs drawn at random, and rewrites of them that change nothing for the rules at hand."""

from __future__ import annotations

from collections.abc import Iterator
from random import Random

from twins.activations import ACTIVATIONS
from twins.program import CLASSES, Piece, Program, Rewrite, output_shape, spellings
from twins.rewriting import GIVE, MARKS, PARAMETERS, WRAPS
from twins.silence import SILENT

WIDTHS = {"vectors": (6, 8), "images": (4,), "tokens": (6,)}
LAYERS = frozenset({"dense", "conv"})
BRANCHES = frozenset({"residual", "concat"})
MOST_REWRITES = 3


def draw_program(draw: Random) -> Program:
    """A layer, two to five pieces, and a dense layer for three classes."""
    family = draw.choice(sorted(WIDTHS))
    pieces = [_layer(draw, family)]
    state = _State(family, pieces[0].width, 6 if family == "images" else 0)
    for _ in range(draw.randint(1, 4)):
        piece = _piece(draw, state, pieces[-1].kind)
        pieces.append(piece)
        state = state.after(piece)
    if pieces[-1].kind != "activation":
        pieces.append(_activation(draw))
    if family != "vectors":
        pieces.append(_end(draw, family))
    pieces.append(Piece("dense", width=CLASSES))
    return Program(family, tuple(pieces), draw.randint(0, 2**16))


class _State:
    """What fits next: the family, the width and the height of images."""

    def __init__(self, family: str, width: int, height: int):
        self.family, self.width, self.height = family, width, height

    def after(self, piece: Piece) -> _State:
        shape = output_shape(piece, (1, self.height, self.height, self.width))
        return _State(self.family, shape[-1], shape[1] if self.family == "images" else 0)


def _layer(draw, family, width: int = 0) -> Piece:
    kind = "conv" if family == "images" else "dense"
    return Piece(kind, width=width or draw.choice(WIDTHS[family]))


def _activation(draw) -> Piece:
    common = ("relu", "relu", "gelu", "silu", "tanh")
    return Piece("activation", draw.choice(draw.choice((common, sorted(ACTIVATIONS)))))


def _end(draw, family) -> Piece:
    if family == "tokens" and draw.random() < 0.5:
        return Piece("recurrence", draw.choice(("", "gated")))
    return Piece("mean")


def _norm(draw, state) -> Piece:
    kinds = {
        "vectors": ("batch", "layer", "rms"),
        "images": ("batch", "batch", "group", "instance", "layer"),
        "tokens": ("layer", "rms", "batch"),
    }[state.family]
    return Piece("norm", draw.choice(kinds))


def _piece(draw, state, before: str, inside: bool = False) -> Piece:
    kinds = ["layer", "parameter_gate", "silent"]
    if before in LAYERS | {"gate", "attention", "experts"}:
        kinds += ["norm", "norm", "norm"]
    if before != "activation":
        kinds += ["activation", "activation"]
    if state.family != "images":
        kinds += ["gate", "experts"]
    if state.family == "tokens":
        kinds += ["attention", "attention"]
    if state.family == "images" and not inside:
        kinds += ["excite"]
        kinds += ["max_pool", "average_pool"] if state.height % 2 == 0 else ["resize"]
    if not inside:
        kinds += ["residual", "residual", "concat", "twice"] if state.width <= 8 else []
    kind = draw.choice(kinds)
    match kind:
        case "layer":
            return _layer(draw, state.family, state.width if inside else 0)
        case "norm":
            return _norm(draw, state)
        case "activation":
            return _activation(draw)
        case "silent":
            return Piece("silent", draw.choice(sorted(SILENT)))
        case "attention":
            return Piece("attention", draw.choice(("", "causal")))
        case "residual" | "concat":
            inner = [_layer(draw, state.family, state.width)]
            for _ in range(draw.randint(0, 2)):
                inner.append(_piece(draw, state, inner[-1].kind, inside=True))
            return Piece(kind, inner=tuple(inner))
    return Piece(kind)


def smaller(program: Program, rewrites: tuple[Rewrite, ...], traits) -> Iterator[tuple]:
    """The same with one rewrite less, or one piece less that no rewrite needs."""
    for rewrite in rewrites if len(rewrites) > 1 else ():
        yield program, tuple(r for r in rewrites if r is not rewrite)
    for number, piece, _, shape in program.numbered():
        needed = any(number <= r.start < number + piece.size for r in rewrites if r.kind != "give")
        if number and not needed and output_shape(piece, shape) == shape:
            pieces = _without(program.pieces, 0, number)
            moved = tuple(_moved(r, number, piece.size) for r in rewrites)
            candidate = Program(program.family, pieces, program.seed)
            if any(p.kind in BRANCHES and not p.inner for _, p, _, _ in candidate.numbered()):
                continue
            allowed = {r for rs in rewrites_of(candidate, traits).values() for r in rs}
            if allowed.issuperset(moved):
                yield candidate, moved


def _moved(rewrite: Rewrite, number: int, size: int) -> Rewrite:
    start, stop = (n - size if n > number else n for n in (rewrite.start, rewrite.stop))
    return Rewrite(rewrite.kind, rewrite.name, start, stop)


def _without(pieces, number, gone):
    kept = []
    for piece in pieces:
        if number != gone:
            inner = _without(piece.inner, number + 1, gone)
            kept.append(Piece(piece.kind, piece.option, piece.width, inner))
        number += piece.size
    return tuple(kept)


def folds(piece: Piece | None) -> bool:
    """Whether the piece is part of the layer before it."""
    return piece is not None and (
        piece.kind == "parameter_gate" or (piece.kind == "norm" and piece.option == "batch")
    )


def draw_twin(draw: Random, program: Program, traits: frozenset[str]) -> tuple[Rewrite, ...]:
    """One to three rewrites of the program."""
    possible = rewrites_of(program, traits)
    kinds = sorted(possible)
    chosen: list[Rewrite] = []
    for _ in range(draw.randint(1, MOST_REWRITES)):
        rewrite = draw.choice(possible[draw.choice(kinds)])
        if not any(clash(rewrite, other) for other in chosen):
            chosen.append(rewrite)
    return tuple(chosen)


def clash(a: Rewrite, b: Rewrite) -> bool:
    """Whether two rewrites cannot stand together."""
    if a == b or (a.kind == b.kind and a.kind in ("give", "moments")):
        return True
    if a.kind == b.kind == "spell" and a.start == b.start:
        return True
    if a.kind == b.kind == "wrap":
        outer, inner = sorted((a, b), key=lambda r: (r.start, -r.stop))
        crossing = outer.start < inner.start < outer.stop < inner.stop
        return crossing or (a.start, a.stop) == (b.start, b.stop)
    return any(
        one.kind == "wrap" and "vmap" in one.name and _by_input(other)
        for one, other in ((a, b), (b, a))
    )


def _by_input(rewrite: Rewrite) -> bool:
    """Under vmap both branches are computed: no longer the same program."""
    return rewrite.name in ("cond by input", "cond of all, doubled")


def rewrites_of(program: Program, traits: frozenset[str]) -> dict[str, list[Rewrite]]:
    """All rewrites that change nothing, by kind."""
    found: dict[str, list[Rewrite]] = {"give": [Rewrite("give", n) for n in GIVE if n != "plain"]}
    numbered = list(program.numbered())
    if any(piece.kind == "norm" for _, piece, _, _ in numbered):
        found["moments"] = [Rewrite("moments")]
    for number, piece, behind, shape in numbered:
        here = traits | (
            {"folded next"} if folds(behind) and "plain layers" not in traits else set()
        )
        for name, spelling in spellings(piece, len(shape)).items():
            if name != "plain" and spelling.needs <= here and not spelling.bars & here:
                found.setdefault(f"spell {piece.kind}", []).append(Rewrite("spell", name, number))
        if number:
            found.setdefault("aux", []).append(Rewrite("aux", "", number))
        for name, mark in MARKS.items():
            at_input = number < program.pieces[0].size and "first" in traits
            torn = folds(piece) and "plain layers" not in traits
            if not (mark.hides and at_input) and not (mark.moves and torn):
                found.setdefault("mark", []).append(Rewrite("mark", name, number))
        if piece.kind in LAYERS | {"norm", "parameter_gate", "gate", "attention"}:
            found.setdefault("parameters", []).extend(
                Rewrite("parameters", name, number) for name in PARAMETERS
            )
    found["wrap"] = _wraps(program.pieces, 0, numbered[0][3], traits)
    return found


def _wraps(pieces, number, shape, traits) -> list[Rewrite]:
    found = []
    start, before = number, shape
    for i, first in enumerate(pieces):
        stop, after = start, before
        folded = folds(first) and "plain layers" not in traits  # Its layer stays outside.
        for j in range(i, len(pieces)):
            stop, after = stop + pieces[j].size, output_shape(pieces[j], after)
            behind = pieces[j + 1] if j + 1 < len(pieces) else None
            torn = folds(behind) and "plain layers" not in traits
            meeting = any(p.option == "batch" for q in pieces[i : j + 1] for p in (q, *q.inner))
            for name, wrap in WRAPS.items():
                rewrite = Rewrite("wrap", name, start, stop)
                if (
                    not (wrap.same_shape and before != after)
                    and not (wrap.separable and meeting)
                    and not (name == "lax.map over samples" and torn)
                    and not (_by_input(rewrite) and (folded or torn))
                ):
                    found.append(rewrite)
        if first.inner:
            found += _wraps(first.inner, start + 1, before, traits)
        start, before = start + first.size, output_shape(first, before)
    return found
