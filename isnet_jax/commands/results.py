"""What networks are worth, as tables on the terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from isnet_jax.commands.terminal import say, warn
from isnet_jax.errors import printable
from isnet_jax.evaluation.interventions import BACKGROUNDS, heatmap_warning

_WORDS = {"accuracy": "accuracy", "macro_f1": "macro F1", "auc": "AUC"}
_NESTED = ("interventions", "explanations", "statistics")


def show(metrics: Mapping[str, Any], console: Console) -> None:
    """Print what the networks are worth, and a warning where heatmaps deceive."""
    judged = {
        name: found
        for name, found in metrics.items()
        if isinstance(found, Mapping) and "background_relevance" in found
    }
    console.print(_accuracies(judged))
    costs = _costs(metrics.get("run_time") or {})
    for table in (_statistics(judged), _explanations(judged), _interventions(judged), costs):
        if table.row_count:
            console.print(table)
    for other, found in (metrics.get("comparisons") or {}).items():
        show_comparison(list(judged)[-1], other, found, console)
    for name, found in judged.items():
        unknown = [test for test, of in (found.get("statistics") or {}).items() if of is None]
        if unknown:
            where = ", ".join(map(printable, unknown))
            warn(console, f"{name}: it has logits that are not finite, so no statistics of {where}")
        if said := heatmap_warning(found):
            warn(console, f"{name}: {said}")


def show_comparison(
    first: str, second: str, found: Mapping[str, Mapping[str, Any] | None], console: Console
) -> None:
    """Print how much better the first network is than the second, on each test set."""
    table = _table(
        "differences, with 95 % intervals and p",
        *_WORDS.values(), "least p of a class's AUC",
    )  # fmt: skip
    for test, of in found.items():
        if of is None:
            continue
        tested = {
            name: each["p_adjusted"]
            for name, each in of["classes"].items()
            if each["p_adjusted"] is not None
        }
        least = min(tested, key=lambda name: tested[name], default=None)
        last = "-" if least is None else f"{_p(tested[least])} ({_name(least)})"
        measured = (_difference(of[key]) for key in _WORDS)
        table.add_row(_name(test), *measured, last)
    if table.row_count:
        say(console, f"{first} minus {second}:")
        console.print(table)


def show_seeds(
    first: str,
    second: str,
    found: Mapping[str, Mapping[str, Mapping[str, Mapping[str, Any]]]],
    console: Console,
) -> None:
    """Print means over seeds, and their difference: test set -> measure -> which -> estimate."""
    say(console, f"first: {first}")
    say(console, f"second: {second}")
    title = "means over seeds, with 95 % bootstrap intervals"
    table = _table(title, "", "first", "second", "first minus second")
    for test, measures in found.items():
        for measure, each in measures.items():
            cells = (_interval(each[which]) for which in ("first", "second", "difference"))
            table.add_row(_name(test), _WORDS[measure], *cells)
    console.print(table)


def _interval(found: Mapping[str, Any] | None) -> str:
    """An estimate in percent, with its interval if it has one."""
    if found is None:
        return "-"
    value = f"{100 * found['value']:.1f}"
    if found["low"] is None or found["high"] is None:
        return f"{value} %"
    return f"{value} % ({100 * found['low']:.1f} to {100 * found['high']:.1f})"


def _accuracies(judged: Mapping[str, Mapping[str, Any]]) -> Table:
    columns = [name for name in next(iter(judged.values())) if name not in _NESTED]
    words = (_name(column.replace("_", " ")) for column in columns)
    table = _table("accuracy on the test sets, and relevance on the background", *words)
    for name, found in judged.items():
        table.add_row(name, *(_percent(found[column]) for column in columns))
    return table


def _statistics(judged: Mapping[str, Mapping[str, Any]]) -> Table:
    words = _WORDS | {"auc_pairs": "AUC of pairs"}
    table = _table("the same with 95 % intervals", "test set", *words.values(), "calibration error")
    for name, networks in judged.items():
        for test, of in (networks.get("statistics") or {}).items():
            if of is not None:
                cells = (_interval(of[key]) for key in words)
                table.add_row(name, _name(test), *cells, _percent(of["calibration_error"]))
    return table


def _explanations(judged: Mapping[str, Mapping[str, Any]]) -> Table:
    table = _table(
        "relevance of the first test set", "mass on the object", "rank", "pixel flipping", "random"
    )
    for name, found in judged.items():
        if explained := found.get("explanations"):
            table.add_row(name, *(_percent(value) for value in explained.values()))
    return table


def _interventions(judged: Mapping[str, Mapping[str, Any]]) -> Table:
    changes = {name: found.get("interventions") for name, found in judged.items()}
    known = {name: found for name, found in changes.items() if found}
    table = _table("accuracy, and predictions that stay, with changed images", *known)
    if len(known) < len(changes):
        return table
    for background in BACKGROUNDS:
        cells = (
            f"{_percent(found[f'background_{background}'])}, "
            f"{_percent(found[f'agreement_{background}'])} stay"
            for found in known.values()
        )
        table.add_row(f"background {background}", *cells)
    table.add_row("object removed", *(_percent(f["object_removed"]) for f in known.values()))
    return table


def _costs(known: Mapping[str, Mapping[str, Any]]) -> Table:
    table = _table("needed for an answer", "parameters", "MFLOP an image")
    for name, found in known.items():
        flop = "-" if found["flop"] is None else f"{found['flop'] / 1e6:.3g}"
        table.add_row(name, f"{found['parameters']:,}", flop)
    return table


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title)
    table.add_column("")
    for column in columns:
        table.add_column(column, justify="right")
    return table


def _name(text: str) -> str:
    return escape(printable(text))


def _difference(found: Mapping[str, Any] | None) -> str:
    if found is None:
        return "-"
    tested = "" if found["p"] is None else f", p {_p(found['p'])}"
    return f"{_interval(found)}{tested}"


def _p(value: float) -> str:
    return "< 0.0001" if value < 1e-4 else f"{value:.4f}"


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.1f} %"
