"""Counts of twins that are not explained as their plain programs are.

PYTHONPATH=tests/lrp python -m twins.count --examples 500 --seed 0
"""

from __future__ import annotations

import argparse
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from random import Random

from twins.checks import RECIPES, Verdict, check
from twins.drawing import draw_program, draw_twin, smaller
from twins.program import Program, Rewrite

Example = tuple[Program, tuple[Rewrite, ...], str]
TWINS = 4  # of each program and rule: the plain one is explained once


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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--examples", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--rules", nargs="*", default=list(RECIPES), choices=list(RECIPES))
    arguments = parser.parse_args()

    statuses: Counter[str] = Counter()
    table: dict[str, Counter[str]] = defaultdict(Counter)
    tried: Counter[str] = Counter()
    by_rule: dict[str, Counter[str]] = defaultdict(Counter)
    first: dict[tuple[str, str], tuple[Example, Verdict]] = {}
    start = time.monotonic()

    for example in examples(arguments.seed, arguments.examples, arguments.rules):
        program, rewrites, rule = example
        verdict = check(program, rewrites, rule)
        statuses[verdict.status] += 1
        by_rule[rule][verdict.status] += 1
        for rewrite in rewrites:
            tried[mechanism(program, rewrite)] += 1
        if verdict.bad:
            guilty = blamed(example, verdict.status)
            name = " + ".join(mechanism(program, r) for r in guilty)
            table[name][verdict.status] += 1
            if (name, verdict.status) not in first:
                small = shrunk((program, guilty, rule), verdict.status)
                first[name, verdict.status] = small, check(*small)
        elif verdict.status.startswith("plain"):
            table["(plain)"][verdict.status.split()[1]] += 1
            first.setdefault(("(plain)", verdict.status), ((program, (), rule), verdict))

    seconds = time.monotonic() - start
    print(f"{sum(statuses.values())} examples in {seconds:.0f} s: {dict(statuses)}\n")
    print("By rule")
    for rule, counter in by_rule.items():
        print(f"  {rule:22}", dict(counter))
    print("\nBy rewrite: wrong, refused, crashed (of those tried)")
    for name, counter in sorted(table.items(), key=lambda row: -sum(row[1].values())):
        counts = " ".join(f"{counter[s]:4}" for s in ("wrong", "refused", "crashed"))
        print(f"  {counts}  of {tried[name]:4}  {name}")
    print("\nThe first of each")
    for (name, _), (example, verdict) in first.items():
        print(
            f"- {name}\n    {str(verdict)[:300]}\n"
            f"    check({example[0]!r},\n      {example[1]!r}, {example[2]!r})"
        )


if __name__ == "__main__":
    main()
