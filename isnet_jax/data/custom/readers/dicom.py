"""DICOM images to grey values: the window, rescaling and inversion that the file asks for."""

import io
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from jaxtyping import Float64, Shaped

from isnet_jax.data.custom.readers.samples import Rejected, first_line
from isnet_jax.errors import UserError


def is_dicom(data: bytes) -> bool:
    """By a file's first 132 bytes, or more."""
    return data[128:132] == b"DICM"


def decode(data: bytes, max_pixels: int) -> Shaped[np.ndarray, "h w"] | Shaped[np.ndarray, "h w 3"]:
    """Pixels as a viewer shows them: uint16 (h, w), or uint8 (h, w, 3) for colour.

    Stored values are rescaled (modality), windowed (VOI; the first window of several, or the whole
    range of the stored bits where there is none) and inverted for MONOCHROME1, as in DICOM PS3.3
    C.11.1 and C.11.2.

    Args:
        data: the file's bytes.
        max_pixels: larger images are refused before they are decoded.

    Raises:
        Rejected: it cannot be decoded, or holds no single picture.
        UserError: pydicom is not installed.
    """
    try:
        import pydicom
    except ImportError as error:
        raise UserError(
            "these are DICOM images, which need the package pydicom. Install it with "
            "`pip install 'isnet-jax[dicom]'`, or convert the images to 16-bit PNG."
        ) from error
    try:
        with _quiet():
            return _shown(pydicom.dcmread(io.BytesIO(data)), max_pixels)
    except (Rejected, UserError):
        raise
    except Exception as error:
        # Damaged files, and compressions whose decoder is not installed, raise nearly everything.
        raise Rejected(
            f"cannot be decoded as DICOM ({first_line(error, 160)})",
            "Copy it again, install a decoder for its compression (pylibjpeg), or convert it to "
            "16-bit PNG",
        ) from error


@contextmanager
def _quiet() -> Iterator[None]:
    """Without pydicom's warnings, of which old films give many."""
    logger = logging.getLogger("pydicom")
    before = logger.level
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logger.setLevel(logging.CRITICAL)
        try:
            yield
        finally:
            logger.setLevel(before)


def _shown(dataset: Any, max_pixels: int) -> np.ndarray:
    rows, columns = int(dataset.Rows), int(dataset.Columns)
    if rows * columns > max_pixels:
        raise Rejected(
            f"has {columns} x {rows} pixels; at most {max_pixels:,} are decoded", "Make it smaller"
        )
    frames = int(dataset.get("NumberOfFrames") or 1)
    if frames != 1:
        raise Rejected(f"holds {frames} pictures", "Save one picture a file")
    lowest = int(dataset.get("HighBit", dataset.BitsStored - 1)) + 1 - int(dataset.BitsStored)
    if lowest:
        raise Rejected(f"has its lowest bit at the place {lowest}", "Convert it to 16-bit PNG")
    kind = str(dataset.PhotometricInterpretation)
    stored = dataset.pixel_array
    if kind == "RGB" and stored.shape == (rows, columns, 3) and stored.dtype == np.uint8:
        return np.array(stored)
    if kind not in ("MONOCHROME1", "MONOCHROME2") or stored.shape != (rows, columns):
        raise Rejected(f"holds {kind} pixels of the shape {stored.shape}", "Convert it to PNG")
    shades = _windowed(dataset, stored)
    if kind == "MONOCHROME1":
        shades = 1 - shades
    return np.rint(65535 * shades).astype(np.uint16)


def _windowed(dataset: Any, stored: np.ndarray) -> Float64[np.ndarray, "h w"]:
    """Shades from 0 to 1."""
    values = _rescaled(dataset, stored)
    if dataset.get("VOILUTSequence"):
        return _looked_up(values, dataset.VOILUTSequence[0])
    if dataset.get("WindowCenter") is not None and dataset.get("WindowWidth") is not None:
        centre, width = _first(dataset.WindowCenter), _first(dataset.WindowWidth)
        function = str(dataset.get("VOILUTFunction") or "LINEAR")
        return _window(values.astype(np.float64), centre, width, function)
    low, high = _stored_range(dataset)
    ends = np.array([[low, high]], dtype=stored.dtype)
    bottom, top = sorted(_rescaled(dataset, ends).astype(np.float64)[0].tolist())
    if not 0 < top - bottom < np.inf:
        raise Rejected(
            "has a rescaling that leaves one value only, or none", "Mend its rescale slope"
        )
    return np.clip((values.astype(np.float64) - bottom) / (top - bottom), 0, 1)


def _rescaled(dataset: Any, stored: np.ndarray) -> Shaped[np.ndarray, "h w"]:
    from pydicom.pixels.processing import apply_modality_lut

    values = np.asarray(apply_modality_lut(stored, dataset))
    if not np.isfinite(values).all():
        raise Rejected(
            "has a rescaling to values that are not finite", "Mend its rescale slope and intercept"
        )
    return values


def _window(
    values: Float64[np.ndarray, "h w"], centre: float, width: float, function: str
) -> Float64[np.ndarray, "h w"]:
    """PS3.3 C.11.2.1.2 and C.11.2.1.3, with an output from 0 to 1."""
    least = 1 if function == "LINEAR" else np.nextafter(0, 1)
    if not (np.isfinite(centre) and np.isfinite(width) and width >= least):
        raise Rejected(f"has a window of width {width:g} at {centre:g}", "Mend its window")
    if function == "SIGMOID":
        return 1 / (1 + np.exp(np.clip(-4 * (values - centre) / width, -700, 700)))
    if function == "LINEAR_EXACT":
        return np.clip((values - centre) / width + 0.5, 0, 1)
    if function != "LINEAR":
        raise Rejected(f"has an unknown window function {function!r}", "Mend its VOILUTFunction")
    if width == 1:
        return (values > centre - 0.5).astype(np.float64)
    return np.clip((values - (centre - 0.5)) / (width - 1) + 0.5, 0, 1)


def _looked_up(values: Shaped[np.ndarray, "h w"], table: Any) -> Float64[np.ndarray, "h w"]:
    """PS3.3 C.11.2.1.1. (pydicom 3.0.2 takes places in tables of 8 bits modulo 256.)"""
    count, first, bits = (int(value) for value in table.LUTDescriptor)
    data = table.LUTData
    entries = np.frombuffer(data, "<u2") if isinstance(data, bytes) else np.asarray(data)
    if len(entries) != (count or 2**16) or not 8 <= bits <= 16:
        raise Rejected(
            f"has a table of {len(entries)} shades, expected {count or 2**16}", "Mend its VOI LUT"
        )
    places = np.clip(values.astype(np.int64) - first, 0, len(entries) - 1)
    return np.clip(entries[places] / (2**bits - 1), 0, 1)


def _stored_range(dataset: Any) -> tuple[int, int]:
    bits = int(dataset.BitsStored)
    signed = int(dataset.get("PixelRepresentation", 0)) == 1
    return (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)


def _first(value: Any) -> float:
    try:
        return float(value)
    except TypeError:
        return float(value[0])
