"""Programs that differ in spelling only have the same relevance and the same gradients."""

from __future__ import annotations

import jax
import numpy as np
import pytest
from twins.activations import ACTIVATIONS
from twins.counting import Counts, examples
from twins.drawing import rewrites_of
from twins.evaluating import Traced
from twins.program import Piece, Program
from twins.silence import SILENT

EACH = 25


@pytest.mark.parametrize("batch", range(12))
def test_drawn_twins(batch):
    assert_explained_alike(batch, EACH)


@pytest.mark.slow
@pytest.mark.parametrize("batch", range(50))
def test_five_thousand_drawn_twins(batch):
    assert_explained_alike(1000 + batch, 100)


def assert_explained_alike(seed: int, count: int):
    counts = Counts()
    for example in examples(seed, count):
        counts.add(example)
    print(counts)
    assert not counts.bad, str(counts)


# That the rewrites change nothing is tested here without LRP.


def programs_with_every_piece():
    """Small programs that have each kind of piece, and each activation and norm, at least once."""
    dense, conv, end = Piece("dense", width=6), Piece("conv", width=4), Piece("dense", width=3)
    branch = (Piece("dense", width=6),)
    for name in ACTIVATIONS:
        yield Program("vectors", (dense, Piece("activation", name), end))
    for kind in ("batch", "layer", "rms"):
        yield Program("vectors", (dense, Piece("norm", kind), Piece("gate"), end))
        yield Program("tokens", (dense, Piece("norm", kind), Piece("mean"), end))
    for kind in ("batch", "layer", "instance", "group"):
        yield Program("images", (conv, Piece("norm", kind), Piece("excite"), Piece("mean"), end))
    for piece in (Piece("max_pool"), Piece("average_pool"), Piece("twice")):
        yield Program("images", (conv, piece, Piece("resize"), Piece("mean"), end))
    for source in SILENT:
        yield Program("vectors", (dense, Piece("silent", source), end))
    for option in ("", "causal"):
        yield Program("tokens", (dense, Piece("attention", option), Piece("mean"), end))
    for option in ("", "gated"):
        yield Program("tokens", (dense, Piece("experts"), Piece("recurrence", option), end))
    for kind in ("residual", "concat"):
        yield Program("vectors", (dense, Piece(kind, inner=branch), Piece("parameter_gate"), end))


PROGRAMS = list(programs_with_every_piece())
NORMED = [p for p in PROGRAMS if p.pieces[1].option in ("batch", "layer", "group")]


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda p: str(p.pieces[1]))
def test_spellings_change_nothing(program, x64):
    assert_nothing_changes(program, lambda kind, start: kind.startswith("spell") and start == 1)


@pytest.mark.parametrize("program", [PROGRAMS[0], NORMED[-1]], ids=lambda p: str(p.pieces[0]))
def test_spellings_of_layers_change_nothing(program, x64):
    assert_nothing_changes(program, lambda kind, start: kind.startswith("spell") and start == 0)


@pytest.mark.parametrize("program", NORMED, ids=lambda p: str(p.pieces[1]))
def test_boundaries_change_nothing(program, x64):
    assert_nothing_changes(program, lambda kind, start: not kind.startswith("spell"))


def assert_nothing_changes(program, chosen):
    """The same logits, and the same gradient of them."""
    arguments = program.draw()

    def loss(arguments, rewrites):
        return (program(*arguments, rewrites)[0] ** 2).sum()

    def found(rewrites=()):
        traced = Traced(jax.value_and_grad(lambda a: loss(a, rewrites)), arguments)
        return jax.tree.leaves(traced(arguments))

    expected = found()
    scale = max(np.abs(leaf).max() for leaf in expected)
    seen = set()
    for kind, rewrites in rewrites_of(program, frozenset({"plain layers", "plain sums"})).items():
        for rewrite in rewrites:
            if chosen(kind, rewrite.start) and kind != "give" and (kind, rewrite.name) not in seen:
                seen.add((kind, rewrite.name))
                for a, b in zip(found((rewrite,)), expected, strict=True):
                    assert np.abs(a - b).max() <= 1e-9 * scale, rewrite
