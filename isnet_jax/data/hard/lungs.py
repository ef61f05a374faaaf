"""Imitations of chest X-rays: real lung masks, drawn anatomy, two hospitals and a third to test."""

from __future__ import annotations

import functools
import importlib.util
import io
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Final

import numpy as np
from jaxtyping import Bool, Float64, Int64, UInt8
from PIL import Image
from scipy import ndimage

from isnet_jax.data.checks import check_drawn
from isnet_jax.data.drawn import Example
from isnet_jax.data.formats import FORMATS
from isnet_jax.errors import UserError

_ARCHIVE: Final = Path("data") / "semantic_masks_v7labs_lungs.zip"
_CANVAS: Final = 128  # What the masks are drawn at, before they are turned and shrunk.
# Per hospital: brightness of the tissue around the lungs, width of the frame and its grey, sides of
# the letters, blur of the whole picture, all relative to white or to the picture's side.
_TISSUE, _FRAME, _FRAME_GREY, _MARK, _BLUR = range(5)
_HOSPITALS: Final = np.array(
    [
        [0.62, 0.06, 0.0, 0.10, 0.004],
        [0.80, 0.00, 0.0, 0.16, 0.010],
        [0.70, 0.03, 0.9, 0.00, 0.007],
    ]
)
_EXTERNAL: Final = 2


@dataclass(frozen=True, kw_only=True)
class Lungs:
    """Healthy lungs, and lungs with opacities, in pictures of hospitals that differ outside them.

    The situation of the paper's COVID-19 data in miniature: one hospital sends mostly healthy cases
    and the other mostly ill ones, and they differ in exposure, frame and lead markers. The outlines
    are those of torchxrayvision's 500 annotated X-rays; ribs, noise and opacities are drawn. Lungs
    cannot be cut out of one picture and fit into another.

    ``test_biased`` has the hospitals' own prevalence, ``test_unbiased`` as many of each class in
    both, ``test_confounding`` the prevalences exchanged, ``test_unseen`` another hospital. They
    share outlines and pathology; no outline is in two of training, validation and test.

    Attributes:
        canvas: side of the pictures in pixels, at least 32.
        train, validation, test: how many pictures.
        strength: share of the ill in one training hospital and of the healthy in the other, 0 to 1.
        opacity: brightness that an opacity adds, above 0 and up to 1.
        seed: decides everything drawn; at least 0.

    Raises:
        UserError: a value out of its range.
    """

    kind: ClassVar[str] = "lungs"
    version: ClassVar[str] = "1.0.0"

    canvas: int = 64
    train: int = 3000
    validation: int = 400
    test: int = 800
    strength: float = 0.98
    opacity: float = 0.35
    seed: int = 0

    def __post_init__(self) -> None:
        check_drawn(
            canvas=self.canvas,
            train=self.train,
            validation=self.validation,
            test=self.test,
            seed=self.seed,
        )
        if self.canvas < 32:
            raise UserError(f"canvas is {self.canvas}, but must be 32 or more.")
        if not 0 <= self.strength <= 1:
            raise UserError(f"strength is {self.strength}, but must be a share, 0 to 1.")
        if not 0 < self.opacity <= 1:
            raise UserError(f"opacity is {self.opacity}, but must be above 0 and at most 1.")

    @property
    def class_names(self) -> tuple[str, ...]:
        return ("healthy", "pneumonia")

    @property
    def side(self) -> int:
        return self.canvas

    def fingerprint(self) -> str:
        return "torchxrayvision"

    def members(self) -> dict[str, Int64[np.ndarray, " n"]]:
        ends = np.cumsum([self.train, self.validation, self.test])
        train, validation, test = np.split(np.arange(ends[-1]), ends[:-1])
        names = ("test_biased", "test_unbiased", "test_confounding", "test_unseen")
        return {"train": train, "validation": validation} | dict.fromkeys(names, test)

    def example(self, split: str, number: int) -> Example:
        label = number % 2
        part = ("train", "validation", "test").index(split.split("_")[0])
        anatomy = np.random.default_rng((self.seed, number, 0))
        inside = self._outline(part, anatomy)
        lung = 0.25 + 0.08 * _noise(self.canvas, 0.06, anatomy) + 0.12 * self._ribs(anatomy)
        if label:
            lung = lung + self.opacity * self._opacities(inside, anatomy)
        style = _HOSPITALS[self._hospital(split, label, number)]
        surroundings = np.random.default_rng((self.seed, number, 1))
        outside = style[_TISSUE] + 0.06 * _noise(self.canvas, 0.15, surroundings)
        soft = ndimage.gaussian_filter(inside.astype(float), 0.01 * self.canvas)
        picture = soft * lung + (1 - soft) * outside
        picture += 0.02 * surroundings.standard_normal(picture.shape)
        blurred = ndimage.gaussian_filter(picture, style[_BLUR] * self.canvas)
        picture = np.where(inside, picture, self._marked(blurred, inside, style, surroundings))
        grey = np.rint(255 * np.clip(picture, 0, 1)).astype(np.uint8)
        return Example(np.repeat(grey[..., None], 3, axis=-1), inside, label)

    def tells(self, split: str, number: int) -> tuple[int, int]:
        label = number % 2
        return label, self._hospital(split, label, number)

    def _hospital(self, split: str, label: int, number: int) -> int:
        rng = np.random.default_rng((self.seed, number, 2))
        usual = label if rng.random() < self.strength else 1 - label
        any_hospital = int(rng.integers(2))
        match split:
            case "test_unbiased":
                return any_hospital
            case "test_confounding":
                return 1 - usual
            case "test_unseen":
                return _EXTERNAL
            case _:
                return usual

    def _outline(self, part: int, rng: np.random.Generator) -> Bool[np.ndarray, "side side"]:
        """A pair of lungs, turned and scaled a little; six in ten are for training."""
        masks = _lung_masks()
        first, last = (np.array([0.0, 0.6, 0.7, 1.0]) * len(masks)).astype(int)[part : part + 2]
        mask = masks[rng.integers(first, last)]
        angle, scale = np.deg2rad(rng.uniform(-6, 6)), rng.uniform(0.95, 1.15) * _CANVAS / self.side
        turn = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        centre = np.array([self.side, self.side]) / 2
        offset: Any = np.array([_CANVAS, _CANVAS]) / 2 - turn @ (centre + rng.uniform(-2, 2, 2))
        shape = (self.side, self.side)
        turned: np.ndarray = ndimage.affine_transform(
            mask.astype(float), turn, offset, shape, order=1
        )
        return turned > 0.5

    def _ribs(self, rng: np.random.Generator) -> Float64[np.ndarray, "side side"]:
        rows, columns = np.mgrid[: self.side, : self.side] / self.side
        bend = 0.35 * (columns - 0.5) ** 2
        return np.clip(np.cos(2 * np.pi * (9 * (rows + bend) + rng.random())), 0, 1)

    def _opacities(
        self, inside: Bool[np.ndarray, "side side"], rng: np.random.Generator
    ) -> Float64[np.ndarray, "side side"]:
        """One to three blurred spots with their centres in the lungs."""
        places = np.argwhere(inside)
        spots = np.zeros((self.side, self.side))
        rows, columns = np.mgrid[: self.side, : self.side]
        for _ in range(rng.integers(1, 4)):
            row, column = places[rng.integers(len(places))]
            radius = rng.uniform(0.05, 0.11) * self.side
            away = ((rows - row) ** 2 + (columns - column) ** 2) / radius**2
            spots = np.maximum(spots, np.exp(-0.5 * away))
        return spots

    def _marked(
        self,
        picture: Float64[np.ndarray, "side side"],
        inside: Bool[np.ndarray, "side side"],
        style: Float64[np.ndarray, " 5"],
        rng: np.random.Generator,
    ) -> Float64[np.ndarray, "side side"]:
        """The hospital's frame, and its lead marker in one of the upper corners."""
        marked = picture.copy()
        width = round(style[_FRAME] * self.side)
        if width:
            border = np.ones_like(inside)
            border[width:-width, width:-width] = False
            marked[border] = style[_FRAME_GREY]
        length = round(style[_MARK] * self.side)
        left = rng.integers(2) * (self.side - length - 2 * width) + width
        marked[width : width + length, left : left + max(1, length // 3)] = 1.0
        marked[width + length - 1 : width + length, left : left + length] = 1.0
        return marked


def _noise(side: int, scale: float, rng: np.random.Generator) -> Float64[np.ndarray, "side side"]:
    """Smooth noise of unit variance with structures of this share of the side."""
    smooth = ndimage.gaussian_filter(rng.standard_normal((side, side)), scale * side, mode="wrap")
    return smooth / max(float(smooth.std()), 1e-9)


@functools.cache
def _lung_masks() -> Bool[np.ndarray, "n 128 128"]:
    """The pairs of lungs in torchxrayvision's archive, in the order of their names."""
    # Importing torchxrayvision would import torch; its archive is all that is wanted.
    spec = importlib.util.find_spec("torchxrayvision")
    if spec is None or spec.origin is None:
        raise UserError(
            "the lungs' outlines come with torchxrayvision: pip install --no-deps torchxrayvision"
        )
    masks = []
    with zipfile.ZipFile(Path(spec.origin).parent / _ARCHIVE) as archive:
        for name in sorted(archive.namelist()):
            if not name.endswith("/"):
                mask = _two_lungs(archive.read(name))
                if mask is not None:
                    masks.append(mask)
    stacked = np.stack(masks)
    return stacked[np.random.default_rng(0).permutation(len(stacked))]


def _two_lungs(content: bytes) -> Bool[np.ndarray, "128 128"] | None:
    """The two largest parts, if they are two and of a lung's size each."""
    picture = Image.open(io.BytesIO(content), formats=FORMATS).convert("L")
    small: UInt8[np.ndarray, "128 128"] = np.asarray(
        picture.resize((_CANVAS, _CANVAS), Image.Resampling.BOX)
    )
    labelled: Any = ndimage.label(small > 127)
    parts = labelled[0]
    sizes = np.bincount(parts.ravel())[1:] / parts.size
    lungs = np.flatnonzero((sizes > 0.05) & (sizes < 0.35)) + 1
    if len(lungs) != 2:
        return None
    filled = ndimage.binary_fill_holes(np.isin(parts, lungs))
    assert filled is not None
    return filled
