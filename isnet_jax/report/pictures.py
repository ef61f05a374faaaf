"""The report's pictures: the three test sets side by side, and the heatmaps of every network."""

from __future__ import annotations

import base64
import io
from collections import Counter
from collections.abc import Iterable
from html import escape
from typing import TYPE_CHECKING, SupportsInt

import numpy as np

from isnet_jax.report.heatmaps import QUANTILE, as_image, mask_outline, png_bytes, relevance_rgb
from isnet_jax.report.html import TEST_SETS, network_style, network_title, percent, section

if TYPE_CHECKING:
    from isnet_jax.report.samples import ClassMeans, Samples

EXAMPLES = 8
HEATMAP_SAMPLES = 6
_MOST_CLASSES = 12
_LARGEST_SIDE = 128
_EXACT_SIDE = 64


def examples_section(samples: Samples) -> str:
    chosen = _choose(samples, EXAMPLES)
    if not chosen or len(samples.images) < 2:
        return ""
    cells = ['<div class="corner"></div>']
    cells += [f'<div class="class">{_class_name(samples, samples.labels[n])}</div>' for n in chosen]
    for test_set, images in samples.images.items():
        text = TEST_SETS.get(test_set, "")
        name = escape(test_set.capitalize())
        cells.append(f'<div class="set">{name}<small>{text}</small></div>')
        for n in chosen:
            alt = f"class {_class_name(samples, samples.labels[n])}, {escape(test_set)} test set"
            cells.append(_frame(np.asarray(images[n]), alt))
    return section(
        "examples",
        "The three test sets",
        "<p>The same objects, three times; only the background differs.</p>"
        f'<div class="examples" style="--count:{len(chosen)}">{"".join(cells)}</div>',
    )


def highest_section(samples: Samples) -> str:
    """Heatmaps of samples that were chosen for what lies on their background."""
    if not len(samples.labels) or not samples.heatmaps:
        return ""
    return section(
        "highest",
        "Where most lies on the background",
        "<p>The annotated images of the first test set whose heatmaps have the largest share of "
        "|relevance| outside the mask, for the last of the networks. Look here for masks that "
        "miss a part of the object, and for what the network still takes from the background.</p>"
        f"{_blocks(samples, range(len(samples.labels)))}",
    )


def means_section(means: ClassMeans) -> str:
    """The mean heatmaps of each class that has any relevance, at most so many as fit."""
    shown = np.any([np.asarray(maps).any((1, 2)) for maps in means.heatmaps.values()], axis=0)
    chosen = np.flatnonzero(shown)[:_MOST_CLASSES].tolist()
    if not means.heatmaps or not chosen:
        return ""
    blocks = []
    for code in chosen:
        name = escape(str(means.class_names[code]))
        mask = _frame(np.asarray(means.masks[code]), f"mean mask of class {name}")
        tiles = [f"<figure>{mask}<figcaption>masks</figcaption></figure>"]
        for network, maps in means.heatmaps.items():
            label = escape(network_title(network))
            picture = _frame(relevance_rgb(maps[code]), f"mean heatmap of {label}, class {name}")
            tiles.append(
                f'<figure class="{network_style(network)}">{picture}'
                f"<figcaption><b>{label}</b></figcaption></figure>"
            )
        blocks.append(
            f'<div class="group"><h4>{name}</h4><div class="tiles">{"".join(tiles)}</div></div>'
        )
    more = len(means.class_names) - len(chosen)
    rest = f" {more} more classes are not shown." if more > 0 else ""
    return section(
        "means",
        "Where each class is looked for",
        "<p>Means over the annotated images of the first test set: of their masks, brightest where "
        "most objects are, and of the share of |relevance| at each place, each with its own "
        f"scale. A shape that no object has is a shortcut of the data.{rest}</p>"
        f'<div class="groups">{"".join(blocks)}</div>',
    )


def _blocks(samples: Samples, chosen: Iterable[int]) -> str:
    blocks = []
    for n in chosen:
        groups = "".join(_heatmap_group(samples, test_set, n) for test_set in samples.images)
        name = _class_name(samples, samples.labels[n])
        blocks.append(
            f'<div class="sample"><h3>Class {name}</h3><div class="groups">{groups}</div></div>'
        )
    return "".join(blocks)


def heatmaps_section(samples: Samples) -> str:
    chosen = _choose(samples, HEATMAP_SAMPLES)
    if not chosen or not samples.heatmaps:
        return ""
    quantile = f"{100 * QUANTILE:g}"
    return section(
        "heatmaps",
        "What the decisions rest on",
        "<p>Each heatmap explains the class the network chose: its highest logit. The line is the "
        "border of the object's mask, which the networks do not see here. Relevance outside it is "
        "evidence taken from the background.</p>"
        '<div class="key"><span>against the choice</span><i></i><span>for the choice</span></div>'
        f"{_blocks(samples, chosen)}"
        f'<p class="note">Relevance is summed over the colour channels. Every heatmap has its own '
        f"scale, symmetric about zero: the darkest colours stand for the {quantile} % quantile of "
        "its |relevance| and beyond, so colours show where a network looks and cannot be compared "
        "in strength. “Outside” is the share of |relevance| outside the mask. Shown are the "
        "first samples of every class, whatever the networks made of them.</p>",
    )


def _heatmap_group(samples: Samples, test_set: str, n: int) -> str:
    mask = np.asarray(samples.masks[n])
    image = _frame(np.asarray(samples.images[test_set][n]), f"{escape(test_set)} test image")
    tiles = [f"<figure>{image}<figcaption>input</figcaption></figure>"]
    for network, by_set in samples.heatmaps.items():
        if test_set not in by_set:
            continue
        heatmap = np.asarray(by_set[test_set][n])
        prediction = int(samples.predictions[network][test_set][n])
        wrong = prediction != int(samples.labels[n])
        name = _class_name(samples, prediction)
        share = percent(_outside(heatmap, mask), digits=0)
        confidence = percent(float(samples.confidences[network][test_set][n]), digits=0)
        answer = f"{name} ({confidence})"
        verdict = f"✗ {answer}" if wrong else f"✓ {answer}"
        label = escape(network_title(network).replace("Plain classifier", "Plain"))
        alt = (
            f"Heatmap of {label}, {escape(test_set)} test image: predicts {answer}, "
            f"{'wrong' if wrong else 'right'}; {share} of the relevance is on the background"
        )
        frame = _frame(relevance_rgb(heatmap), alt, mask=mask, wrong=wrong)
        tiles.append(
            f'<figure class="{network_style(network)}">{frame}<figcaption><b>{label}</b><br>'
            f'<span class="verdict{" wrong" if wrong else ""}">{verdict}</span><br>'
            f"{share} outside</figcaption></figure>"
        )
    return (
        f'<div class="group"><h4>{escape(test_set.capitalize())}</h4>'
        f'<div class="tiles">{"".join(tiles)}</div></div>'
    )


def _frame(
    picture: np.ndarray, alt: str, *, mask: np.ndarray | None = None, wrong: bool = False
) -> str:
    """An <img> with the mask's outline as vectors above it; `alt` is escaped already."""
    height, width = picture.shape[:2]
    outline = ""
    if mask is not None:
        path = "".join(
            f"M{x0:g} {y0:g}L{x1:g} {y1:g}" for (x0, y0), (x1, y1) in mask_outline(mask).tolist()
        )
        outline = (
            f'<svg viewBox="0 0 {width} {height}" preserveAspectRatio="none" aria-hidden="true">'
            f'<path d="{path}"/></svg>'
        )
    pixels = ' class="pixels"' if max(height, width) <= _EXACT_SIDE else ""
    return (
        f'<span class="frame{" wrong" if wrong else ""}"><img{pixels} src="{_data_url(picture)}" '
        f'width="{width}" height="{height}" alt="{alt}">{outline}</span>'
    )


def _data_url(picture: np.ndarray) -> str:
    """Small pictures as exact PNG; large ones shrunk and as JPEG, to keep the report light."""
    if max(picture.shape[:2]) <= _EXACT_SIDE:
        kind, data = "png", png_bytes(picture)
    else:
        image = as_image(picture).convert("RGB")
        image.thumbnail((_LARGEST_SIDE, _LARGEST_SIDE))
        buffer = io.BytesIO()
        image.save(buffer, format="JPEG", quality=88)
        kind, data = "jpeg", buffer.getvalue()
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"


def _outside(heatmap: np.ndarray, mask: np.ndarray) -> float:
    """The share of |relevance| outside the mask; NaN where all relevance is zero."""
    magnitude = np.abs(heatmap.astype(np.float64))
    total = magnitude.sum()
    return float((magnitude * (mask <= 0.5)).sum() / total) if total > 0 else float("nan")


def _choose(samples: Samples, count: int) -> list[int]:
    """The first sample of every class, then the second, and so on; at most `count`."""
    seen: Counter[int] = Counter()
    order = []
    for n, label in enumerate(np.asarray(samples.labels).tolist()):
        order.append((seen[label], label, n))
        seen[label] += 1
    return [n for _, _, n in sorted(order)[:count]]


def _class_name(samples: Samples, label: SupportsInt) -> str:
    return escape(str(samples.class_names[int(label)]))
