"""Images with foreground masks, made ready for training.

``prepare`` writes a biased data set once, ``load_split`` reads a split of it, ``train_iterator``
turns it into batches. ``check_examples`` tells what is wrong with examples of your own.
"""

from isnet_jax.data.biased_digits import (
    SPLITS,
    TEST_SPLITS,
    BiasedDigits,
    BiasedDigitsConfig,
)
from isnet_jax.data.loader import Batch, Split, load_split, train_iterator
from isnet_jax.data.preparation import prepare
from isnet_jax.data.sources import Digits, load_digits
from isnet_jax.data.synthetic_bias import BackgroundMark, foreground_mask, paint
from isnet_jax.data.validation import check_examples

__all__ = [
    "SPLITS",
    "TEST_SPLITS",
    "BackgroundMark",
    "Batch",
    "BiasedDigits",
    "BiasedDigitsConfig",
    "Digits",
    "Split",
    "check_examples",
    "foreground_mask",
    "load_digits",
    "load_split",
    "paint",
    "prepare",
    "train_iterator",
]
