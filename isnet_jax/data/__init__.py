"""Images with foreground masks, made ready for training.

``prepare`` writes the biased digits once; ``prepare_own`` writes images of your own, found by a
``FolderSource``, ``CsvSource``, ``CocoSource`` or ``VocSource``. ``load_split`` reads a split,
``train_iterator`` turns it into batches. ``check_examples`` tells what is wrong with arrays.
"""

from typing import TYPE_CHECKING

from isnet_jax._lazy import exports

if TYPE_CHECKING:
    from isnet_jax.data.augmentation import Augmentation as Augmentation
    from isnet_jax.data.biased_digits import SPLITS as SPLITS
    from isnet_jax.data.biased_digits import TEST_SPLITS as TEST_SPLITS
    from isnet_jax.data.biased_digits import BiasedDigits as BiasedDigits
    from isnet_jax.data.biased_digits import BiasedDigitsConfig as BiasedDigitsConfig
    from isnet_jax.data.loader import Batch as Batch
    from isnet_jax.data.loader import PreparedRecords as PreparedRecords
    from isnet_jax.data.loader import Split as Split
    from isnet_jax.data.loader import class_names as class_names
    from isnet_jax.data.loader import load_split as load_split
    from isnet_jax.data.loader import open_records as open_records
    from isnet_jax.data.loader import train_iterator as train_iterator
    from isnet_jax.data.own_data import open_prepared as open_prepared
    from isnet_jax.data.own_preparation import OwnDataConfig as OwnDataConfig
    from isnet_jax.data.own_preparation import Prepared as Prepared
    from isnet_jax.data.own_preparation import prepare_own as prepare_own
    from isnet_jax.data.preparation import prepare as prepare
    from isnet_jax.data.readers import CocoSource as CocoSource
    from isnet_jax.data.readers import CsvSource as CsvSource
    from isnet_jax.data.readers import FolderSource as FolderSource
    from isnet_jax.data.readers import PixelRules as PixelRules
    from isnet_jax.data.readers import VocSource as VocSource
    from isnet_jax.data.sources import Digits as Digits
    from isnet_jax.data.sources import load_digits as load_digits
    from isnet_jax.data.synthetic_bias import BackgroundMark as BackgroundMark
    from isnet_jax.data.synthetic_bias import foreground_mask as foreground_mask
    from isnet_jax.data.synthetic_bias import paint as paint
    from isnet_jax.data.validation import check_examples as check_examples

__getattr__, __dir__ = exports(
    __name__,
    {
        "augmentation": ("Augmentation",),
        "biased_digits": ("SPLITS", "TEST_SPLITS", "BiasedDigits", "BiasedDigitsConfig"),
        "loader": (
            "Batch",
            "PreparedRecords",
            "Split",
            "class_names",
            "load_split",
            "open_records",
            "train_iterator",
        ),
        "own_data": ("open_prepared",),
        "own_preparation": ("OwnDataConfig", "Prepared", "prepare_own"),
        "preparation": ("prepare",),
        "readers": ("CocoSource", "CsvSource", "FolderSource", "PixelRules", "VocSource"),
        "sources": ("Digits", "load_digits"),
        "synthetic_bias": ("BackgroundMark", "foreground_mask", "paint"),
        "validation": ("check_examples",),
    },
)
