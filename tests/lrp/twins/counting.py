"""Counts of twins that are not explained as their plain programs are."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from random import Random

from twins.checks import RECIPES, Verdict, check
from twins.drawing import draw_program, draw_twin, smaller
from twins.program import Program, Rewrite

Example = tuple[Program, tuple[Rewrite, ...], str]
TWINS = 4  # of each program and rule: the plain one is explained once
BAD = ("wrong", "refused", "crashed")


def examples(seed: int, count: int, rules: Sequence[str] = tuple(RECIPES)) -> Iterator[Example]:
    """The same for the same seed."""
    draw = Random(seed)
    for number in range(count):
        if number % TWINS == 0:
            program, rule = draw_program(draw), draw.choice(rules)
        yield program, draw_twin(draw, program, RECIPES[rule].traits), rule


def mechanism(program: Program, rewrite: Rewrite) -> str:
    """The rewrite's kind and name, and what it is done to."""
    if rewrite.kind == "spell":
        piece = next(p for number, p, _, _ in program.numbered() if number == rewrite.start)
        return f"spell {piece.option} {piece.kind}: {rewrite.name}".replace("  ", " ")
    return f"{rewrite.kind}: {rewrite.name}" if rewrite.name else rewrite.kind


def shrunk(example: Example, status: str) -> Example:
    """A smaller example with the same verdict."""
    program, rewrites, rule = example
    for candidate in smaller(program, rewrites, RECIPES[rule].traits):
        if check(*candidate, rule).status == status:
            return shrunk((*candidate, rule), status)
    return example


def blamed(example: Example, status: str) -> tuple[Rewrite, ...]:
    """The first rewrite that is bad alone, or all of them."""
    program, rewrites, rule = example
    if len(rewrites) > 1:
        for rewrite in rewrites:
            if check(program, (rewrite,), rule).status == status:
                return (rewrite,)
    return rewrites


class Counts:
    """Verdicts by rule and by rewrite, and the first bad example of each, made small."""

    def __init__(self):
        self.statuses: Counter[str] = Counter()
        self.by_rule: dict[str, Counter[str]] = defaultdict(Counter)
        self.by_rewrite: dict[str, Counter[str]] = defaultdict(Counter)
        self.tried: Counter[str] = Counter()
        self.first: dict[tuple[str, str], tuple[Example, Verdict]] = {}

    @property
    def bad(self) -> int:
        return sum(n for status, n in self.statuses.items() if status != "right")

    def add(self, example: Example) -> None:
        program, rewrites, rule = example
        verdict = check(program, rewrites, rule)
        self.statuses[verdict.status] += 1
        self.by_rule[rule][verdict.status] += 1
        self.tried["(plain)"] += 1
        self.tried.update(mechanism(program, rewrite) for rewrite in rewrites)
        if verdict.status in BAD:
            guilty = blamed(example, verdict.status)
            name = " + ".join(mechanism(program, r) for r in guilty)
            self.by_rewrite[name][verdict.status] += 1
            if (name, verdict.status) not in self.first:
                small = shrunk((program, guilty, rule), verdict.status)
                self.first[name, verdict.status] = small, check(*small)
        elif verdict.status != "right":
            self.by_rewrite["(plain)"][verdict.status.removeprefix("plain ")] += 1
            if ("(plain)", verdict.status) not in self.first:
                small = shrunk((program, (), rule), verdict.status)
                self.first["(plain)", verdict.status] = small, check(*small)

    def __str__(self) -> str:
        lines = [f"{sum(self.statuses.values())} examples: {dict(self.statuses)}", "", "By rule:"]
        lines += [f"  {rule:22} {dict(counter)}" for rule, counter in self.by_rule.items()]
        lines += ["", "By rewrite: wrong, refused, crashed, of those tried:"]
        rows = sorted(self.by_rewrite.items(), key=lambda row: -sum(row[1].values()))
        for name, counter in rows:
            counts = "".join(f"{counter[status]:6}" for status in BAD)
            lines.append(f"  {counts}  of {self.tried[name]:5}  {name}")
        lines += ["", "The first of each:"]
        for (name, _), ((program, rewrites, rule), verdict) in self.first.items():
            lines += [f"- {name}", f"    {str(verdict)[:300]}"]
            lines.append(f"    check({program!r},\n      {rewrites!r}, {rule!r})")
        return "\n".join(lines)
