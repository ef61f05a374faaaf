"""The report's intervals and tests: how sure the numbers are."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from isnet_jax.report.html import (
    MISSING,
    details,
    network_title,
    percent,
    section,
    signed,
    to_number,
)

MEASURES = {
    "accuracy": "accuracy",
    "macro_f1": "macro-averaged F1",
    "auc": "AUC, one class against the rest",
    "auc_pairs": "AUC of pairs of classes (Hand and Till)",
    "calibration_error": "calibration error",
}
EXPLAINED = {
    "relevance_mass": "positive relevance on the object",
    "relevance_rank": "most relevant pixels on the object",
    "pixel_flipping": "pixel flipping, most relevant first",
    "pixel_flipping_random": "pixel flipping, at random",
}
_OF_CLASS = ("sensitivity", "specificity", "f1", "auc")
_WORDS = (
    "<p>In brackets 95 % intervals: of accuracy, sensitivity and specificity Wilson's, of F1 "
    "Bayesian, from the confusion matrix, of AUC DeLong's. They say how much another test set of "
    "the same kind would change the number, not what another training would. A dash is where the "
    "test set says nothing, as where all images are separated. Differences are of the same images: "
    "p by McNemar's test for accuracy and by DeLong's for AUC.</p>"
)


def statistics_section(metrics: Mapping[str, Any], networks: Sequence[str]) -> str:
    """Of what metrics.json holds; nothing if it has no statistics.

    Args:
        networks: the last one is what the others are compared with.
    """
    found = {name: metrics[name].get("statistics") or {} for name in networks}
    tests = list(dict.fromkeys(test for of in found.values() for test in of))
    parts = [_test_set(test, found, metrics.get("comparisons") or {}) for test in tests]
    parts.append(_explained({name: metrics[name].get("explanations") or {} for name in networks}))
    body = "".join(parts)
    return section("statistics", "How sure the numbers are", _WORDS + body) if body else ""


def interval(found: Mapping[str, Any] | float | None) -> str:
    """`94.2 % (91.0 % to 96.1 %)`: a number, or an estimate with the interval it may have."""
    if not isinstance(found, Mapping):
        return percent(to_number(found))
    bounds = between(found)
    return percent(to_number(found["value"])) + (f" ({bounds})" if bounds else "")


def between(found: Mapping[str, Any]) -> str:
    """`91.0 % to 96.1 %`; nothing where there is no interval."""
    low, high = to_number(found["low"]), to_number(found["high"])
    return "" if math.isnan(low + high) else f"{percent(low)} to {percent(high)}"


def _test_set(
    test: str, found: Mapping[str, Mapping[str, Any]], comparisons: Mapping[str, Any]
) -> str:
    last = network_title(list(found)[-1])
    of = {name: given[test] for name, given in found.items() if given.get(test)}
    if not of:
        return ""
    compared = {other: tests[test] for other, tests in comparisons.items() if tests.get(test)}
    head = [network_title(name) for name in of]
    head += [f"{last} minus {network_title(other)}" for other in compared]
    rows = []
    for key, words in MEASURES.items():
        cells = [interval(given[key]) for given in of.values()]
        cells += [_difference(each.get(key)) for each in compared.values()]
        if any(given[key] is not None for given in of.values()):
            rows.append((words, cells))
    classes = list(dict.fromkeys(name for given in of.values() for name in given["classes"]))
    per_class = "".join(
        _table(
            network_title(name),
            ["images", *_OF_CLASS],
            [
                (label, [str(each["images"]), *(interval(each[key]) for key in _OF_CLASS)])
                for label, each in given["classes"].items()
            ],
        )
        for name, given in of.items()
    )
    tests = "".join(
        _table(
            f"AUC of {last} minus {network_title(other)}",
            ["difference", "p adjusted for all classes"],
            [
                (label, [_difference(each["auc"]), _p(each["p_adjusted"])])
                for label, each in given["classes"].items()
            ],
        )
        for other, given in compared.items()
    )
    return f"<h3>{escape(test.capitalize())}</h3>{_table('', head, rows)}" + details(
        f"Each of {len(classes)} classes", per_class + tests
    )


def _explained(found: Mapping[str, Mapping[str, Any]]) -> str:
    if not any(found.values()):
        return ""
    rows = [
        (words, [percent(to_number(given.get(key))) for given in found.values()])
        for key, words in EXPLAINED.items()
    ]
    return (
        "<h3>How well the heatmaps fit</h3><p>Relevance mass and rank accuracy, of the annotated "
        "images of the first test set: above the object's share of the image they are better than "
        "chance. Pixel flipping is the mean probability of the explained class while pixels are "
        "taken away: a heatmap that points at what the network uses makes it lower than a random "
        f"order does.</p>{_table('', [network_title(name) for name in found], rows)}"
    )


def _difference(found: Mapping[str, Any] | None) -> str:
    if found is None:
        return MISSING
    value, low, high = (100 * to_number(found[key]) for key in ("value", "low", "high"))
    bounds = "" if math.isnan(low + high) else f" ({signed(low)} to {signed(high)})"
    tested = "" if found["p"] is None else f", p {_p(found['p'])}"
    return f"{signed(value)} pp{bounds}{tested}"


def _p(value: float | None) -> str:
    if value is None:
        return MISSING
    return "&lt; 0.0001" if value < 1e-4 else f"{value:.4f}"


def _table(title: str, head: Sequence[str], rows: Sequence[tuple[str, Sequence[str]]]) -> str:
    """Cells are HTML; all else is text."""
    columns = "".join(f'<th scope="col">{escape(name)}</th>' for name in head)
    lines = "".join(
        f'<tr><th scope="row">{escape(name)}</th>{"".join(f"<td>{c}</td>" for c in cells)}</tr>'
        for name, cells in rows
    )
    caption = f"<caption>{escape(title)}</caption>" if title else ""
    return (
        f'<div class="scroll"><table class="epochs">{caption}<thead><tr><th scope="col"></th>'
        f"{columns}</tr></thead><tbody>{lines}</tbody></table></div>"
    )
