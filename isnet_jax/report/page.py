"""The report of a run: one HTML file that explains, shows and compares a plain network and ISNet.

The file needs nothing beside itself: styles are inline, pictures are data URLs, curves are SVG.
"""

from __future__ import annotations

import math
import os
import shlex
from collections.abc import Mapping, Sequence
from html import escape
from importlib import resources
from string import Template
from typing import Any

import numpy as np

from isnet_jax.errors import UserError
from isnet_jax.files import write_atomically
from isnet_jax.report.curves import curves_section
from isnet_jax.report.decisions import Decisions, decisions_section
from isnet_jax.report.heatmaps import relevance_rgb
from isnet_jax.report.html import (
    NETWORKS,
    NO_TEST_SETS,
    TEST_SETS,
    details,
    facts_table,
    network_style,
    network_title,
    percent,
    signed,
    to_number,
)
from isnet_jax.report.pictures import (
    examples_section,
    heatmaps_section,
    highest_section,
    means_section,
)
from isnet_jax.report.samples import ClassMeans, Samples
from isnet_jax.report.statistics import statistics_section

_LEAD = (
    "A classifier learns whatever helps on its training images. Here the training images carry a "
    "mark in the background that gives the class away, so a network can score well without "
    "looking at the object at all, and fail as soon as the mark is missing or wrong. An "
    "<b>ISNet</b> is trained against this: in every training step, layer-wise relevance "
    "propagation (LRP) shows which pixels a decision rests on, and relevance outside the object's"
    " mask is punished; images also get each other's backgrounds, unless the options say no. Once "
    "trained, it needs neither masks nor explanations: it is an ordinary classifier that takes an "
    "image. This report compares a plain classifier and an ISNet trained on the same images."
)
_NOTE = (
    "It says where a decision rests, not whether it is right; the accuracy on the confounding set"
    " is the stronger test. “pp” are percentage points, the difference to the same network's "
    "accuracy on the biased set."
)


def write_report(
    path: str | os.PathLike[str],
    metrics: Mapping[str, Any],
    history: Mapping[str, Sequence[Mapping[str, Any]]],
    samples: Samples,
    settings: Mapping[str, Any],
    *,
    warnings: Mapping[str, str] | None = None,
    decisions: Decisions | None = None,
    highest: Samples | None = None,
    means: ClassMeans | None = None,
    title: str = "Does the network look at the object, or at the background?",
    lead: str = _LEAD,
    note: str = _NOTE,
) -> None:
    """Writes the report as one self-contained HTML file, all of it or nothing.

    Args:
        path: the file to write; missing directories are made.
        metrics: as in metrics.json. "plain", "isnet" and the names of other methods map to
            accuracies in [0, 1] by test set, such as "biased", "unbiased", "confounding", to
            "worst_group" and "background_relevance" (fractions in [0, 1]) and to "interventions",
            "explanations" and "statistics", see `isnet_jax.evaluation`; "comparisons" are of the
            method with the others; "command", "seconds", "machine", "date", "version" and any
            other entry are listed as facts of the run. What is missing is shown as a dash.
        history: network -> one mapping per epoch, with "epoch" and any of "train_loss",
            "classification", "heatmap", "validation_accuracy" and "validation_loss". Missing and
            NaN values leave a gap in the curves.
        samples: what the pictures show.
        settings: nested mapping of plain values.
        warnings: network -> what must be said about it, above all else.
        decisions: confusion matrices and ROC curves, if they shall be shown.
        highest: the samples with the highest share of relevance on the background, likewise.
        means: heatmaps averaged over each class, likewise.
        title: the heading.
        lead: HTML of what is below it: what the data and the networks are.
        note: HTML of what the background relevance does not say.

    Raises:
        UserError: when `metrics` has neither network, or a heatmap has NaN or infinite values.
    """
    known = dict.fromkeys([*NETWORKS, *history])
    networks = [name for name in known if isinstance(metrics.get(name), Mapping)]
    if not networks:
        raise UserError(f"metrics must hold {' or '.join(NETWORKS)}, found {sorted(metrics)}")
    facts = {
        "duration" if k == "seconds" else k: v
        for k, v in metrics.items()
        if k not in networks and k not in ("command", "comparisons")
    }
    version = metrics.get("version")
    template = resources.files("isnet_jax.report").joinpath("template.html")
    page = Template(template.read_text(encoding="utf-8")).substitute(
        title=escape(title),
        lead=lead,
        note=note,
        gradient=_css_gradient(),
        verdict=_verdict(metrics, networks),
        headline=_headline(metrics, networks) + _interventions(metrics, networks),
        warnings="".join(_warning(name, text) for name, text in (warnings or {}).items()),
        examples=examples_section(samples),
        heatmaps=heatmaps_section(samples)
        + (means_section(means) if means else "")
        + (highest_section(highest) if highest else ""),
        decisions=(decisions_section(decisions) if decisions else "")
        + statistics_section(metrics, networks),
        curves=curves_section(history),
        facts=facts_table(facts) if facts else "",
        command=_command(metrics.get("command")),
        settings=details("Settings", facts_table(settings)) if settings else "",
        footer=f"Written by isnet_jax{f' {escape(str(version))}' if version else ''}.",
    )
    write_atomically(path, page)


def _verdict(metrics: Mapping[str, Any], networks: Sequence[str]) -> str:
    """One sentence of numbers; it claims nothing that a bad run would make untrue."""
    parts = []
    for name in networks:
        biased, confounding = (to_number(metrics[name].get(k)) for k in ("biased", "confounding"))
        if not math.isnan(biased + confounding):
            parts.append(
                f"the {escape(network_title(name))} is right on <b>{percent(biased)}</b> of the "
                f"biased and on <b>{percent(confounding)}</b> of the confounding test images"
            )
    text = "; ".join(parts).replace("Plain", "plain")
    return f"With the familiar marks, and with misleading ones: {text}." if parts else ""


def _headline(metrics: Mapping[str, Any], networks: Sequence[str]) -> str:
    head = "".join(map(_column_head, networks))
    found = {key: "" for name in networks for key in metrics[name] if key not in NO_TEST_SETS}
    sets = TEST_SETS if found.keys() <= TEST_SETS.keys() else found
    rows = [
        _headline_row(metrics, networks, key, _test_set(key), text, "")
        for key, text in sets.items()
    ]
    if any("worst_group" in metrics[name] for name in networks):
        explained = "the class and test set where it is least often right"
        rows.append(_headline_row(metrics, networks, "worst_group", "Worst group", explained, ""))
    rows.append(
        _headline_row(
            metrics, networks, "background_relevance", "Background relevance",
            "lower is better", "relevance",
        )
    )  # fmt: skip
    caption = "Accuracy on the test sets, and relevance on the background, per network"
    return (
        f'<table class="headline"><caption class="hidden">{caption}</caption><thead><tr>'
        f'<th scope="col">Accuracy on the …</th>{head}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table>"
    )


def _warning(network: str, text: str) -> str:
    return f'<p class="warning"><b>{escape(network_title(network))}:</b> {escape(text)}</p>'


def _interventions(metrics: Mapping[str, Any], networks: Sequence[str]) -> str:
    """Accuracy, and agreement with the images as they are, of each change to the images."""
    found: dict[str, dict[str, Any]] = {
        name: metrics[name].get("interventions") or {} for name in networks
    }
    if not all(found.values()):
        return ""
    backgrounds = [
        key.removeprefix("background_")
        for key in found[networks[0]]
        if key.startswith("background_")
    ]
    names = {
        "exchanged": "another image's background",
        "mean": "background of its mean colour",
        "blurred": "blurred background",
        "noise": "noise as background",
    }
    head = "".join(map(_column_head, networks))
    rows = []
    for key in backgrounds:
        cells = "".join(
            f"<td>{percent(to_number(found[n].get(f'background_{key}')))}"
            f"<small>{percent(to_number(found[n].get(f'agreement_{key}')))} as before</small></td>"
            for n in networks
        )
        rows.append(f'<tr><th scope="row">{escape(names.get(key, key))}</th>{cells}</tr>')
    cells = "".join(
        f"<td>{percent(to_number(found[n].get('object_removed')))}</td>" for n in networks
    )
    rows.append(f'<tr><th scope="row">the object removed</th>{cells}</tr>')
    return (
        "<h3>What the predictions do when the images are changed</h3>"
        "<p>On the first test set, by its masks. Who decides by the object keeps its predictions "
        "with any background, and is at chance without the object.</p>"
        f'<table class="interventions"><thead><tr><th scope="col">Accuracy with …</th>{head}</tr>'
        f"</thead><tbody>{''.join(rows)}</tbody></table>"
    )


def _column_head(network: str) -> str:
    style, title = network_style(network), escape(network_title(network))
    return f'<th scope="col" class="series {style}">{title}</th>'


def _test_set(key: str) -> str:
    return "Test set" if key == "test" else f"{escape(key.capitalize())} test set"


def _headline_row(
    metrics: Mapping[str, Any], networks: Sequence[str], key: str, name: str, text: str, style: str
) -> str:
    values = {network: to_number(metrics[network].get(key)) for network in networks}
    shown = [percent(v) for v in values.values() if not math.isnan(v)]
    known = [v for v in values.values() if not math.isnan(v)]
    best = (min if style else max)(known) if len(set(shown)) > 1 else math.nan
    cells = []
    for network, value in values.items():
        is_best = value == best
        tag = '<span class="tag">BEST</span>' if is_best else ""
        bar = (
            "" if math.isnan(value) else f'<i style="width:{100 * min(max(value, 0), 1):.1f}%"></i>'
        )
        change = value - to_number(metrics[network].get("biased"))
        delta = ""
        if not style and key != "biased" and not math.isnan(change):
            delta = f'<div class="delta">{signed(100 * change)} pp against biased</div>'
        cells.append(
            f'<td class="{network_style(network)}{" best" if is_best else ""}">'
            f'<span class="value">{percent(value)}</span>{tag}'
            f'<div class="bar" aria-hidden="true">{bar}</div>{delta}</td>'
        )
    head = f'<th scope="row">{name}<small>{text}</small></th>'
    return f'<tr class="{style}">{head}{"".join(cells)}</tr>'


def _command(command: Any) -> str:
    if not command:
        return ""
    line = command if isinstance(command, str) else shlex.join(map(str, command))
    return f"<h3>To reproduce it</h3><pre><code>{escape(line)}</code></pre>"


def _css_gradient() -> str:
    """The heatmaps' colours, from -limit to +limit, for the key."""
    colours = relevance_rgb(np.linspace(-1, 1, 11)[None], limit=1.0)[0]
    return f"linear-gradient(90deg, {', '.join(f'rgb({r},{g},{b})' for r, g, b in colours)})"
