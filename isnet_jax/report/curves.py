"""The report's training curves: line charts as inline SVG, coloured by the page's style sheet."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

import numpy as np
from matplotlib.ticker import LogLocator, MaxNLocator

from isnet_jax.report.html import (
    MISSING,
    details,
    network_style,
    network_title,
    section,
    to_number,
)

WIDTH, HEIGHT = 460, 250
LEFT, RIGHT, TOP, BOTTOM = 52, 12, 12, 34
_LOG_FROM = 30
"""Ratio of a chart's largest to its smallest value from which its axis is logarithmic."""

_ACCURACY = "Validation accuracy"
# Title -> curves of each network: what the legend adds to its name, CSS class, key of the history.
_CHARTS = {
    _ACCURACY: [("", "", "validation_accuracy")],
    "Classification loss in training": [("", "", "classification")],
    "Heatmap loss in training": [("", "", "heatmap")],
    "Total loss": [
        (", training", "", "train_loss"),
        (", validation", "dashed", "validation_loss"),
    ],
}
_COLUMNS = {
    "epoch": "Epoch",
    "step": "Step",
    "train_loss": "Training loss",
    "classification": "Classification",
    "heatmap": "Heatmap",
    "validation_loss": "Validation loss",
    "validation_accuracy": "Validation accuracy",
    "seconds": "Seconds",
}


@dataclass(frozen=True)
class Line:
    """One curve: its name, its CSS classes, and a value per epoch (NaN leaves a gap)."""

    name: str
    style: str
    epochs: Sequence[float]
    values: Sequence[float]


def curves_section(history: Mapping[str, Sequence[Mapping[str, Any]]]) -> str:
    """The charts of all networks and the numbers behind them; nothing without any number."""
    charts = []
    for title, curves in _CHARTS.items():
        lines = [
            line
            for network, records in history.items()
            for suffix, style, key in curves
            if (line := _read_line(network, records, suffix, style, key))
        ]
        if lines:
            charts.append(_chart(title, lines, percent_axis=title == _ACCURACY))
    if not charts:
        return ""
    return section(
        "curves",
        "Training",
        "<p>The validation images carry the same marks as the training images, so a high accuracy "
        "here does not show that a network could do without them. The total loss of an ISNet "
        "includes its heatmap loss and does not compare with the plain network's.</p>"
        f'<div class="charts">{"".join(charts)}</div>{_epoch_tables(history)}',
    )


def _read_line(
    network: str, records: Sequence[Mapping[str, Any]], suffix: str, style: str, key: str
) -> Line | None:
    """One curve, or None without a finite value. Epochs count from 1 where they are not named."""
    epochs = [to_number(record.get("epoch", i)) for i, record in enumerate(records, start=1)]
    if key == "classification" and not _has_heatmap_loss(records):
        # Then the whole training loss is the classification loss; it need not be recorded twice.
        values = [to_number(record.get(key, record.get("train_loss"))) for record in records]
    else:
        values = [to_number(record.get(key)) for record in records]
    pairs = zip(epochs, values, strict=True)
    values = [value if math.isfinite(epoch) else math.nan for epoch, value in pairs]
    if not any(map(math.isfinite, values)):
        return None
    name = network_title(network) + suffix
    return Line(name, f"{network_style(network)} {style}".strip(), epochs, values)


def _has_heatmap_loss(records: Sequence[Mapping[str, Any]]) -> bool:
    return any(math.isfinite(to_number(record.get("heatmap"))) for record in records)


def _chart(title: str, lines: Sequence[Line], *, percent_axis: bool) -> str:
    """One chart as an HTML figure with its legend.

    Args:
        title: what the vertical axis shows.
        lines: at least one curve with a finite value.
        percent_axis: values are fractions, drawn from 0 to 100 %; otherwise the axis fits the
            values and is logarithmic when they span more than a factor of 30.
    """
    epochs = np.concatenate([line.epochs for line in lines])
    values = np.concatenate([line.values for line in lines])
    known = np.isfinite(epochs) & np.isfinite(values)
    epochs, values = epochs[known], values[known]
    log = not percent_axis and values.min() > 0 and values.max() / values.min() > _LOG_FROM
    low, high, ticks = _value_axis(values, log=log, percent=percent_axis)
    first, last = epochs.min(), epochs.max()
    margin = 0.5 if first == last else 0.0

    def x(epoch: float) -> float:
        part = (epoch - first + margin) / (last - first + 2 * margin)
        return LEFT + part * (WIDTH - LEFT - RIGHT)

    def y(value: float) -> float:
        part = math.log(value / low) / math.log(high / low) if log else (value - low) / (high - low)
        return HEIGHT - BOTTOM - part * (HEIGHT - TOP - BOTTOM)

    grid = [
        f'<line class="grid{" base" if i == 0 else ""}" x1="{LEFT}" x2="{WIDTH - RIGHT}" '
        f'y1="{y(tick):.1f}" y2="{y(tick):.1f}"/><text x="{LEFT - 8}" y="{y(tick) + 4:.1f}" '
        f'text-anchor="end">{f"{100 * tick:g} %" if percent_axis else f"{tick:g}"}</text>'
        for i, tick in enumerate(ticks)
    ]
    grid += [
        f'<text x="{x(tick):.1f}" y="{HEIGHT - BOTTOM + 17}" text-anchor="middle">{tick:g}</text>'
        for tick in _epoch_ticks(first, last)
    ]
    grid.append(
        f'<text x="{(LEFT + WIDTH - RIGHT) / 2}" y="{HEIGHT - 2}" text-anchor="middle">epoch</text>'
    )
    curves = [_curve(line, x, y) for line in lines]
    full_title = f"{title}, log scale" if log else title
    summary = "; ".join(f"{line.name} ends at {_last(line):.3g}" for line in lines)
    return (
        f"<figure><h3>{escape(full_title)}</h3>{_legend(lines)}"
        f'<svg class="plot" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
        f'aria-label="{escape(f"{full_title} per epoch: {summary}")}">'
        f"{''.join(grid)}{''.join(curves)}</svg></figure>"
    )


def _value_axis(
    values: np.ndarray, *, log: bool, percent: bool
) -> tuple[float, float, Sequence[float]]:
    if percent:
        return 0.0, 1.0, (0.0, 0.25, 0.5, 0.75, 1.0)
    if log:
        ticks = LogLocator(numticks=6).tick_values(values.min(), values.max())
        low = 10.0 ** math.floor(math.log10(values.min()))
        high = 10.0 ** math.ceil(math.log10(values.max()) + 1e-9)
        inside = [float(t) for t in ticks if low * (1 - 1e-9) <= t <= high * (1 + 1e-9)]
        return low, high, inside
    low, high = min(0.0, values.min()), values.max()
    ticks = MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]).tick_values(low, high if high > low else 1.0)
    return float(ticks[0]), float(ticks[-1]), [float(tick) for tick in ticks]


def _epoch_ticks(first: float, last: float) -> list[float]:
    if first == last:
        return [float(first)]
    ticks = MaxNLocator(7, integer=True, steps=[1, 2, 5, 10]).tick_values(first, last)
    return [float(tick) for tick in ticks if first <= tick <= last]


def _curve(line: Line, x: Callable[[float], float], y: Callable[[float], float]) -> str:
    commands, dots = [], []
    alone = sum(map(math.isfinite, line.values)) <= 12
    pen_down = False
    for epoch, value in zip(line.epochs, line.values, strict=True):
        if not (math.isfinite(epoch) and math.isfinite(value)):
            pen_down = False
            continue
        commands.append(f"{'L' if pen_down else 'M'}{x(epoch):.1f} {y(value):.1f}")
        if alone:
            dots.append(
                f'<circle class="series-dot" cx="{x(epoch):.1f}" cy="{y(value):.1f}" r="3"/>'
            )
        pen_down = True
    return (
        f'<g class="{line.style}"><path class="series-line" d="{"".join(commands)}"/>'
        f"{''.join(dots)}</g>"
    )


def _legend(lines: Sequence[Line]) -> str:
    items = [
        f'<li class="{line.style}"><svg viewBox="0 0 26 8" aria-hidden="true">'
        f'<path class="series-line" d="M1 4H25"/></svg>{escape(line.name)}</li>'
        for line in lines
    ]
    return f'<ul class="legend">{"".join(items)}</ul>'


def _last(line: Line) -> float:
    return [value for value in line.values if math.isfinite(value)][-1]


def _epoch_tables(history: Mapping[str, Sequence[Mapping[str, Any]]]) -> str:
    return "".join(
        details(f"Numbers per epoch: {network_title(network)}", _epoch_table(records))
        for network, records in history.items()
        if records
    )


def _epoch_table(records: Sequence[Mapping[str, Any]]) -> str:
    keys = [key for key in _COLUMNS if any(key in record for record in records)]
    head = "".join(f'<th scope="col">{_COLUMNS[key]}</th>' for key in keys)
    rows = []
    for record in records:
        numbers = [to_number(record.get(key)) for key in keys]
        cells = [f"<td>{MISSING if math.isnan(n) else f'{n:.5g}'}</td>" for n in numbers]
        rows.append(f"<tr>{''.join(cells)}</tr>")
    return (
        f'<div class="scroll"><table class="epochs"><thead><tr>{head}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div>"
    )
