"""Images with foreground masks, made ready for training.

``prepare`` writes the biased digits once; ``prepare_own`` writes images of your own, found by a
``FolderSource``, ``CsvSource``, ``CocoSource`` or ``VocSource``. ``load_split`` reads a split,
``train_iterator`` turns it into batches. ``check_examples`` tells what is wrong with arrays.
"""

from typing import TYPE_CHECKING

from isnet_jax._lazy import exports

if TYPE_CHECKING:
    from isnet_jax.data.augmentation import Augmentation as Augmentation
    from isnet_jax.data.checks import check_examples as check_examples
    from isnet_jax.data.custom.builder import open_prepared as open_prepared
    from isnet_jax.data.custom.preparation import OwnDataConfig as OwnDataConfig
    from isnet_jax.data.custom.preparation import Prepared as Prepared
    from isnet_jax.data.custom.preparation import prepare_own as prepare_own
    from isnet_jax.data.custom.readers import CocoSource as CocoSource
    from isnet_jax.data.custom.readers import CsvSource as CsvSource
    from isnet_jax.data.custom.readers import FolderSource as FolderSource
    from isnet_jax.data.custom.readers import PixelRules as PixelRules
    from isnet_jax.data.custom.readers import VocSource as VocSource
    from isnet_jax.data.custom.readers.tfds_records import TfdsSource as TfdsSource
    from isnet_jax.data.digits.builder import SPLITS as SPLITS
    from isnet_jax.data.digits.builder import TEST_SPLITS as TEST_SPLITS
    from isnet_jax.data.digits.builder import BiasedDigits as BiasedDigits
    from isnet_jax.data.digits.builder import BiasedDigitsConfig as BiasedDigitsConfig
    from isnet_jax.data.digits.marks import BackgroundMark as BackgroundMark
    from isnet_jax.data.digits.marks import foreground_mask as foreground_mask
    from isnet_jax.data.digits.marks import paint as paint
    from isnet_jax.data.digits.preparation import prepare as prepare
    from isnet_jax.data.digits.sources import Digits as Digits
    from isnet_jax.data.digits.sources import load_digits as load_digits
    from isnet_jax.data.loader import train_iterator as train_iterator
    from isnet_jax.data.prepared import PreparedRecords as PreparedRecords
    from isnet_jax.data.prepared import class_names as class_names
    from isnet_jax.data.prepared import load_split as load_split
    from isnet_jax.data.prepared import open_records as open_records
    from isnet_jax.data.split import BatchDict as BatchDict
    from isnet_jax.data.split import Split as Split

__getattr__, __dir__ = exports(
    __name__,
    {
        "augmentation": ("Augmentation",),
        "checks": ("check_examples",),
        "custom.builder": ("open_prepared",),
        "custom.preparation": ("OwnDataConfig", "Prepared", "prepare_own"),
        "custom.readers": ("CocoSource", "CsvSource", "FolderSource", "PixelRules", "VocSource"),
        "custom.readers.tfds_records": ("TfdsSource",),
        "digits.builder": ("SPLITS", "TEST_SPLITS", "BiasedDigits", "BiasedDigitsConfig"),
        "digits.marks": ("BackgroundMark", "foreground_mask", "paint"),
        "digits.preparation": ("prepare",),
        "digits.sources": ("Digits", "load_digits"),
        "loader": ("train_iterator",),
        "prepared": ("PreparedRecords", "class_names", "load_split", "open_records"),
        "split": ("BatchDict", "Split"),
    },
)
