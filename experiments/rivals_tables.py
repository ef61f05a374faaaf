"""The rows of rivals.py as tables, in Markdown: accuracies, differences to the reference, costs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

Row = Mapping[str, Any]

TESTS = ("biased", "unbiased", "confounding", "unseen")
STATISTICS = ("accuracy", "macro_f1", "auc")
MEASURES = (*TESTS, "worst_group", "background_relevance", "same_with_another_background")


def markdown(rows: Sequence[Row]) -> str:
    """Three tables for each set and budget."""
    blocks = []
    for set_name, budget in dict.fromkeys((row["set"], row["budget"]) for row in rows):
        here = [row for row in rows if (row["set"], row["budget"]) == (set_name, budget)]
        by_method = {
            method: [row for row in here if row["method"] == method]
            for method in dict.fromkeys(row["method"] for row in here)
        }
        blocks.append(f"**{set_name}, equal {budget}**")
        blocks += [table(by_method) for table in (accuracies, differences, costs)]
    return "\n\n".join(blocks) + "\n"


def accuracies(by_method: Mapping[str, Sequence[Row]]) -> str:
    """Means over the seeds, and their range where there are several."""
    words = (measure.replace("_", " ") for measure in MEASURES)
    return _table(
        ("method", *words, "seeds"),
        (
            (method, *(mean_and_range([run[name] for run in runs]) for name in MEASURES), len(runs))
            for method, runs in by_method.items()
        ),
    )


def differences(by_method: Mapping[str, Sequence[Row]]) -> str:
    """To the reference, the first method, of its first seed, on the last test set."""
    reference, unseen = next(iter(by_method)), TESTS[-1]
    lines = []
    for method, runs in by_method.items():
        own = (runs[0]["statistics"] or {}).get(unseen) or {}
        against = (runs[0]["against"] or {}).get(unseen) or {}
        cells = (
            cell
            for measure in STATISTICS
            for cell in (_interval(own.get(measure)), _difference(against.get(measure)))
        )
        lines.append((method, *cells))
    minus = f"minus {reference}"
    head = ("accuracy", f"{minus} (McNemar)", "macro F1", minus, "AUC", f"{minus} (DeLong)")
    return _table((f"{unseen}, 95 % intervals", *head), lines)


def costs(by_method: Mapping[str, Sequence[Row]]) -> str:
    """Of training, as the mean over the seeds, and of an answer."""
    lines = []
    for method, runs in by_method.items():
        seconds = np.mean([run["seconds"] for run in runs])
        answer = runs[0]["run_time"]
        flop = "-" if answer["flop"] is None else f"{answer['flop'] / 1e6:.1f}"
        first = runs[0]
        lines.append(
            (
                method,
                f"{first['learning_rate']:g}",
                "-" if first["weight"] is None else f"{first['weight']:g}",
                first["epochs"],
                f"{seconds:.0f}",
                flop,
                f"{answer['parameters']:,}",
            )
        )
    head = (
        "learning rate",
        "weight",
        "epochs",
        "seconds of training",
        "MFLOP an image",
        "parameters",
    )
    return _table(("method", *head), lines)


def _table(head: Sequence[str], lines: Any) -> str:
    cells = [head, ["---"] * len(head), *lines]
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in cells)


def mean_and_range(values: Sequence[float | None]) -> str:
    known = 100 * np.array([value for value in values if value is not None])
    if not len(known):
        return "-"
    spread = f" ({known.min():.1f} to {known.max():.1f})" if len(known) > 1 else ""
    return f"{known.mean():.1f} %{spread}"


def _interval(found: Mapping[str, Any] | None) -> str:
    if found is None:
        return "-"
    value = f"{100 * found['value']:.1f}"
    if found["low"] is None or found["high"] is None:
        return value
    return f"{value} ({100 * found['low']:.1f} to {100 * found['high']:.1f})"


def _difference(found: Mapping[str, Any] | None) -> str:
    if found is None or found["value"] is None:
        return "-"
    p = found["p"]
    said = "" if p is None else " (p < 0.001)" if p < 1e-3 else f" (p {p:.2g})"
    return f"{100 * found['value']:+.1f}{said}"
