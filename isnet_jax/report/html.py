"""Words and small pieces of HTML that the parts of the report share."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from html import escape
from typing import Any

NETWORKS = {"plain": "Plain classifier", "isnet": "ISNet"}
TEST_SETS = {
    "biased": "the mark of its own class, as in training",
    "unbiased": "no mark",
    "confounding": "the mark of another class",
}
# What metrics hold of a network beside its accuracy on test sets.
NO_TEST_SETS = (
    "worst_group", "background_relevance", "interventions", "explanations", "statistics",
)  # fmt: skip
MISSING = "\N{EN DASH}"


def network_title(network: str) -> str:
    """What the reader is told a network is."""
    return NETWORKS.get(network, network)


def network_style(network: str) -> str:
    """The CSS class that carries a network's colour."""
    return network if network in NETWORKS else "other"


def to_number(value: Any) -> float:
    """A float; NaN for whatever is not a finite number."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        return math.nan
    return number if math.isfinite(number) else math.nan


def percent(fraction: float, digits: int = 1) -> str:
    """`0.123` as `12.3 %`, and a dash for NaN; the space does not break."""
    return MISSING if math.isnan(fraction) else f"{100 * fraction:.{digits}f}\N{NO-BREAK SPACE}%"


def signed(number: float) -> str:
    """`-3.2` as `−3.2`, with a plus sign where it is positive."""
    text = f"{abs(number):.1f}"
    if float(text) == 0:
        return "±0.0"
    return ("+" if number > 0 else "\N{MINUS SIGN}") + text


def duration(seconds: float) -> str:
    """`4000` as `1 h 7 min`."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    hours, minutes = divmod(whole // 60, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {whole % 60} s"


def section(key: str, title: str, body: str) -> str:
    """A section of the page with a heading; `body` is HTML."""
    return f'<section aria-labelledby="{key}"><h2 id="{key}">{title}</h2>{body}</section>'


def details(summary: str, body: str) -> str:
    """A part the reader unfolds; `body` is HTML."""
    return f"<details><summary>{escape(summary)}</summary>{body}</details>"


def facts_table(values: Mapping[str, Any]) -> str:
    """A nested mapping as a table of two columns; nested names are joined by dots."""
    rows = "".join(
        f'<tr><th scope="row">{escape(name)}</th><td>{escape(text)}</td></tr>'
        for name, text in _flat(values)
    )
    return f'<div class="scroll"><table class="facts"><tbody>{rows}</tbody></table></div>'


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for key, value in values.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{name}.")
        else:
            yield name.replace("_", " ") if not prefix else name, _plain(value, name)


def _plain(value: Any, name: str) -> str:
    if value is None or isinstance(value, Mapping):
        return MISSING
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, (list, tuple)):
        return ", ".join(_plain(item, "") for item in value) or MISSING
    if isinstance(value, (int, float)) and _is_duration(name) and math.isfinite(value):
        return duration(value)
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _is_duration(name: str) -> bool:
    return "seconds" in name or name.split(".")[0] == "duration"
