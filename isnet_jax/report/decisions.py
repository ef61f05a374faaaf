"""The report's confusion matrices and ROC curves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

import numpy as np

from isnet_jax.report.html import details, network_style, network_title, percent, section

_MOST_CLASSES = 12  # of a matrix, and of curves
_PAIRS = 10
_SIDE, _MARGIN = 220, 34


@dataclass(frozen=True)
class Decisions:
    """What the networks decide on the first test set.

    Attributes:
        class_names: of each class.
        confusion: network -> (classes, classes), samples of each class (row) that are taken for
            each (column); None for multi-label data.
        rocs: network -> class -> (false positive rates, true positive rates, area below), rates
            in [0, 1] from (0, 0) to (1, 1).
    """

    class_names: Sequence[str]
    confusion: Mapping[str, Any] | None
    rocs: Mapping[str, Mapping[int, tuple[Any, Any, float]]]


def decisions_section(decisions: Decisions) -> str:
    """Matrices, curves, and a table of the areas below these; nothing without either."""
    parts = []
    if decisions.confusion:
        few = len(decisions.class_names) <= _MOST_CLASSES
        show = _matrix if few else _pairs
        parts += [show(name, m, decisions.class_names) for name, m in decisions.confusion.items()]
    if any(decisions.rocs.values()):
        charts = "".join(
            _chart(name, curves, decisions.class_names)
            for name, curves in decisions.rocs.items()
            if curves
        )
        parts.append(f'<h3>ROC curves</h3><div class="charts">{charts}</div>{_areas(decisions)}')
    if not parts:
        return ""
    words = "<p>On the first test set. A row of a matrix holds the images of one class.</p>"
    return section("decisions", "What is taken for what", words + "".join(parts))


def _matrix(network: str, matrix: Any, names: Sequence[str]) -> str:
    counts = np.asarray(matrix)
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    head = "".join(f'<th scope="col">{escape(name)}</th>' for name in names)
    rows = []
    for name, row, parts in zip(names, counts, shares, strict=True):
        cells = "".join(
            f'<td style="--part:{60 * part:.0f}%">{count}</td>'
            for count, part in zip(row, parts, strict=True)
        )
        rows.append(f'<tr><th scope="row">{escape(name)}</th>{cells}</tr>')
    return (
        f'<h3>{escape(network_title(network))}</h3><div class="scroll">'
        f'<table class="confusion {network_style(network)}"><thead><tr>'
        f'<th scope="col">is … taken for</th>{head}</tr>'
        f"</thead><tbody>{''.join(rows)}</tbody></table></div>"
    )


def _pairs(network: str, matrix: Any, names: Sequence[str]) -> str:
    """Of many classes, those that are mistaken most often."""
    counts = np.array(matrix)
    np.fill_diagonal(counts, 0)
    order = np.argsort(-counts, axis=None, kind="stable")[:_PAIRS]
    worst = [(*divmod(int(place), len(names)), int(counts.flat[place])) for place in order]
    rows = "".join(
        f"<tr><td>{escape(names[true])}</td><td>{escape(names[taken])}</td><td>{count}</td></tr>"
        for true, taken, count in worst
        if count
    )
    if not rows:
        return ""
    return (
        f"<h3>{escape(network_title(network))}: most frequent mistakes</h3>"
        '<table class="confusion"><thead><tr><th scope="col">class</th><th scope="col">taken for'
        f'</th><th scope="col">images</th></tr></thead><tbody>{rows}</tbody></table>'
    )


def _chart(network: str, curves: Mapping[int, tuple[Any, Any, float]], names: Sequence[str]) -> str:
    worst_first = sorted(curves, key=lambda code: curves[code][2])[:_MOST_CLASSES]
    low, high = _MARGIN, _MARGIN + _SIDE
    drawn = []
    for code in worst_first:
        across, up, area = curves[code]
        points = " ".join(
            f"{low + _SIDE * x:.1f},{high - _SIDE * y:.1f}" for x, y in zip(across, up, strict=True)
        )
        title = f"<title>{escape(names[code])}: area {area:.3f}</title>"
        drawn.append(
            f'<polyline class="series-line" fill="none" points="{points}">{title}</polyline>'
        )
    grid = "".join(
        f'<line class="grid" x1="{low}" x2="{high}" y1="{y:.0f}" y2="{y:.0f}"/>'
        f'<text x="{low - 6}" y="{y + 4:.0f}" text-anchor="end">{100 * share:g} %</text>'
        for share in (0, 0.5, 1)
        for y in (high - _SIDE * share,)
    )
    name = escape(network_title(network))
    size = _SIDE + 2 * _MARGIN
    summary = "; ".join(f"{escape(names[code])} {curves[code][2]:.3f}" for code in worst_first)
    return (
        f'<figure><h3>{name}</h3><svg class="plot" viewBox="0 0 {size + 16} {size}" role="img" '
        f'aria-label="ROC curves of {name}, areas: {summary}">{grid}'
        f'<line class="grid" x1="{low}" y1="{high}" x2="{high}" y2="{low}"/>'
        f'<g class="{network_style(network)}">{"".join(drawn)}</g>'
        f'<text x="{(low + high) / 2}" y="{high + 20}" text-anchor="middle">false alarms</text>'
        f'<text x="{low}" y="{low - 12}">found</text></svg></figure>'
    )


def _areas(decisions: Decisions) -> str:
    codes = sorted({code for curves in decisions.rocs.values() for code in curves})
    head = "".join(f'<th scope="col">{escape(network_title(n))}</th>' for n in decisions.rocs)
    rows = []
    for code in codes:
        found = (curves.get(code) for curves in decisions.rocs.values())
        cells = "".join(f"<td>{percent(c[2]) if c else ''}</td>" for c in found)
        name = escape(decisions.class_names[code])
        rows.append(f'<tr><th scope="row">{name}</th>{cells}</tr>')
    return details(
        "Areas below the curves",
        f'<div class="scroll"><table class="epochs"><thead><tr><th scope="col">class</th>{head}'
        f"</tr></thead><tbody>{''.join(rows)}</tbody></table></div>",
    )
