"""Small data sets shared by the tests of this folder."""

import numpy as np
import pytest

from isnet_jax.data import (
    BackgroundMark,
    BiasedDigits,
    BiasedDigitsConfig,
    Digits,
    Split,
    load_digits,
    prepare,
)

SMALL = BiasedDigitsConfig(limit=100, mark=BackgroundMark(kind="colour", size=4))


@pytest.fixture(scope="session")
def digits() -> Digits:
    return load_digits(limit=100)


@pytest.fixture(scope="session")
def builder(tmp_path_factory: pytest.TempPathFactory) -> BiasedDigits:
    """The prepared small data set; tests must not change its files."""
    return prepare(SMALL, tmp_path_factory.mktemp("prepared"))


@pytest.fixture
def split() -> Split:
    """22 random examples."""
    rng = np.random.default_rng(0)
    masks = rng.integers(0, 2, (22, 12, 10, 1), dtype=np.uint8) * np.uint8(255)
    return Split(
        images=rng.integers(0, 256, (22, 12, 10, 3), dtype=np.uint8),
        masks=masks,
        labels=rng.integers(0, 3, 22).astype(np.int32),
        ids=tuple(f"{i:02d}" for i in range(22)),
        class_names=("a", "b", "c"),
    )
