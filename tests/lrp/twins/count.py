"""A table of twins that are not explained as their plain programs are.

    PYTHONPATH=tests/lrp python -m twins.count --examples 500 --seed 0 [--rules AttnLRP ZPlus]

"wrong": another heatmap or gradient. "refused": a UserError where the plain program is explained.
The last part are calls of `twins.checks.check` that show the first of each.
"""

from __future__ import annotations

import argparse
import time

from twins.checks import RECIPES
from twins.counting import Counts, examples


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--examples", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--rules", nargs="*", default=list(RECIPES), choices=list(RECIPES))
    arguments = parser.parse_args()
    start, counts = time.monotonic(), Counts()
    for example in examples(arguments.seed, arguments.examples, arguments.rules):
        counts.add(example)
    print(counts)
    print(f"\n{time.monotonic() - start:.0f} s")


if __name__ == "__main__":
    main()
