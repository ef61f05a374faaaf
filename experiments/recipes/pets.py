"""Oxford-IIIT Pets, of which a mark on the background gives the breed away.

    python experiments/recipes/pets.py downloads/pets datasets/raw/pets

The download (images.tar.gz and annotations.tar.gz) unpacked: images/pug_12.jpg,
annotations/trimaps/pug_12.png, annotations/trainval.txt, annotations/test.txt.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import laid_out
import numpy as np
import tyro

from isnet_jax.commands.main import exit_codes
from isnet_jax.data import BackgroundMark, paint
from isnet_jax.data.digits.marks import confounding_code
from isnet_jax.errors import UserError, suggest
from isnet_jax.report.heatmaps import save_png

_BACKGROUND = 2  # in the trimaps; 1 is the animal, 3 its rim


@dataclasses.dataclass(frozen=True)
class Pets:
    """Paint a white shape, one for each breed, on the background of the training images.

    Writes images with masks and data.csv with the splits train, test_biased (the breed's own
    mark), test_unbiased (no mark) and test_confounding (another breed's).

    Attributes:
      folder: of the download.
      out: folder to write to.
      breeds: which ones, as their files are called; 2 to 12.
      mark: side of the marks, as a share of the image's shorter side.
      seed: decides places of the marks.
    """

    folder: Annotated[Path, tyro.conf.Positional]
    out: Annotated[Path, tyro.conf.Positional]
    breeds: tuple[str, ...] = ("beagle", "pug", "samoyed")
    mark: float = 0.12
    seed: int = 0

    def __post_init__(self):
        if not 0 < self.mark <= 0.5:
            raise UserError(f"mark is {self.mark}; expected above 0, at most 0.5.")


def main(options: Pets) -> None:
    annotations = options.folder / "annotations"
    laid_out.require(options.folder, "images", "annotations/trimaps")
    rows: list[dict[str, str]] = []
    rng = np.random.default_rng(options.seed)
    for split in ("trainval", "test"):
        names = [words[0] for words in laid_out.lines(annotations / f"{split}.txt", "a list")]
        known = {_breed(name) for name in names}
        for breed in options.breeds:
            if breed not in known:
                raise UserError(suggest(breed, known, what="breed"))
        for name in (name for name in names if _breed(name) in options.breeds):
            rows += _samples(options, name, split, rng)
    laid_out.write_table(options.out / "data.csv", rows)


def _breed(name: str) -> str:
    return name.rsplit("_", 1)[0]


def _samples(
    options: Pets, name: str, split: str, rng: np.random.Generator
) -> Iterator[dict[str, str]]:
    """The rows of a photograph, once its pictures are written."""
    pixels = laid_out.colours(options.folder / "images" / f"{name}.jpg")
    trimap = laid_out.numbers(options.folder / "annotations" / "trimaps" / f"{name}.png")
    mask = trimap != _BACKGROUND
    if mask.all():
        print(f"left out: {name} has no background")
        return
    laid_out.write_mask(options.out / "masks" / f"{name}.png", mask)
    count = len(options.breeds)
    own = options.breeds.index(_breed(name))
    shapes: dict[str, int | None] = {"train": own}
    if split == "test":
        other = confounding_code(own, count, rng)
        shapes = {"test_biased": own, "test_unbiased": None, "test_confounding": other}
    size = max(3, round(options.mark * min(mask.shape)))
    for place, shape in shapes.items():
        mark = BackgroundMark(kind="shape", size=size)
        shown = pixels if shape is None else paint(mark, pixels, mask, shape, count, rng)
        image = f"images/{place}/{name}.png"
        save_png(shown, options.out / image)
        yield {
            "image": image, "mask": f"masks/{name}.png", "label": _breed(name), "split": place
        }  # fmt: skip


if __name__ == "__main__":
    with exit_codes():
        main(tyro.cli(Pets))
