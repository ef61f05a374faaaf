"""The report's training curves: line charts as inline SVG, coloured by the page's style sheet."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

import numpy as np
from matplotlib.ticker import LogLocator, MaxNLocator

from isnet_jax._report_html import details, network_name, network_style, percent, section, to_number

WIDTH, HEIGHT = 460, 250
LEFT, RIGHT, TOP, BOTTOM = 52, 12, 12, 34
_LOG_FROM = 30
"""Ratio of a chart's largest to its smallest value from which its axis is logarithmic."""


@dataclass(frozen=True)
class Line:
    """One curve: its name, its CSS classes, and a value per epoch (NaN leaves a gap)."""

    name: str
    style: str
    epochs: Sequence[float]
    values: Sequence[float]


def read_line(
    name: str, style: str, records: Sequence[Mapping[str, Any]], keys: Sequence[str]
) -> Line | None:
    """The curve of the first of `keys` that has a finite value anywhere; None without one.

    Epochs are counted from 1 where the records do not name them.
    """
    epochs = [to_number(record.get("epoch", i)) for i, record in enumerate(records, start=1)]
    for key in keys:
        values = [to_number(record.get(key)) for record in records]
        if any(math.isfinite(v) and math.isfinite(e) for v, e in zip(values, epochs, strict=True)):
            return Line(name, style, epochs, values)
    return None


def chart(title: str, lines: Sequence[Line], *, percent: bool = False) -> str:
    """One chart as an HTML figure with its legend.

    Args:
        title: what the vertical axis shows.
        lines: at least one curve with a finite value.
        percent: values are fractions, drawn from 0 to 100 %; otherwise the axis fits the values
            and is logarithmic when they span more than a factor of 30.
    """
    epochs = np.concatenate([line.epochs for line in lines])
    values = np.concatenate([line.values for line in lines])
    known = np.isfinite(epochs) & np.isfinite(values)
    epochs, values = epochs[known], values[known]
    log = not percent and values.min() > 0 and values.max() / values.min() > _LOG_FROM
    low, high, ticks = _value_axis(values, log=log, percent=percent)
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
        f'text-anchor="end">{f"{100 * tick:g} %" if percent else f"{tick:g}"}</text>'
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


def _curve(line: Line, x, y) -> str:
    commands, dots = [], []
    alone = sum(map(math.isfinite, line.values)) <= 12
    pen_down = False
    for epoch, value in zip(line.epochs, line.values, strict=True):
        if not (math.isfinite(epoch) and math.isfinite(value)):
            pen_down = False
            continue
        commands.append(f"{'L' if pen_down else 'M'}{x(epoch):.1f} {y(value):.1f}")
        if alone:
            dots.append(f'<circle class="series-dot" cx="{x(epoch):.1f}" cy="{y(value):.1f}" r="3"/>')
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


def curves_section(history: Mapping[str, Sequence[Mapping[str, Any]]]) -> str:
    charts = []
    for title, parts in _CHARTS:
        lines = [
            line
            for network in history
            for suffix, style, keys in parts
            if (line := _line(history[network], network, suffix, style, keys)) is not None
        ]
        if lines:
            charts.append(chart(title, lines, percent="accuracy" in title))
    if not charts:
        return ""
    return section(
        "curves",
        "Training",
        '<p>Validation images carry the same marks as the training images: a high accuracy here '
        "does not show that a network would do without them. "
        "The total loss of an ISNet holds its heatmap loss and is not comparable to the plain "
        "network's.</p>"
        f'<div class="charts">{"".join(charts)}</div>{_epoch_tables(history)}',
    )
