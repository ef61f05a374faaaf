"""The picture of the hard sets in docs/hard-backgrounds.md: a row for each split, a block a set.

python docs/hard_sets.py --out docs/images/hard-sets.png
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from PIL import Image

from isnet_jax.data.hard import Coloured, Decoy, Lungs, MadeSet, Textured

SETS: tuple[MadeSet, ...] = (
    Textured(canvas=64),
    Decoy(canvas=64),
    Coloured(canvas=64),
    Lungs(canvas=64, train=40, validation=4, test=40),
)
SPLITS = ("train", "test_unbiased", "test_confounding", "test_unseen")
COLUMNS, GAP = 10, 6


def block(made: MadeSet) -> np.ndarray:
    """One sample of each class in turn, and in the last row the masks of the one before."""
    members = made.members()
    rows = [[made.example(split, n) for n in spread(members[split])] for split in SPLITS]
    pictures = [np.concatenate([example.image for example in row], 1) for row in rows]
    masks = np.concatenate([255 * example.mask.astype(np.uint8) for example in rows[-1]], 1)
    return np.concatenate([*pictures, np.repeat(masks[..., None], 3, -1)])


def spread(members: np.ndarray) -> list[int]:
    """Members of all classes, which lie one behind the other, or alternate."""
    step = (len(members) - 1) // COLUMNS
    return members[np.arange(COLUMNS) * (step - 1 + step % 2)].tolist()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("docs/images/hard-sets.png"))
    blocks = [block(made) for made in SETS]
    gap = np.full((GAP, blocks[0].shape[1], 3), 255, np.uint8)
    joined = [part for each in blocks for part in (each, gap)][:-1]
    Image.fromarray(np.concatenate(joined)).save(parser.parse_args().out, optimize=True)


if __name__ == "__main__":
    main()
