"""DICOM films, written here: windows, rescaling, inversion."""

import builtins
from typing import Any

import numpy as np
import pytest
from dicom_film import STORED, film
from pydicom.dataset import Dataset

from isnet_jax.data import PixelRules
from isnet_jax.data.custom.readers import Rejected
from isnet_jax.data.custom.readers.pictures import decode_image
from isnet_jax.errors import UserError


def shades(**tags: Any) -> np.ndarray:
    found = decode_image(film(**tags), ".dcm", PixelRules())
    assert found.dtype == np.uint16
    return found / 65535


def close(found: np.ndarray, expected: np.ndarray) -> bool:
    return bool(np.allclose(found, expected, atol=1 / 65535))


def test_without_a_window_the_stored_bits_are_the_range():
    assert close(shades(), STORED / 4095)


def test_a_file_is_told_by_its_content_too():
    assert close(decode_image(film(), ".png", PixelRules()) / 65535, STORED / 4095)


def test_monochrome1_is_inverted():
    assert close(shades(PhotometricInterpretation="MONOCHROME1"), 1 - STORED / 4095)


def test_rescaling_cancels_without_a_window_and_shifts_one():
    slope = {"RescaleSlope": "2", "RescaleIntercept": "-1000"}
    assert close(shades(**slope), STORED / 4095)
    window = {"WindowCenter": "3000", "WindowWidth": "2001"}
    # DICOM PS3.3 C.11.2.1.2.1: (x - (c - 0.5)) / (w - 1) + 0.5, clipped.
    expected = np.clip((2.0 * STORED - 1000 - 2999.5) / 2000 + 0.5, 0, 1)
    assert 0 < expected[0, 2] < 1
    assert close(shades(**slope, **window), expected)


@pytest.mark.filterwarnings("ignore:Invalid value for VR DS")
@pytest.mark.parametrize("window", [{}, {"WindowCenter": "100", "WindowWidth": "50"}])
@pytest.mark.parametrize("slope", ["nan", "inf", "1e308"])
def test_a_rescaling_that_is_not_finite(slope: str, window: dict[str, str]):
    with pytest.raises(Rejected, match="has a rescaling to values that are not finite"):
        shades(RescaleSlope=slope, RescaleIntercept="0", **window)


def test_the_first_of_several_windows_and_other_functions():
    window = {"WindowCenter": ["2000", "1"], "WindowWidth": ["1000", "1"]}
    linear = np.clip((STORED - 1999.5) / 999 + 0.5, 0, 1)
    assert close(shades(**window), linear)
    exact = np.clip((STORED - 2000.0) / 1000 + 0.5, 0, 1)
    assert close(shades(**window, VOILUTFunction="LINEAR_EXACT"), exact)
    sigmoid = 1 / (1 + np.exp(-4 * (STORED - 2000.0) / 1000))
    assert close(shades(**window, VOILUTFunction="SIGMOID"), sigmoid)


def test_a_table_of_shades():
    table = Dataset()
    table.add_new("LUTDescriptor", "US", [4096, 0, 8])
    table.add_new("LUTData", "US", (np.arange(4096) // 16).tolist())
    found = shades(VOILUTSequence=[table])
    assert np.allclose(found, (STORED // 16) / 255, atol=1e-4)


def test_signed_values():
    stored = (STORED.astype(np.int32) - 2048).astype(np.int16)
    assert close(shades(stored=stored, PixelRepresentation=1), STORED / 4095)


@pytest.mark.parametrize(
    ("tags", "message"),
    [
        ({"NumberOfFrames": 2}, "holds 2 pictures"),
        ({"PhotometricInterpretation": "PALETTE COLOR"}, "holds PALETTE COLOR pixels"),
        ({"WindowCenter": "1", "WindowWidth": "0"}, "a window of width 0"),
        ({"HighBit": 15}, "its lowest bit at the place 4"),
        ({"Rows": 60000, "Columns": 60000}, "at most 89,000,000 are decoded"),
        ({"PixelData": b"1234"}, "cannot be decoded as DICOM"),
    ],
)
def test_what_cannot_be_shown(tags: dict, message: str):
    with pytest.raises(Rejected, match=message):
        decode_image(film(**tags), ".dcm", PixelRules())


def test_truncated_files():
    with pytest.raises(Rejected, match="cannot be decoded as DICOM"):
        decode_image(film()[:-4], ".dcm", PixelRules())


def test_without_pydicom_the_message_says_what_to_install(monkeypatch: pytest.MonkeyPatch):
    real, data = builtins.__import__, film()

    def without(name: str, *arguments: Any, **options: Any) -> Any:
        if name.split(".")[0] == "pydicom":
            raise ImportError(name)
        return real(name, *arguments, **options)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(UserError, match=r"pip install 'isnet-jax\[dicom\]'"):
        decode_image(data, ".dcm", PixelRules())
