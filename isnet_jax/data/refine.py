"""Coarse masks, boxes or wide outlines, cut to the object that they hold."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from jaxtyping import Bool, UInt8

from isnet_jax.errors import UserError

_SIDE: Final = 96  # Smaller images are enlarged: colours of too few pixels make no model.
_ROUNDS: Final = 3
_LEAST: Final = 0.05  # Of the mask: a smaller object is taken for a failure.


def refined(
    image: UInt8[np.ndarray, "h w 3"], mask: Bool[np.ndarray, "h w"]
) -> Bool[np.ndarray, "h w"]:
    """The part of a mask that looks unlike what is outside of it.

    GrabCut (Rother, Kolmogorov, Blake, SIGGRAPH 2004; OpenCV's) with everything outside of the mask
    as background. A mask of which less than a twentieth would be left stays as it is, as do empty
    masks and those of the whole image.

    Args:
      image: colours in RGB.
      mask: True on the object and around it.

    Raises:
      UserError: see `opencv`.
    """
    cv2 = opencv()
    if not mask.any() or mask.all():
        return mask
    height, width = mask.shape
    times = max(1, -(-_SIDE // min(height, width)))
    size = (width * times, height * times)
    enlarged = cv2.resize(np.ascontiguousarray(image), size, interpolation=cv2.INTER_CUBIC)
    wide = cv2.resize(mask.astype(np.uint8), size, interpolation=cv2.INTER_NEAREST)
    marks = np.where(wide, cv2.GC_PR_FGD, cv2.GC_BGD).astype(np.uint8)
    models = np.zeros((1, 65)), np.zeros((1, 65))
    cv2.setRNGSeed(0)
    try:
        cv2.grabCut(enlarged, marks, None, *models, _ROUNDS, cv2.GC_INIT_WITH_MASK)
    except cv2.error:  # Of one colour, or too few pixels on a side.
        return mask
    inside = np.isin(marks, (cv2.GC_FGD, cv2.GC_PR_FGD)).astype(np.uint8)
    found = cv2.resize(inside, (width, height), interpolation=cv2.INTER_AREA) > 0
    return found & mask if (found & mask).sum() >= _LEAST * mask.sum() else mask


def opencv() -> Any:
    """OpenCV's module.

    Raises:
      UserError: it is not installed.
    """
    try:
        import cv2
    except ImportError as error:
        raise UserError(
            "refining masks needs OpenCV, which is not installed: "
            "pip install 'isnet-jax[refine]' (opencv-python-headless)."
        ) from error
    return cv2
