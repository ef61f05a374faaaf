"""COVID-19 in X-rays: COVID-QU-Ex, with its lung masks and splits.

    python experiments/recipes/covid.py "downloads/Lung Segmentation Data"

The folder holds Train, Val and Test, with COVID-19, Non-COVID and Normal in each, with images and
lung masks in each of these (Tahir et al., 2021).
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated

import laid_out
import tyro

from isnet_jax.commands.main import exit_codes

_SPLITS = {"Train": "train", "Val": "validation", "Test": "test"}
_CLASSES = {"COVID-19": "covid", "Non-COVID": "pneumonia", "Normal": "normal"}


@dataclasses.dataclass(frozen=True)
class Covid:
    """Write data.csv with the splits of the download into its folder.

    Attributes:
      folder: of the download.
    """

    folder: Annotated[Path, tyro.conf.Positional]


def main(options: Covid) -> None:
    rows = []
    for split, name in _SPLITS.items():
        for kind, label in _CLASSES.items():
            place = Path(split, kind)
            laid_out.require(options.folder, f"{place}/images", f"{place}/lung masks")
            for image in sorted((options.folder / place / "images").glob("*.png")):
                rows.append(
                    {
                        "image": (place / "images" / image.name).as_posix(),
                        "mask": (place / "lung masks" / image.name).as_posix(),
                        "label": label,
                        "split": name,
                    }
                )
    laid_out.write_table(options.folder / "data.csv", rows)


if __name__ == "__main__":
    with exit_codes():
        main(tyro.cli(Covid))
