"""`isnet-jax prepare folder | csv | coco | voc | tfds`: own images become a data set."""

from __future__ import annotations

import dataclasses
from dataclasses import field
from pathlib import Path
from typing import Annotated, Any, Protocol

import tyro
from rich.console import Console
from rich.progress import Progress

from isnet_jax.commands.surroundings import require_devices
from isnet_jax.commands.terminal import say, warn
from isnet_jax.data import (
    CocoSource,
    CsvSource,
    FolderSource,
    OwnDataConfig,
    PixelRules,
    Prepared,
    TfdsSource,
    VocSource,
    class_names,
    prepare_own,
)
from isnet_jax.data.custom.readers import Source
from isnet_jax.data.custom.readers.choice import Label
from isnet_jax.data.custom.readers.commanded import ByCommand
from isnet_jax.data.custom.readers.made_masks import BySegmenter, MaskedSource, MaskMaker
from isnet_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class MadeMasks:
    """Masks for images that have none.

    Attributes:
      masks_by: run of `isnet-jax train segmenter` that draws masks where there are none.
      mask_confidence: the least that such a mask is taken with, in [0, 1]: the expected overlap
        (IoU) with the true one, if the segmenter's probabilities hold. An image whose mask is not
        so sure counts as one without a mask.
      masks_command: a command instead that makes the mask of an image, such as "tool {image}
        {mask}"; called once for each image without a mask, without a shell. If it writes none,
        the image counts as one without a mask.
      mask_seconds: that the command may take for an image.
    """

    masks_by: Path | None = None
    mask_confidence: float = 0.7
    masks_command: str | None = None
    mask_seconds: float = 60.0

    def maker(self) -> MaskMaker | None:
        """What makes the masks, if something shall.

        Raises:
          UserError: two things shall, or it cannot.
        """
        if self.masks_by is not None and self.masks_command is not None:
            raise UserError("--masks-by and --masks-command both make masks; expected one of them.")
        if self.masks_command is not None:
            return ByCommand(self.masks_command, self.mask_seconds)
        if self.masks_by is None:
            return None
        from isnet_jax.commands.segmenter import Segmenter

        require_devices()
        segment = Segmenter(self.masks_by)
        return BySegmenter(segment.digest, self.mask_confidence, segment)


# Options of several groups, without the groups' names before them.
_Options = Annotated[OwnDataConfig, tyro.conf.arg(name="")]
_Pixels = Annotated[PixelRules, tyro.conf.arg(name="")]
_Masks = Annotated[MadeMasks, tyro.conf.arg(name="")]
_OUT = Path("datasets/own")
SHOWN = 8


class Command(Protocol):
    """What to prepare, from where to where."""

    @property
    def out(self) -> Path: ...

    @property
    def options(self) -> OwnDataConfig: ...

    @property
    def masks(self) -> MadeMasks: ...

    def source(self) -> Source: ...


@dataclasses.dataclass(frozen=True)
class Folder:
    """Prepare a folder of images with masks.

    Images lie in images/CLASS/x.png, each with a mask of the same name in masks/CLASS/x.png, white
    on the foreground. If the folder holds train, validation and test (or more test sets, such as
    test_hospital2), each with images and masks, these are the splits; else they are drawn. PNG,
    JPEG, TIFF, BMP, GIF, WebP, PPM and DICOM are read; 16-bit grey keeps its 16 bits.

    Attributes:
      folder: holds images and masks, or the splits.
      out: folder of the prepared data, to be made; then `isnet-jax train own-data OUT`.
    """

    folder: Annotated[Path, tyro.conf.Positional]
    out: Path = _OUT
    options: _Options = field(default_factory=OwnDataConfig)
    pixels: _Pixels = field(default_factory=PixelRules)
    masks: _Masks = field(default_factory=MadeMasks)

    def source(self) -> FolderSource:
        return FolderSource(self.folder, self.pixels)


@dataclasses.dataclass(frozen=True)
class Csv:
    """Prepare the images that a CSV table lists.

    Its columns: image, a path; mask, a path or empty (or instead xmin, ymin, xmax and ymax, a box
    as a coarse mask); and one of: label, a class; labels, classes
    separated by |, any number of them; or a column of 0 and 1 for each class. The last two make
    the data multi-label. A column split, if there is one, holds train, validation or test.

    Attributes:
      table: the CSV file: UTF-8, commas, a header.
      out: folder of the prepared data, to be made; then `isnet-jax train own-data OUT`.
      images: folder that the table's paths start from and stay in; the table's own if left out.
      label_columns: the columns of 0 and 1, where the table has other columns too.
    """

    table: Annotated[Path, tyro.conf.Positional]
    out: Path = _OUT
    images: Path | None = None
    label_columns: tuple[str, ...] = ()
    options: _Options = field(default_factory=OwnDataConfig)
    pixels: _Pixels = field(default_factory=PixelRules)
    masks: _Masks = field(default_factory=MadeMasks)

    def source(self) -> CsvSource:
        return CsvSource(self.table, self.images, self.label_columns, self.pixels)


@dataclasses.dataclass(frozen=True)
class Coco:
    """Prepare images with annotations in COCO's format.

    The classes are the categories, and the mask of an image is drawn from its polygons or run
    lengths (RLE).

    Attributes:
      annotations: JSON file, such as instances_train.json.
      out: folder of the prepared data, to be made; then `isnet-jax train own-data OUT`.
      images: folder of the image files; the JSON's own if left out.
      categories: names of the categories that count; all if left out. Other images are left out.
      label: the class of an image with several categories: only refuses it, largest takes the one
        that covers most, all gives it all of them (multi-label).
      boxes: draw the masks from the bounding boxes instead.
    """

    annotations: Annotated[Path, tyro.conf.Positional]
    out: Path = _OUT
    images: Path | None = None
    categories: tuple[str, ...] = ()
    label: Label = "only"
    boxes: bool = False
    options: _Options = field(default_factory=OwnDataConfig)
    pixels: _Pixels = field(default_factory=PixelRules)
    masks: _Masks = field(default_factory=MadeMasks)

    def source(self) -> CocoSource:
        return CocoSource(
            self.annotations, self.images, self.categories, self.label, self.pixels, self.boxes
        )


@dataclasses.dataclass(frozen=True)
class Voc:
    """Prepare images with class or instance masks as in Pascal VOC.

    JPEGImages/x.jpg is the image and SegmentationClass/x.png its mask of class numbers, 0 being
    the background. Lines of class_names.txt name the classes from number 1 on; without this file
    they are VOC's twenty.

    Attributes:
      folder: holds JPEGImages and SegmentationClass.
      out: folder of the prepared data, to be made; then `isnet-jax train own-data OUT`.
      categories: names of the classes that count; all if left out. Other images are left out.
      label: the class of an image with several: only refuses it, largest takes the one that covers
        most, all gives it all of them (multi-label).
      largest_instance: take the largest instance of SegmentationObject as the mask, and its class.
      boxes: draw the masks from the bounding boxes in Annotations/x.xml instead.
    """

    folder: Annotated[Path, tyro.conf.Positional]
    out: Path = _OUT
    categories: tuple[str, ...] = ()
    label: Label = "only"
    largest_instance: bool = False
    boxes: bool = False
    options: _Options = field(default_factory=OwnDataConfig)
    pixels: _Pixels = field(default_factory=PixelRules)
    masks: _Masks = field(default_factory=MadeMasks)

    def source(self) -> VocSource:
        return VocSource(
            self.folder, self.categories, self.label, self.largest_instance, self.pixels, self.boxes
        )


@dataclasses.dataclass(frozen=True)
class Tfds:
    """Prepare a data set of TensorFlow Datasets (TFDS) that has images, classes and masks.

    It is downloaded and prepared by TFDS if it is not there yet. Its splits are kept if they are
    called train and test; others are put together and divided anew.

    Attributes:
      name: as TFDS names it, such as oxford_iiit_pet, caltech_birds2011 or mine/config:1.0.0.
      out: folder of the prepared data, to be made; then `isnet-jax train own-data OUT`.
      data_dir: where TFDS keeps its data; its own default if left out.
      image: name of the feature with the image.
      label: name of the feature with the class, or with a sequence of classes (multi-label).
      mask: name of the feature with the mask; the one that is called so if left out.
      foreground: the values that are foreground in the mask, such as 1 3. If left out, what is
        known of the data set (oxford_iiit_pet: 1 3; caltech_birds2011: from 128 on), or all
        that is not 0.
      imports: modules that register builders of your own.
    """

    name: Annotated[str, tyro.conf.Positional]
    out: Path = _OUT
    data_dir: Path | None = None
    image: str = "image"
    label: str = "label"
    mask: str | None = None
    foreground: tuple[int, ...] = ()
    imports: tuple[str, ...] = ()
    options: _Options = field(default_factory=OwnDataConfig)
    pixels: _Pixels = field(default_factory=PixelRules)
    masks: _Masks = field(default_factory=MadeMasks)

    def source(self) -> TfdsSource:
        return TfdsSource(
            self.name,
            self.data_dir,
            self.image,
            self.label,
            self.mask,
            self.foreground,
            self.imports,
            self.pixels,
        )


COMMANDS: dict[str, type[Command]] = {
    "folder": Folder,
    "csv": Csv,
    "coco": Coco,
    "voc": Voc,
    "tfds": Tfds,
}


def run(command: Command, console: Console) -> Prepared:
    """Check and write the data, with a progress bar, and say what there is now.

    Raises:
      UserError: see `prepare_own`.
    """
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("finding the files", total=None)

        def report(what: str, done: int, total: int) -> None:
            bar.update(task, description=what, completed=done, total=total)

        prepared = prepare_own(_source(command), command.out, command.options, report)
    for problem in prepared.problems[:SHOWN]:
        say(console, f"left out: {problem}")
    if len(prepared.problems) > SHOWN:
        say(console, f"left out: {len(prepared.problems) - SHOWN} more, see preparation.json")
    splits = prepared.builder.info.splits
    counts = ", ".join(f"{splits[name].num_examples:,} {name}" for name in splits)
    features: Any = prepared.builder.info.features
    height, width, _ = features["image"].shape
    names = class_names(prepared.builder)
    listed = ", ".join(names[:12]) + (", ..." if len(names) > 12 else "")
    say(console, f"{'found again' if prepared.reused else 'prepared'}: {command.out}")
    say(console, f"{counts}; {height} x {width} pixels; {len(names)} classes: {listed}")
    for text in prepared.warnings:
        warn(console, text)
    return prepared


def _source(command: Command) -> Source:
    """The command's source, with masks that are made if they are wanted."""
    maker = command.masks.maker()
    if maker is None:
        return command.source()
    return MaskedSource(command.source(), maker, command.options.allow_missing_masks)
