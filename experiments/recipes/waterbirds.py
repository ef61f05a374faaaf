"""Waterbirds: birds of CUB before photographs of water and of land.

    python experiments/recipes/waterbirds.py downloads/CUB_200_2011 downloads/places \
        datasets/raw/waterbirds

The first folder is CUB-200-2011 unpacked, with its segmentations/ inside; the second holds
photographs in water/ and land/, such as Places' ocean, lake and forests. After Sagawa et al.,
Distributionally robust neural networks, ICLR 2020.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated

import laid_out
import numpy as np
import tyro

from isnet_jax.commands.images import image_files
from isnet_jax.commands.main import exit_codes
from isnet_jax.data.custom.fitting import fitted
from isnet_jax.errors import UserError
from isnet_jax.report.heatmaps import save_png

# Words in the names of the birds that live on water.
WATERBIRDS = (
    "Albatross", "Auklet", "Cormorant", "Frigatebird", "Fulmar", "Gadwall", "Grebe", "Guillemot",
    "Gull", "Jaeger", "Kittiwake", "Loon", "Mallard", "Merganser", "Pelican", "Puffin", "Tern",
)  # fmt: skip
PLACES = ("land", "water")
_HALF = 128  # of the shades of segmentations, which are means of several people's


@dataclasses.dataclass(frozen=True)
class Waterbirds:
    """Cut the birds out and put them before photographs of water or land.

    Writes images with masks and data.csv with the classes landbird and waterbird and the splits
    train, test_biased (each kind before its own ground) and test_confounding (before the other).

    Attributes:
      birds: folder of CUB-200-2011.
      backgrounds: folder with land/ and water/.
      out: folder to write to.
      tied: share of the training images whose ground is that of their kind of bird.
      seed: decides which photograph is behind which bird.
    """

    birds: Annotated[Path, tyro.conf.Positional]
    backgrounds: Annotated[Path, tyro.conf.Positional]
    out: Annotated[Path, tyro.conf.Positional]
    tied: float = 0.95
    seed: int = 0

    def __post_init__(self):
        if not 0 <= self.tied <= 1:
            raise UserError(f"tied is {self.tied}; expected a share, in [0, 1].")


def main(options: Waterbirds) -> None:
    laid_out.require(options.birds, "images", "segmentations")
    laid_out.require(options.backgrounds, *PLACES)
    lists = {
        name: dict(laid_out.lines(options.birds / f"{name}.txt", "a list of CUB"))
        for name in ("images", "train_test_split")
    }
    grounds = {
        place: _divided(image_files((options.backgrounds / place,), "prepare")) for place in PLACES
    }
    rng = np.random.default_rng(options.seed)
    rows = []
    for number, image in lists["images"].items():
        own = int(is_waterbird(image))
        if lists["train_test_split"][number] == "1":
            places = {"train": own if rng.random() < options.tied else 1 - own}
        else:
            places = {"test_biased": own, "test_confounding": 1 - own}
        for split, place in places.items():
            choice = grounds[PLACES[place]][split == "train"]
            behind = choice[rng.integers(len(choice))]
            rows.append(_sample(options, image, split, behind, own))
    laid_out.write_table(options.out / "data.csv", rows)


def is_waterbird(image: str) -> bool:
    """By the species in the name of its folder, such as 001.Black_footed_Albatross/x.jpg."""
    species = image.split("/")[0].split(".", 1)[1]
    return any(word in WATERBIRDS for word in species.split("_"))


def _divided(files: list[Path]) -> tuple[list[Path], list[Path]]:
    """Photographs of test images, every fifth, and of training images."""
    if len(files) < 2:
        raise UserError(f"{files[0].parent} holds one photograph; expected two or more.")
    return files[::5], [file for number, file in enumerate(files) if number % 5]


def _sample(options: Waterbirds, image: str, split: str, behind: Path, own: int) -> dict[str, str]:
    """The row of a bird before a photograph, once its picture is written."""
    name = Path(image).with_suffix(".png")
    pixels = laid_out.colours(options.birds / "images" / image)
    mask = laid_out.grey(options.birds / "segmentations" / name) >= _HALF
    ground = fitted(laid_out.colours(behind), mask.shape, "crop")
    shown, drawn = Path("images", split, name), Path("masks", name)
    save_png(np.where(mask[..., None], pixels, ground), options.out / shown)
    laid_out.write_mask(options.out / drawn, mask)
    kind = ("landbird", "waterbird")[own]
    return {
        "image": shown.as_posix(), "mask": drawn.as_posix(), "label": kind, "split": split
    }  # fmt: skip


if __name__ == "__main__":
    with exit_codes():
        main(tyro.cli(Waterbirds))
