"""CheXpert: several findings an image, no masks; patients stay in one split.

    python experiments/recipes/chexpert.py downloads/CheXpert-v1.0-small

The folder holds train.csv, valid.csv, train/ and valid/. Masks come from a segmenter:
`isnet-jax prepare csv ... --masks-by RUN`.
"""

from __future__ import annotations

import csv
import dataclasses
import io
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Literal

import laid_out
import numpy as np
import tyro

from isnet_jax.commands.main import exit_codes
from isnet_jax.data.custom.readers.samples import read_text
from isnet_jax.errors import UserError, printable, suggest

FINDINGS = ("Atelectasis", "Cardiomegaly", "Consolidation", "Edema", "Pleural Effusion")
_VALUES = {"": "0", "0.0": "0", "0": "0", "1.0": "1", "1": "1"}
_UNCERTAIN = ("-1.0", "-1")


@dataclasses.dataclass(frozen=True)
class CheXpert:
    """Write data.csv with a column of 0 and 1 for each finding into the folder.

    The splits are train and validation, of the patients in train.csv, and test, those in
    valid.csv, whose labels are a consensus of radiologists.

    Attributes:
      folder: of the download.
      findings: which ones.
      uncertain: what an uncertain finding counts as; out leaves such images out.
      validation_fraction: share of the patients.
      seed: decides which ones.
    """

    folder: Annotated[Path, tyro.conf.Positional]
    findings: tuple[str, ...] = FINDINGS
    uncertain: Literal["0", "1", "out"] = "out"
    validation_fraction: float = 0.05
    seed: int = 0

    def __post_init__(self):
        if not 0 < self.validation_fraction < 1:
            raise UserError(
                f"validation_fraction is {self.validation_fraction}; expected in (0, 1)."
            )


def main(options: CheXpert) -> None:
    laid_out.require(options.folder, "train.csv", "valid.csv", "train", "valid")
    learnt = [*_frontal(options, "train.csv")]
    patients = sorted({_patient(row) for row in learnt})
    kept = max(1, round(options.validation_fraction * len(patients)))
    drawn = {*np.random.default_rng(options.seed).permutation(patients)[:kept].tolist()}
    rows = []
    for row in learnt:
        rows += _rows(options, row, "validation" if _patient(row) in drawn else "train")
    for row in _frontal(options, "valid.csv"):
        rows += _rows(options, row, "test")
    laid_out.write_table(options.folder / "data.csv", rows)


def _frontal(options: CheXpert, name: str) -> Iterator[dict[str, str]]:
    text = read_text(options.folder / name, "a table of CheXpert")
    for row in csv.DictReader(io.StringIO(text)):
        for column in ("Path", "Frontal/Lateral", *options.findings):
            if column not in row:
                raise UserError(f"{name}: {suggest(column, row, what='column')}")
        if row["Frontal/Lateral"] == "Frontal":
            yield row


def _patient(row: dict[str, str]) -> str:
    found = re.search(r"patient\d+", row["Path"])
    if found is None:
        raise UserError(f"{printable(row['Path'])} names no patient; expected .../patient00001/...")
    return found.group()


def _rows(options: CheXpert, row: dict[str, str], split: str) -> Iterator[dict[str, str]]:
    """The row of an image, unless it is left out."""
    values = {}
    for name in options.findings:
        value = row[name]
        if value in _UNCERTAIN:
            if options.uncertain == "out":
                return
            values[name] = options.uncertain
        elif value in _VALUES:
            values[name] = _VALUES[value]
        else:
            raise UserError(f"{printable(row['Path'])}: {name} is {value!r}; expected 0, 1 or -1.")
    # The tables' paths begin with the folder's own name.
    image = row["Path"].split("/", 1)[1]
    yield {"image": image, "mask": "", "split": split, **values}


if __name__ == "__main__":
    with exit_codes():
        main(tyro.cli(CheXpert))
