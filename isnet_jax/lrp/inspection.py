"""`inspect`: what LRP sees in a model, as a table."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from isnet_jax.lrp.api import Rules
from isnet_jax.lrp.composites import as_composite
from isnet_jax.lrp.plan.sites import Context, walk
from isnet_jax.lrp.program import Program


@dataclasses.dataclass(frozen=True)
class Row:
    """One site: its kind, name, shapes, rule and the user's "file:line (function)"."""

    kind: str
    name: str
    operation: str
    input_shape: tuple[int, ...]
    output_shape: tuple[int, ...]
    rule: str
    where: str


@dataclasses.dataclass(frozen=True)
class Table:
    """The sites of a model in the order they run; prints as a table."""

    rows: tuple[Row, ...]

    @property
    def unsupported(self) -> tuple[Row, ...]:
        return tuple(row for row in self.rows if row.kind == "unsupported")

    def __iter__(self) -> Iterator[Row]:
        return iter(self.rows)

    def __len__(self) -> int:
        return len(self.rows)

    def __str__(self) -> str:
        header = ("", "kind", "name", "operation", "input", "output", "rule", "where")
        lines = [header] + [
            (
                "✗" if row.kind == "unsupported" else " ",
                row.kind,
                row.name,
                row.operation,
                _shape(row.input_shape),
                _shape(row.output_shape),
                row.rule,
                row.where,
            )
            for row in self.rows
        ]
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        table = "\n".join(
            "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
            for line in lines
        )
        if not self.unsupported:
            return table
        return (
            f"{table}\n{len(self.unsupported)} unsupported (✗): teach LRP with lrp.register_rule "
            "by the operation's name, or by the name of a jax.jit around it."
        )


def inspect(
    f: Callable[..., Any],
    *primals: Any,
    rules: Rules,
    taps: Sequence[str] = (),
    strict: bool = False,
) -> Table:
    """Every place where LRP differs from the plain VJP, and what it cannot pass.

    Nothing is computed: `primals` may be `jax.ShapeDtypeStruct`s. All else in the model is the
    plain VJP, which in G form is LRP.

    Args:
      f, primals, rules, taps: as for `vjp`.
      strict: raise what `vjp` would raise, instead of marking it in the table.
    """
    program = Program(f, primals, Context(as_composite(rules), frozenset(taps)))
    if strict:
        program.check(strict)
    rows = []
    for body in walk(program.plan):
        order = {variable: number for number, variable in enumerate(body.graph.types)}
        for site in sorted(body.all_sites(), key=lambda site: order[site.at]):
            source = next(iter((*site.routes, *site.operation.inputs)), None)
            rows.append(
                Row(
                    kind=site.kind,
                    name=site.name,
                    operation=site.operation.name,
                    input_shape=() if source is None else body.graph.shape(source),
                    output_shape=body.graph.shape(site.at),
                    rule=site.applied,
                    where=site.operation.where,
                )
            )
    return Table(tuple(rows))


def _shape(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape)) or "scalar"
