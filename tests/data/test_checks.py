import dataclasses

import numpy as np
import pytest

from isnet_jax.data import BiasedDigitsConfig, check_examples
from isnet_jax.data.hard import Decoy, Lungs
from isnet_jax.errors import UserError

IDS = ["ann", "bob", "cid", "dan"]


@pytest.fixture
def good() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    mask = np.zeros((4, 6, 5, 1), dtype=np.float32)
    mask[:, 2:4, 1:3] = 1
    return {
        "image": rng.random((4, 6, 5, 3), dtype=np.float32),
        "mask": mask,
        "label": np.array([0, 1, 2, 1]),
    }


def test_good_examples_pass(good: dict[str, np.ndarray]):
    image, mask, label = good.values()
    check_examples(image, mask, label, 3)
    check_examples(image, mask, label, num_classes=3, ids=IDS)
    check_examples(image, mask.astype(bool), label, 3)


def rejected(good: dict[str, np.ndarray], ids: list[str] | None = IDS) -> str:
    with pytest.raises(UserError) as caught:
        check_examples(good["image"], good["mask"], good["label"], num_classes=3, ids=ids)
    return str(caught.value)


def test_bytes_instead_of_floats(good: dict[str, np.ndarray]):
    good["image"] = (255 * good["image"]).astype(np.uint8)
    assert "images are uint8" in rejected(good)
    assert "divide by 255" in rejected(good)


def test_pixels_up_to_255(good: dict[str, np.ndarray]):
    good["image"][2] = 200
    message = rejected(good)
    assert "to 200, expected 0 to 1; 1 of 4 images" in message
    assert "the first of them cid. Divide by 255." in message


def test_standardised_pixels(good: dict[str, np.ndarray]):
    good["image"][1, 0, 0] = -1.5
    message = rejected(good)
    assert "range from -1.5 to" in message
    assert "bob. Leave out any standardisation" in message


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_pixels_that_are_no_numbers(good: dict[str, np.ndarray], value: float):
    good["image"][3, 0, 0] = value
    message = rejected(good)
    assert "3 pixels are NaN or infinite, in 1 of 4 images, the first of them dan" in message


def test_masks_that_are_not_binary(good: dict[str, np.ndarray]):
    good["mask"][1, 0, 0] = 0.5
    assert "1 of 4 hold other values such as 0.5, the first of them that of bob" in rejected(good)
    good["mask"][1, 0, 0] = np.nan
    assert "such as nan" in rejected(good)
    good["mask"] = (good["mask"] > 0).astype(np.uint8) * np.uint8(255)
    assert "4 of 4 hold other values such as 255" in rejected(good)


def test_masks_without_foreground(good: dict[str, np.ndarray]):
    good["mask"][2:] = 0
    assert "2 of 4 masks are all zero, the first of them that of cid" in rejected(good)
    assert "the first of them that of sample 2" in rejected(good, ids=None)


def test_masks_of_another_size(good: dict[str, np.ndarray]):
    good["mask"] = good["mask"][:, ::2]
    assert "the masks are 3 x 5 but the images 6 x 5" in rejected(good)


def test_masks_with_channels(good: dict[str, np.ndarray]):
    good["mask"] = np.repeat(good["mask"], 3, axis=-1)
    assert "the masks have 3 channels, expected 1" in rejected(good)


def test_labels_out_of_range(good: dict[str, np.ndarray]):
    good["label"][1:3] = 3
    message = rejected(good)
    assert "labels must be from 0 to 2, but 2 of 4 are not: they range from 0 to 3" in message
    assert "the first of them is 3 of bob" in message
    good["label"][1:3] = -1
    assert "range from -1 to 1" in rejected(good)


def test_labels_that_are_no_integers(good: dict[str, np.ndarray]):
    good["label"] = good["label"].astype(np.float32)
    assert "the labels are float32, expected integers" in rejected(good)


@pytest.mark.parametrize(
    ("key", "axes"), [("image", "channels"), ("mask", "1"), ("label", "samples,")]
)
def test_wrong_ranks(good: dict[str, np.ndarray], key: str, axes: str):
    good[key] = good[key][..., None]
    message = rejected(good)
    assert f"the {key}s have the shape {good[key].shape}, expected (samples" in message
    assert f"{axes})" in message


def test_different_numbers_of_samples(good: dict[str, np.ndarray]):
    assert "4 images, 4 masks, 4 labels, 3 ids" in rejected(good, ids=IDS[:3])
    good["label"] = good["label"][:2]
    assert "there are 4 images, 4 masks, 2 labels, 4 ids" in rejected(good)


def test_no_samples(good: dict[str, np.ndarray]):
    assert "there are no samples" in rejected({key: array[:0] for key, array in good.items()}, [])


@pytest.mark.parametrize("kind", [BiasedDigitsConfig, Decoy, Lungs])
@pytest.mark.parametrize(
    ("name", "value"),
    [("canvas", 27), ("canvas", 10**5), ("canvas", 10**30), ("mask_dilation", -1),
     ("mask_dilation", 10**30), ("seed", -1), ("train", 1), ("train", 10**30)],
)  # fmt: skip
def test_numbers_that_draw_no_data_set(kind: type, name: str, value: int):
    if name not in {field.name for field in dataclasses.fields(kind)}:
        return
    with pytest.raises(UserError, match=rf"{name} is {value}, but must be from \d+ to [\d,]+"):
        kind(**{name: value})
