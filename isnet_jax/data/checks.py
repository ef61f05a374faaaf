"""Checks of examples before any compute is spent on them."""

from collections.abc import Sequence

import numpy as np

from isnet_jax.errors import UserError

_LARGEST_SIDE, _MOST_SAMPLES = 8192, 10_000_000
_DRAWN = {
    "canvas": (28, _LARGEST_SIDE), "mask_dilation": (0, _LARGEST_SIDE), "seed": (0, 2**63 - 1),
    **dict.fromkeys(("train", "validation", "test"), (2, _MOST_SAMPLES)),
}  # fmt: skip


def check_examples(
    image: np.ndarray,
    mask: np.ndarray,
    label: np.ndarray,
    num_classes: int,
    ids: Sequence[str] | None = None,
    has_mask: np.ndarray | None = None,
) -> None:
    """Raises an error that names the first bad sample, if there is one.

    Args:
        image: (n, h, w, channels), floating point, finite, from 0 to 1.
        mask: (n, h, w, 1), 1 on the foreground and 0 elsewhere, with some foreground in each.
        label: (n,), integers from 0 to ``num_classes - 1``; or for multi-label data
            (n, num_classes), floating point, 0 or 1.
        num_classes: number of classes of the classifier.
        ids: names of the samples for the message; their positions by default.
        has_mask: (n,), False where nobody drew the mask, which is all 0 there; all True by default.

    Raises:
        UserError: anything else was found.
    """
    _check_shapes(image, mask, label, ids)
    names = [f"sample {i}" for i in range(len(image))] if ids is None else list(ids)
    _check_pixels(image, names)
    _check_masks(mask, np.ones(len(mask), bool) if has_mask is None else has_mask, names)
    if _multi_label(label):
        _check_label_vectors(label, num_classes, names)
    else:
        _check_labels(label, num_classes, names)


def check_drawn(**values: int) -> None:
    """Whether a data set can be drawn by these numbers: sides, counts and the seed.

    Raises:
        UserError: a number that is too small, or larger than pictures and data sets are.
    """
    for name, value in values.items():
        least, most = _DRAWN[name]
        if not least <= value <= most:
            raise UserError(f"{name} is {value}, but must be from {least} to {most:,}.")


def mask_warning(has_mask: np.ndarray, whole: np.ndarray) -> str | None:
    """What to say of training images whose masks tell no background from foreground.

    Args:
        has_mask: (n,), False where nobody drew a mask.
        whole: (n,), True where the mask covers all of the image.
    """
    useless = "methods that go by masks, an ISNet among them, cannot learn from them where to look."
    if not has_mask.any():
        return (
            f"none of the {len(has_mask):,} training images has a mask: {useless} Draw masks, or "
            "have them made: isnet-jax prepare ... --masks-by or --masks-command."
        )
    if whole[has_mask].all():
        return (
            f"all masks of the {len(has_mask):,} training images are white everywhere, without any "
            f"background: {useless} Draw the objects alone."
        )
    return None


def _check_shapes(
    image: np.ndarray, mask: np.ndarray, label: np.ndarray, ids: Sequence[str] | None
) -> None:
    for what, array, ndim, axes in (
        ("images", image, 4, "(samples, height, width, channels)"),
        ("masks", mask, 4, "(samples, height, width, 1)"),
        ("labels", label, 2 if _multi_label(label) else 1, "(samples,)"),
    ):
        if array.ndim != ndim:
            raise UserError(
                f"the {what} have the shape {array.shape}, expected {axes}. Add or remove axes."
            )
    if not len(image):
        raise UserError("there are no samples. Check what the split was made from.")
    lengths = {"images": len(image), "masks": len(mask), "labels": len(label)}
    if ids is not None:
        lengths["ids"] = len(ids)
    if len(set(lengths.values())) > 1:
        counts = ", ".join(f"{count} {what}" for what, count in lengths.items())
        raise UserError(f"there are {counts}. Give one of each per sample.")
    if mask.shape[1:3] != image.shape[1:3]:
        raise UserError(
            f"the masks are {mask.shape[1]} x {mask.shape[2]} but the images {image.shape[1]} x "
            f"{image.shape[2]} (height x width). Resize the masks, without interpolation."
        )
    if mask.shape[3] != 1:
        raise UserError(
            f"the masks have {mask.shape[3]} channels, expected 1. Keep one of them: mask[..., :1]."
        )


def _check_pixels(image: np.ndarray, names: list[str]) -> None:
    if not np.issubdtype(image.dtype, np.floating):
        raise UserError(
            f"the images are {image.dtype}, expected floating point from 0 to 1. Convert them to "
            "float32 and divide by 255."
        )
    bad = ~np.isfinite(image)
    if bad.any():
        count, first = _count_and_first(bad, names)
        raise UserError(
            f"{bad.sum():,} pixels are NaN or infinite, in {count} of {len(image):,} images, the "
            f"first of them {first}. Mend or drop these images."
        )
    bad = (image < 0) | (image > 1)
    if bad.any():
        count, first = _count_and_first(bad, names)
        low, high = float(image.min()), float(image.max())
        raise UserError(
            f"the pixels range from {low:g} to {high:g}, expected 0 to 1; {count} of "
            f"{len(image):,} images are out of range, the first of them {first}. "
            + (
                "Divide by 255."
                if low >= 0 and high > 2
                else "Leave out any standardisation: it belongs inside the model."
            )
        )


def _check_masks(mask: np.ndarray, has_mask: np.ndarray, names: list[str]) -> None:
    if has_mask.shape != (len(mask),) or has_mask.dtype != bool:
        raise UserError(
            f"has_mask is {has_mask.dtype} of the shape {has_mask.shape}, expected bool of the "
            f"shape ({len(mask)},): one value per sample."
        )
    bad = ~np.isin(mask, (0, 1))
    if bad.any():
        count, first = _count_and_first(bad, names)
        raise UserError(
            f"masks must be 0 or 1, but {count} of {len(mask):,} hold other values such as "
            f"{mask[bad][0]:g}, the first of them that of {first}. Threshold them, or divide by "
            "255 if they hold 0 and 255."
        )
    empty = np.all(mask == 0, axis=(1, 2, 3))
    if (~empty & ~has_mask).any():
        count, first = _count_and_first(~empty & ~has_mask, names)
        raise UserError(
            f"{count} of {len(mask):,} samples have foreground although has_mask is False, the "
            f"first of them {first}. Set has_mask to True there."
        )
    empty &= has_mask
    if empty.any():
        count, first = _count_and_first(empty, names)
        raise UserError(
            f"{count} of {len(mask):,} masks are all zero, the first of them that of {first}. "
            "There is nothing to look at: mend the masks, drop these samples, or mark them as not "
            "annotated (has_mask)."
        )


def _check_labels(label: np.ndarray, num_classes: int, names: list[str]) -> None:
    if not np.issubdtype(label.dtype, np.integer):
        raise UserError(f"the labels are {label.dtype}, expected integers: one class per sample.")
    bad = np.logical_or(label < 0, label >= num_classes)
    if bad.any():
        count, first = _count_and_first(bad, names)
        raise UserError(
            f"labels must be from 0 to {num_classes - 1}, but {count} of {len(label):,} are not: "
            f"they range from {label.min()} to {label.max()}; the first of them is {label[bad][0]} "
            f"of {first}. Correct the labels or the number of classes."
        )


def _multi_label(label: np.ndarray) -> bool:
    return label.ndim == 2 and np.issubdtype(label.dtype, np.floating)


def _check_label_vectors(label: np.ndarray, num_classes: int, names: list[str]) -> None:
    if label.shape[1] != num_classes:
        raise UserError(
            f"the labels have the shape {label.shape}, expected ({len(label)}, {num_classes}): 0 "
            "or 1 for each class."
        )
    bad = ~np.isin(label, (0, 1))
    if bad.any():
        count, first = _count_and_first(bad, names)
        raise UserError(
            f"labels must be 0 or 1, but {count} of {len(label):,} hold other values such as "
            f"{label[bad][0]:g}, the first of them those of {first}. Correct them."
        )


def _count_and_first(bad: np.ndarray, names: list[str]) -> tuple[int, str]:
    samples = np.flatnonzero(bad.reshape(len(bad), -1).any(axis=1))
    return len(samples), names[samples[0]]
