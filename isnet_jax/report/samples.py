"""What the pictures of a report show."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from isnet_jax.errors import UserError


@dataclass(frozen=True)
class Samples:
    """A few test samples, each as it appears in every test set, and what the networks make of it.

    Arrays may be NumPy's or JAX's. Sample n is the same object in every test set. The report shows
    samples in turn from every class, in the order given: choose them without regard to the result.

    Attributes:
        images: test set -> (N, H, W, 3) or (N, H, W, 1) in [0, 1].
        masks: (N, H, W, 1), 1 on the foreground.
        labels: (N,) ints, the true classes.
        class_names: the name of every class.
        heatmaps: network -> test set -> (N, H, W, C), relevance for the highest logit.
        predictions: network -> test set -> (N,) ints.
        confidences: network -> test set -> (N,) in [0, 1], probability of the prediction.

    Raises:
        UserError: when a shape does not fit the labels and masks, naming the array.
    """

    images: Mapping[str, Any]
    masks: Any
    labels: Any
    class_names: Sequence[str]
    heatmaps: Mapping[str, Mapping[str, Any]]
    predictions: Mapping[str, Mapping[str, Any]]
    confidences: Mapping[str, Mapping[str, Any]]

    def __post_init__(self) -> None:
        count = len(np.asarray(self.labels))
        size = np.asarray(self.masks).shape[1:3]
        _expect("labels", self.labels, (count,))
        _expect("masks", self.masks, (count, *size, 1))
        for name, images in self.images.items():
            _expect(f"images[{name!r}]", images, (count, *size, None))
        for network, by_set in self.heatmaps.items():
            for name in by_set:
                where = f"[{network!r}][{name!r}]"
                _expect(f"heatmaps{where}", by_set[name], (count, *size, None))
                _expect(f"predictions{where}", self.predictions[network][name], (count,))
                _expect(f"confidences{where}", self.confidences[network][name], (count,))


@dataclass(frozen=True)
class ClassMeans:
    """Where the objects of each class lie, and where networks look, over many images.

    Attributes:
        class_names: of the classes.
        masks: (classes, H, W) in [0, 1], the share of the masks that cover a place.
        heatmaps: network -> (classes, H, W), at least 0, the mean share of |relevance| at a place.
    """

    class_names: Sequence[str]
    masks: Any
    heatmaps: Mapping[str, Any]


def _expect(name: str, array: Any, shape: tuple[int | None, ...]) -> None:
    found = np.asarray(array).shape
    fits = len(found) == len(shape) and all(
        e in (None, f) for e, f in zip(shape, found, strict=True)
    )
    if not fits:
        expected = ", ".join("C" if e is None else str(e) for e in shape)
        raise UserError(f"Samples.{name}: expected shape ({expected}), found {found}")
