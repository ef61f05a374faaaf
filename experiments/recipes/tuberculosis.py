"""Tuberculosis in X-rays: trained at Shenzhen, tested there and at Montgomery.

    python experiments/recipes/tuberculosis.py downloads/tuberculosis

The folder holds both sets of the National Library of Medicine unpacked, ChinaSet_AllFiles/CXR_png
and MontgomerySet/CXR_png, with ManualMask/leftMask and rightMask, and the lung masks of Shenzhen
(Stirenko et al., 2018) as ChinaSet_AllFiles/mask/CHNCXR_0001_0_mask.png.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated

import laid_out
import numpy as np
import tyro

from isnet_jax.commands.main import exit_codes
from isnet_jax.errors import UserError, printable

_SHENZHEN, _MONTGOMERY = "ChinaSet_AllFiles", "MontgomerySet"
_CLASSES = {"0": "normal", "1": "tuberculosis"}  # the last digit of a file's name


@dataclasses.dataclass(frozen=True)
class Tuberculosis:
    """Write data.csv with the splits train, test_shenzhen and test_montgomery into the folder.

    Shenzhen's images without a mask have none in the table. Montgomery's two lungs become one
    mask in MontgomerySet/masks.

    Attributes:
      folder: of the downloads.
      test_fraction: share of Shenzhen's images for the test there.
      seed: decides which ones.
    """

    folder: Annotated[Path, tyro.conf.Positional]
    test_fraction: float = 0.2
    seed: int = 0

    def __post_init__(self):
        if not 0 < self.test_fraction < 1:
            raise UserError(f"test_fraction is {self.test_fraction}; expected in (0, 1).")


def main(options: Tuberculosis) -> None:
    laid_out.require(
        options.folder, f"{_SHENZHEN}/CXR_png", f"{_SHENZHEN}/mask", f"{_MONTGOMERY}/CXR_png",
        f"{_MONTGOMERY}/ManualMask/leftMask", f"{_MONTGOMERY}/ManualMask/rightMask",
    )  # fmt: skip
    rng = np.random.default_rng(options.seed)
    rows = []
    for image in sorted((options.folder / _SHENZHEN / "CXR_png").glob("*.png")):
        mask = options.folder / _SHENZHEN / "mask" / f"{image.stem}_mask.png"
        split = "test_shenzhen" if rng.random() < options.test_fraction else "train"
        rows.append(_row(options, image, mask if mask.exists() else None, split))
    for image in sorted((options.folder / _MONTGOMERY / "CXR_png").glob("*.png")):
        mask = options.folder / _MONTGOMERY / "masks" / image.name
        sides = (
            laid_out.grey(options.folder / _MONTGOMERY / "ManualMask" / side / image.name) > 0
            for side in ("leftMask", "rightMask")
        )
        laid_out.write_mask(mask, np.logical_or(*sides))
        rows.append(_row(options, image, mask, "test_montgomery"))
    laid_out.write_table(options.folder / "data.csv", rows)


def _row(options: Tuberculosis, image: Path, mask: Path | None, split: str) -> dict[str, str]:
    code = image.stem.rsplit("_", 1)[-1]
    if code not in _CLASSES:
        raise UserError(f"{printable(image)} should end in _0.png (normal) or _1.png.")
    paths = ("" if path is None else path.relative_to(options.folder) for path in (image, mask))
    found = dict(zip(("image", "mask"), map(str, paths), strict=True))
    return found | {"label": _CLASSES[code], "split": split}


if __name__ == "__main__":
    with exit_codes():
        main(tyro.cli(Tuberculosis))
