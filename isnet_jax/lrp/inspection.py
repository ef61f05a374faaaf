"""`inspect`: what LRP sees in a model, as a table, and where relevance goes missing."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from isnet_jax.errors import UserError
from isnet_jax.lrp.api import Rules
from isnet_jax.lrp.composites import as_composite
from isnet_jax.lrp.plan.sites import Context, Site, walk
from isnet_jax.lrp.program import BatchAxis, Program
from isnet_jax.lrp.run.evaluation import carrier_for, token_for
from isnet_jax.lrp.run.probes import Probes, measured_sites, zeros_for_sites


@dataclasses.dataclass(frozen=True)
class Row:
    """One site: its kind, name, shapes, rule and the user's "file:line (function)".

    Attributes:
      guess: why it was taken for what it is, where that is a guess; else "".
      arrives, leaves: relevance, summed over all samples and elements, that reaches the site's
        output and that it sends on to its inputs; None: not asked for, or not measured there.
    """

    kind: str
    name: str
    operation: str
    input_shape: tuple[int, ...]
    output_shape: tuple[int, ...]
    rule: str
    where: str
    guess: str = ""
    arrives: float | None = None
    leaves: float | None = None

    @property
    def absorbed(self) -> float | None:
        """What bias and stabiliser keep."""
        if self.arrives is None or self.leaves is None:
            return None
        return self.arrives - self.leaves


@dataclasses.dataclass(frozen=True)
class Table:
    """The sites of a model in the order they run; prints as a table.

    Attributes:
      guesses: what was guessed, and how to decide it.
      at_output: the relevance that was sent in, seed times output; None: not asked for.
      at_input: what arrived at the model's input.
    """

    rows: tuple[Row, ...]
    guesses: tuple[str, ...] = ()
    at_output: float | None = None
    at_input: float | None = None

    @property
    def unsupported(self) -> tuple[Row, ...]:
        return tuple(row for row in self.rows if row.kind == "unsupported")

    def __iter__(self) -> Iterator[Row]:
        return iter(self.rows)

    def __len__(self) -> int:
        return len(self.rows)

    def __str__(self) -> str:
        measured = self.at_output is not None
        sums = ("arrives", "leaves", "absorbed") if measured else ()
        header = ("", "kind", "name", "operation", "input", "output", "rule", *sums, "where")
        lines = [header] + [
            (
                _flag(row),
                row.kind,
                row.name,
                row.operation,
                _shape(row.input_shape),
                _shape(row.output_shape),
                row.rule,
                *(_number(getattr(row, column)) for column in sums),
                row.where,
            )
            for row in self.rows
        ]
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        parts = [
            "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
            for line in lines
        ]
        if self.unsupported:
            parts.append(
                f"{len(self.unsupported)} unsupported (✗): teach LRP with lrp.register_rule by the "
                "operation's name, or by the name of a jax.jit around it."
            )
        parts.extend(f"guessed (?): {guess}." for guess in self.guesses)
        if self.at_output is not None and self.at_input is not None:
            share = self.at_input / self.at_output if self.at_output else math.nan
            parts.append(
                f"relevance: {self.at_output:.6g} at the output, {self.at_input:.6g} at the input "
                f"({share:.1%})"
            )
        return "\n".join(parts)


def inspect(
    f: Callable[..., Any],
    *primals: Any,
    rules: Rules,
    taps: Sequence[str] = (),
    strict: bool = False,
    relevance: bool = False,
    seed: Any = None,
    argnums: int | Sequence[int] | None = None,
    batch_axis: BatchAxis = "auto",
) -> Table:
    """Every place where LRP differs from the plain VJP, and what it cannot pass.

    All else in the model is the plain VJP, which in G form is LRP. Without `relevance` nothing is
    computed: `primals` may be `jax.ShapeDtypeStruct`s.

    Args:
      f, primals, rules, taps, argnums, batch_axis: as for `vjp`.
      strict: raise what `vjp` would raise, instead of marking it in the table.
      relevance: run the explanation, and give for each layer, activation, sum, average, product
        and winner the relevance that arrives, leaves and is absorbed by bias and stabiliser, and
        the totals at the output and at the input.
      seed: cotangent of the output for it; None: 1 at the highest logit of every sample.

    Raises:
      UserError: with `relevance`: a composite that returns no relevance, an output that needs a
        seed.
    """
    context = Context(as_composite(rules), frozenset(taps))
    program = Program(f, primals, context, argnums, batch_axis)
    if strict or relevance:
        program.check(strict)
    sums, totals = {}, (None, None)
    if relevance:
        sums, totals = _measure(program, primals, seed)
    rows, guesses = [], []
    for body in walk(program.plan):
        order = {variable: number for number, variable in enumerate(body.graph.types)}
        guesses.extend(body.guesses)
        for site in sorted(body.all_sites(), key=lambda site: order[site.at]):
            source = next(iter((*site.routes, *site.operation.inputs)), None)
            arrives, leaves = sums.get(site, (None, None))
            rows.append(
                Row(
                    kind=site.kind,
                    name=site.name,
                    operation=site.operation.name,
                    input_shape=() if source is None else body.graph.shape(source),
                    output_shape=body.graph.shape(site.at),
                    rule=site.applied,
                    where=site.operation.where,
                    guess=site.guess,
                    arrives=arrives,
                    leaves=leaves,
                )
            )
    guesses.extend(f"{row.where}: {row.guess}" for row in rows if row.guess)
    return Table(tuple(rows), tuple(dict.fromkeys(guesses)), *totals)


def _measure(
    program: Program, primals: tuple, seed: Any
) -> tuple[dict[Site, tuple[float, float]], tuple[float, float]]:
    """Relevance at both ends of each site, and at output and input."""
    if not program.context.composite.times_input:
        raise UserError(
            "lrp.inspect(relevance=True): the composite returns a modified gradient, not relevance."
        )
    leaves = [jnp.asarray(leaf) for leaf in jax.tree.leaves(primals)]
    carriers = [
        carrier_for(leaf) if explained else None
        for leaf, explained in zip(leaves, program.explained, strict=True)
    ]
    token = token_for(leaves)
    zeros = zeros_for_sites(program.plan, token)

    def run(carriers, token, zeros):
        return program(leaves, carriers, {}, {}, token, Probes(program.plan, zeros))

    output, pull = jax.vjp(run, carriers, token, zeros)
    seed = _highest(output) if seed is None else seed
    relevances, _, sums = pull(seed)
    found = {
        site: (float(sums[number][0]), float(sums[number][1]))
        for number, site in enumerate(measured_sites(program.plan))
    }
    products = jax.tree.map(lambda y, g: jnp.sum(y * g), output, seed)
    at_output = sum(map(float, jax.tree.leaves(products)))
    at_input = sum(float(jnp.sum(r)) for r in relevances if r is not None)
    return found, (at_output, at_input)


def _highest(output: Any) -> Any:
    if getattr(output, "ndim", None) not in (1, 2):
        raise UserError(
            f"lrp.inspect(relevance=True): f returned {jax.tree.map(jnp.shape, output)}; expected "
            "logits of shape (B, C). Pass a seed, a cotangent of the output."
        )
    return jax.nn.one_hot(jnp.argmax(output, -1), output.shape[-1], dtype=output.dtype)


def _flag(row: Row) -> str:
    if row.kind == "unsupported":
        return "✗"
    return "?" if row.guess else " "


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"


def _shape(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape)) or "scalar"
