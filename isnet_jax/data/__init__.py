"""Images with foreground masks, made ready for training.

``prepare`` writes the biased digits once; ``prepare_own`` writes images of your own, found by a
``FolderSource``, ``CsvSource``, ``CocoSource`` or ``VocSource``. ``load_split`` reads a split,
``train_iterator`` turns it into batches. ``check_examples`` tells what is wrong with arrays.
"""

from isnet_jax.data.augmentation import Augmentation
from isnet_jax.data.biased_digits import (
    SPLITS,
    TEST_SPLITS,
    BiasedDigits,
    BiasedDigitsConfig,
)
from isnet_jax.data.loader import (
    Batch,
    PreparedRecords,
    Split,
    class_names,
    load_split,
    open_records,
    train_iterator,
)
from isnet_jax.data.own_data import open_prepared
from isnet_jax.data.own_preparation import OwnDataConfig, Prepared, prepare_own
from isnet_jax.data.preparation import prepare
from isnet_jax.data.readers import CocoSource, CsvSource, FolderSource, PixelRules, VocSource
from isnet_jax.data.sources import Digits, load_digits
from isnet_jax.data.synthetic_bias import BackgroundMark, foreground_mask, paint
from isnet_jax.data.validation import check_examples

__all__ = [
    "SPLITS",
    "TEST_SPLITS",
    "Augmentation",
    "BackgroundMark",
    "Batch",
    "BiasedDigits",
    "BiasedDigitsConfig",
    "CocoSource",
    "CsvSource",
    "Digits",
    "FolderSource",
    "OwnDataConfig",
    "PixelRules",
    "Prepared",
    "PreparedRecords",
    "Split",
    "VocSource",
    "check_examples",
    "class_names",
    "foreground_mask",
    "load_digits",
    "load_split",
    "open_prepared",
    "open_records",
    "paint",
    "prepare",
    "prepare_own",
    "train_iterator",
]
