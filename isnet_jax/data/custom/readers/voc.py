"""Masks in Pascal VOC's layout: pictures whose values number classes, or instances."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import numpy as np
from jaxtyping import Bool, Shaped

from isnet_jax.data.custom.readers import choice, names
from isnet_jax.data.custom.readers.boxes import VocBoxes
from isnet_jax.data.custom.readers.pictures import (
    SUFFIXES,
    PixelRules,
    decode_numbers,
    no_picture,
    require_size,
)
from isnet_jax.data.custom.readers.samples import (
    Annotated,
    Contents,
    Listing,
    Problem,
    Rejected,
    Sample,
    blamed,
    encodable,
    entries,
    is_folder,
    read_text,
    relative,
    require_folder,
)
from isnet_jax.errors import UserError, printable, suggest

VOC_CLASSES: Final = (
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow",
    "diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train",
    "tvmonitor",
)  # fmt: skip
_IMAGES, _CLASSES, _OBJECTS = "JPEGImages", "SegmentationClass", "SegmentationObject"
_BOXES = "Annotations"
_NAMES = "class_names.txt"
_VOID = 255


@dataclass(frozen=True)
class VocSource:
    """Images with class masks, and instance masks if wanted, as in Pascal VOC.

    `JPEGImages/x.jpg` is the image, `SegmentationClass/x.png` holds the number of a class in every
    pixel, 0 on the background and 255 where nobody knows (background for us), and
    `SegmentationObject/x.png` the number of an instance. The mask of an image are its pixels of
    the classes it is given. Images without a class mask are left out.

    Attributes:
        root: holds these folders, and class_names.txt, a line per class from number 1 on, unless
            the classes are VOC's twenty.
        categories: names of the classes that count, all if left out. Images without them are left
            out of the data set.
        label: the class of an image with several: "only" refuses it, "largest" takes the one that
            covers most, "all" gives it all of them (multi-label).
        largest_instance: the mask is the largest single instance only, and its class the label.
        rules: how values in the image files are understood.
        boxes: the mask is drawn from the bounding boxes in `Annotations/x.xml`, coarser than the
            class masks, which are not needed then.
    """

    root: Path
    categories: tuple[str, ...] = ()
    label: choice.Label = "only"
    largest_instance: bool = False
    rules: PixelRules = field(default_factory=PixelRules)
    boxes: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "categories", tuple(map(names.normal, self.categories)))
        choice.check(self.label)
        if self.boxes and self.largest_instance:
            raise UserError(
                "boxes and largest_instance name two kinds of masks; expected one of them."
            )

    def listing(self) -> Listing:
        """Pairs images and masks by name.

        Raises:
            UserError: the folders or the names of the classes are not as described.
        """
        marks = _BOXES if self.boxes else _CLASSES
        require_folder(self.root, f"a folder with {_IMAGES} and {marks}")
        read = (_IMAGES, marks, _NAMES, *((_OBJECTS,) if self.largest_instance else ()))
        there = [path.name for path in entries(self.root)]
        names.require_as_written(there, read, f"{printable(self.root)}:")
        require_folder(self.root / _IMAGES, "the images")
        what = "an XML file with boxes for each image" if self.boxes else "masks of class numbers"
        require_folder(self.root / marks, what)
        if self.largest_instance:
            require_folder(self.root / _OBJECTS, "masks of instance numbers")
        classes, files = self._class_names()
        problems: list[Problem] = []
        images = self._by_name(_IMAGES, problems)
        objects = self._by_name(_OBJECTS, problems) if self.largest_instance else {}
        samples = []
        for stem, path in self._by_name(marks, problems).items():
            place = relative(path, self.root)
            if stem not in images:
                what = "an annotation" if self.boxes else "a mask"
                problems.append(Problem(place, f"is {what} without an image", "Remove it"))
            elif self.largest_instance and stem not in objects:
                wrong = f"has no mask of instances in {_OBJECTS}"
                problems.append(Problem(place, wrong, "Put it there or remove this mask"))
            else:
                annotation = (
                    VocBoxes(path, classes, self.categories, self.label)
                    if self.boxes
                    else _Numbers(path, objects.get(stem), classes, self)
                )
                image = images[stem]
                samples.append(Sample(relative(image, self.root), image, annotation))
        return Listing(
            root=self.root,
            samples=tuple(samples),
            problems=tuple(problems),
            class_names=tuple(n for n in classes if n in (self.categories or classes)),
            multi_label=self.label == "all" and not self.largest_instance,
            files=files,
        )

    def _class_names(self) -> tuple[tuple[str, ...], tuple[Path, ...]]:
        path = self.root / _NAMES
        found, files = VOC_CLASSES, ()
        if path.exists():
            found = names.in_lines(read_text(path, "a name of a class in each line"), path)
            files = (path,)
        distinct = len(set(found)) == len(found) < _VOID
        if not distinct or not all(name.isprintable() for name in found):
            raise UserError(
                f"{printable(path)} must hold the name of each class once, from number 1 on and "
                f"at most {_VOID - 1}."
            )
        names.require_distinct(found, path)
        names.require_values(found, path)
        for name in self.categories:
            if name not in found:
                raise UserError(printable(suggest(name, found, what="category")))
        return found, files

    def _by_name(self, folder: str, problems: list[Problem]) -> dict[str, Path]:
        suffixes = {".xml"} if folder == _BOXES else SUFFIXES
        found: dict[str, Path] = {}
        for path in entries(self.root / folder):
            place = relative(path, self.root)
            if not encodable(path.name):
                problems.append(Problem(place, "has a name that is not UTF-8", "Rename it"))
            elif is_folder(path):
                problems.append(Problem(place, "is a folder", "Move or remove it"))
            elif path.suffix.lower() not in suffixes:
                problems.append(no_picture(path, place))
            elif (stem := names.normal(path.stem)) in found:
                wrong = f"has a duplicate name: {found[stem].name} is of the same sample"
                problems.append(Problem(place, wrong, "Keep one or rename the others"))
            else:
                found[stem] = path
        return found


@dataclass(frozen=True)
class _Numbers:
    """Class numbers, instance numbers, and what is wanted of them."""

    classes: Path
    objects: Path | None
    names: tuple[str, ...]
    wanted: VocSource

    @property
    def files(self) -> tuple[Path, ...]:
        return (self.classes,) if self.objects is None else (self.classes, self.objects)

    def read(self, height: int, width: int, contents: Contents) -> Annotated | None:
        numbers = _numbers(self.classes, height, width, contents)
        high = int(numbers[numbers != _VOID].max(initial=0))
        if high > len(self.names):
            raise Rejected(
                f"holds the class number {high}, but there are {len(self.names)} classes",
                f"Correct it, or name the classes in {_NAMES}",
                self.classes,
            )
        areas = {
            name: int(count)
            for name, count in zip(
                self.names,
                np.bincount(numbers[numbers != _VOID], minlength=len(self.names) + 1)[1:],
                strict=True,
            )
            if count and name in (self.wanted.categories or self.names)
        }
        if not areas:
            if self.wanted.categories:
                return None
            raise Rejected("is an empty mask", "Draw it, or remove the sample", self.classes)
        if self.objects is not None:
            return self._largest_instance(numbers, areas, contents)
        with blamed(self.classes):
            labels = choice.chosen(areas, self.wanted.label)
        return Annotated(np.isin(numbers, [self.names.index(n) + 1 for n in labels]), labels)

    def _largest_instance(
        self, numbers: Shaped[np.ndarray, "h w"], areas: dict[str, int], contents: Contents
    ) -> Annotated:
        assert self.objects is not None
        height, width = numbers.shape
        instances = _numbers(self.objects, height, width, contents)
        counted = np.isin(numbers, [self.names.index(name) + 1 for name in areas])
        visible = np.where(counted & (instances != _VOID), instances, 0)
        sizes = np.bincount(visible.ravel())
        sizes[0] = 0
        if not sizes.any():
            raise Rejected("has no instance of the classes", "Draw it or remove it", self.objects)
        mask: Bool[np.ndarray, "h w"] = visible == sizes.argmax()
        inside = np.unique(numbers[mask])
        if len(inside) > 1:
            raise Rejected(
                f"has an instance {sizes.argmax()} that lies on several classes",
                "Correct this mask or that of the classes",
                self.objects,
            )
        return Annotated(mask, (self.names[int(inside[0]) - 1],))


def _numbers(path: Path, height: int, width: int, contents: Contents) -> Shaped[np.ndarray, "h w"]:
    with blamed(path):
        numbers = decode_numbers(contents.read(path))
        require_size(numbers, height, width)
        if numbers.min() < 0 or numbers.max() > 65535:
            raise Rejected("holds numbers that are none of classes", "Correct it")
        return numbers
