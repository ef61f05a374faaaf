"""The heatmaps of all methods side by side, of the runs that rivals.py left.

    python experiments/rivals_pictures.py --runs runs/rivals --set textured

Rows are test images, the first of their classes, whatever the networks make of them; columns are
methods. Every heatmap explains the highest logit by the same LRP; a red frame: the answer is wrong.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import tyro
from PIL import Image, ImageDraw, ImageFont
from rich.console import Console

from isnet_jax.commands import hard
from isnet_jax.evaluation.background import Explained, explain_classes
from isnet_jax.report.heatmaps import as_image, relevance_rgb

SIZE, GAP, CAPTION = 72, 6, 100


@dataclasses.dataclass(frozen=True)
class Pictures:
    """Draw them.

    Attributes:
      runs: the output folder of rivals.py.
      set: one of its sets.
      test_set: whose images are shown.
      rows: how many.
      seed: of the runs.
      data_dir: where prepared data sets are kept.
      out: a PNG file.
    """

    runs: Path
    set: str = "textured"
    test_set: str = "confounding"
    rows: int = 10
    seed: int = 0
    data_dir: Path = Path("datasets")
    out: Path = Path("rivals.png")


def main(pictures: Pictures) -> None:
    found: dict[str, Explained] = {}
    shown: Mapping[str, Any] = {}
    folders = sorted((pictures.runs / pictures.set).glob(f"*/steps/{pictures.seed}"))
    for folder in folders:
        method = folder.parts[-3]
        networks, splits = hard.opened(folder, pictures.data_dir, Console(quiet=True))
        split = splits[f"test_{pictures.test_set}"]
        _, firsts = np.unique(split.labels, return_index=True)
        shown = split.batch(firsts[: pictures.rows])
        (network,) = networks.values()
        found[method] = explain_classes(network, shown["image"])
    draw(shown, found).save(pictures.out, optimize=True)


def draw(shown: Mapping[str, Any], found: Mapping[str, Explained]) -> Image.Image:
    """A column of images, and one of heatmaps for each method, with the names on end above."""
    across, rows = SIZE + GAP, len(shown["label"])
    grid = Image.new("RGB", ((1 + len(found)) * across, CAPTION + rows * across), "white")
    pen = ImageDraw.Draw(grid)
    for row, image in enumerate(shown["image"]):
        grid.paste(_tile(np.asarray(image)), (0, CAPTION + row * across))
    for column, (method, explained) in enumerate(found.items(), start=1):
        grid.paste(_on_end(method), (column * across, 0))
        answers = np.argmax(explained.logits, 1)
        for row, relevance in enumerate(explained.relevance):
            corner = (column * across, CAPTION + row * across)
            grid.paste(_tile(relevance_rgb(relevance)), corner)
            wrong = answers[row] != shown["label"][row]
            frame = (*corner, corner[0] + SIZE - 1, corner[1] + SIZE - 1)
            pen.rectangle(frame, outline="#c81e1e" if wrong else "#bbbbbb", width=3 if wrong else 1)
    return grid


def _tile(picture: np.ndarray) -> Image.Image:
    return as_image(picture).convert("RGB").resize((SIZE, SIZE), Image.Resampling.NEAREST)


def _on_end(name: str) -> Image.Image:
    label = Image.new("RGB", (CAPTION, SIZE), "white")
    font = ImageFont.load_default(size=12)
    middle = (0, SIZE / 2)
    ImageDraw.Draw(label).text(middle, name, fill="black", font=font, anchor="lm")
    return label.rotate(90, expand=True)


if __name__ == "__main__":
    main(tyro.cli(Pictures))
