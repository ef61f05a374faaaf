"""Readers of own data: a folder, a CSV table, COCO and VOC annotations."""

from isnet_jax.data.custom.readers.coco import CocoSource
from isnet_jax.data.custom.readers.folder import FolderSource
from isnet_jax.data.custom.readers.pictures import PixelRules
from isnet_jax.data.custom.readers.samples import (
    Annotated,
    Annotation,
    Contents,
    Listing,
    Problem,
    Rejected,
    Sample,
    Source,
)
from isnet_jax.data.custom.readers.table import CsvSource
from isnet_jax.data.custom.readers.voc import VocSource

__all__ = [
    "Annotated",
    "Annotation",
    "CocoSource",
    "Contents",
    "CsvSource",
    "FolderSource",
    "Listing",
    "PixelRules",
    "Problem",
    "Rejected",
    "Sample",
    "Source",
    "VocSource",
]
