"""Annotations in COCO's format: a JSON file of images, categories and segmented instances."""

import contextlib
import json
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from isnet_jax.data.custom.readers import choice, coordinates, segments
from isnet_jax.data.custom.readers.boxes import box, polygon
from isnet_jax.data.custom.readers.names import normal, require_distinct, require_values
from isnet_jax.data.custom.readers.pictures import PixelRules
from isnet_jax.data.custom.readers.samples import (
    Annotated,
    Contents,
    Listing,
    Problem,
    Rejected,
    Sample,
    inside,
    read_text,
    relative,
    require_folder,
)
from isnet_jax.errors import UserError, printable, suggest

_REMEDY = "Correct the entry"


@dataclass(frozen=True)
class CocoSource:
    """Images with segmented instances; the classes are the categories.

    The mask of an image is the union of its instances of the classes it is given; instances of
    other categories are background.

    Attributes:
        annotations: the JSON file, such as instances_train.json.
        folder: holds the images; file names in the JSON are relative to it and stay inside. The
            JSON's own folder if left out.
        categories: names of the categories that count, all if left out. Images without them are
            left out of the data set.
        label: the class of an image with several categories: "only" refuses it, "largest" takes
            the one that covers most, "all" gives it all of them (multi-label).
        rules: how values in the image files are understood.
        boxes: the mask is drawn from bounding boxes, coarser than segments.
    """

    annotations: Path
    folder: Path | None = None
    categories: tuple[str, ...] = ()
    label: choice.Label = "only"
    rules: PixelRules = field(default_factory=PixelRules)
    boxes: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "categories", tuple(map(normal, self.categories)))
        choice.check(self.label)

    @property
    def root(self) -> Path:
        return self.annotations.parent if self.folder is None else self.folder

    def listing(self) -> Listing:
        """Reads the annotations.

        Raises:
            UserError: the file cannot be read, or is not in COCO's format.
        """
        content = _parsed(self.annotations)
        require_folder(self.root, "the folder with the images")
        problems: list[Problem] = []
        used = _used(content["annotations"])
        categories = self._categories(content["categories"], used)
        instances = self._instances(content["annotations"], categories, problems)
        counted = set(self.categories or categories.values())
        samples: list[Sample] = []
        keys: set[int | str] = set()
        names_seen: set[str] = set()
        for number, entry in enumerate(content["images"]):
            place = f"{self.annotations.name} images[{number}]"
            try:
                key = _key(entry, "id")
                if key in keys:
                    raise Rejected(f"has the id {key!r} of another image", _REMEDY)
                keys.add(key)
                sample = self._sample(entry, instances.pop(key, []), counted)
                if sample is None:
                    continue
                if sample.id in names_seen:
                    raise Rejected(f"names {sample.id} again", _REMEDY)
                names_seen.add(sample.id)
                samples.append(sample)
            except Rejected as error:
                problems.append(Problem(place, error.wrong, error.remedy))
        for key, found in instances.items():
            if key not in keys:
                place = f"{self.annotations.name} annotations[{found[0].number}]"
                wrong = f"belongs to an image {key!r} that is not listed"
                problems.append(Problem(place, wrong, _REMEDY))
        return Listing(
            root=self.root,
            samples=tuple(samples),
            problems=tuple(problems),
            class_names=tuple(name for name in categories.values() if name in counted),
            multi_label=self.label == "all",
            files=(self.annotations,),
        )

    def _categories(self, entries: list[Any], used: set[int | str]) -> dict[int | str, str]:
        """Names by id of the categories that are used; tools export others, such as a root."""
        names: dict[int | str, str] = {}
        ids: set[int | str] = set()
        for number, entry in enumerate(entries):
            place = f"{printable(self.annotations)}: categories[{number}]"
            try:
                key = _key(entry, "id")
            except Rejected as error:
                raise UserError(f"{place} {error.wrong}. {error.remedy}.") from error
            name = entry.get("name")
            if not isinstance(name, str) or not name.strip() or not name.isprintable():
                raise UserError(f"{place} has no name. {_REMEDY}.")
            name = normal(name.strip())
            if key in ids or (key in used and name in names.values()):
                raise UserError(f"{place} repeats the id or name of another. {_REMEDY}.")
            ids.add(key)
            if key in used or name in self.categories:
                names[key] = name
        require_distinct(names.values(), self.annotations)
        require_values(names.values(), self.annotations)
        for name in self.categories:
            if name not in names.values():
                raise UserError(printable(suggest(name, names.values(), what="category")))
        return names

    def _instances(
        self, entries: list[Any], names: dict[Any, str], problems: list[Problem]
    ) -> dict[Any, list["_Instance"]]:
        """Instances by the id of their image."""
        found: dict[Any, list[_Instance]] = defaultdict(list)
        for number, entry in enumerate(entries):
            place = f"{self.annotations.name} annotations[{number}]"
            try:
                image, category = _key(entry, "image_id"), _key(entry, "category_id")
                if category not in names:
                    raise Rejected(f"has the unknown category_id {category!r}", _REMEDY)
                segment = _box(entry) if self.boxes else entry.get("segmentation")
                instance = _Instance(number, names[category], segment)
                found[image].append(instance)
            except Rejected as error:
                problems.append(Problem(place, error.wrong, error.remedy))
        return found

    def _sample(self, entry: Any, instances: list["_Instance"], counted: set[str]) -> Sample | None:
        name = entry.get("file_name")
        height, width = _whole(entry.get("height")), _whole(entry.get("width"))
        if not isinstance(name, str):
            raise Rejected("has no file_name", _REMEDY)
        if not (type(height) is int and type(width) is int and 0 < height < 1e6 > width > 0):
            raise Rejected("has no height and width", _REMEDY)
        path = inside(self.root, name)
        own = [instance for instance in instances if instance.category in counted]
        if not own and self.categories:
            return None
        if not own:
            raise Rejected(f"({name}) has no annotation", "Annotate it, or remove its entry")
        for instance in own:
            try:
                segments.check(instance.segmentation, height, width)
            except Rejected as error:
                wrong = f"({name}, annotations[{instance.number}]) {error.wrong}"
                raise Rejected(wrong, error.remedy) from error
        segments.require_pixels((i.segmentation for i in own), height, width)
        shapes: dict[str, list[Any]] = defaultdict(list)
        for instance in own:
            shapes[instance.category].append(instance.segmentation)
        if self.label == "only":
            choice.chosen(dict.fromkeys(shapes, 1.0), self.label)
        annotation = _Segments(dict(shapes), self.label, height, width)
        return Sample(relative(path, self.root), path, annotation)


@dataclass(frozen=True)
class _Instance:
    """One annotated object; its number is its place in the file."""

    number: int
    category: str
    segmentation: Any


@dataclass(frozen=True)
class _Segments:
    """A mask drawn from segments, and the classes they are of."""

    shapes: Mapping[str, list[Any]]
    label: choice.Label
    height: int
    width: int

    @property
    def files(self) -> tuple[Path, ...]:
        return ()

    def read(self, height: int, width: int, contents: Contents) -> Annotated:
        coordinates.require_size((self.height, self.width), height, width)
        labels = tuple(self.shapes)
        if self.label == "largest" and len(labels) > 1:
            areas = {name: float(self._drawn((name,)).sum()) for name in labels}
            labels = choice.chosen(areas, self.label)
        mask = self._drawn(labels)
        if not mask.any():
            raise Rejected("has an empty mask: its segments cover no pixel", "Annotate it anew")
        return Annotated(mask, labels)

    def _drawn(self, names: tuple[str, ...]) -> np.ndarray:
        mask = np.zeros((self.height, self.width), bool)
        for name in names:
            for shape in self.shapes[name]:
                segments.draw(shape, mask)
        return mask


def _box(entry: Any) -> list[list[float]]:
    """The bounding box [left, top, width, height] of an annotation, as a polygon."""
    sides = entry.get("bbox")
    if not (isinstance(sides, list) and len(sides) == 4):
        raise Rejected("has no bbox of four numbers", _REMEDY)
    left, top, width, height = coordinates.numbers(sides, coordinates.of_json, "bbox")
    return polygon(box(left, top, left + width, top + height))


def _parsed(path: Path) -> dict[str, list[Any]]:
    text = read_text(path, "annotations in COCO's format")
    try:
        content = json.loads(text, object_pairs_hook=_once)
    except (ValueError, RecursionError) as error:
        raise UserError(
            f"{printable(path)} is not JSON ({printable(error)}). Expected annotations in COCO's "
            "format."
        ) from error
    for key in ("images", "annotations", "categories"):
        if not isinstance(content, dict) or not isinstance(content.get(key), list):
            raise UserError(
                f"{printable(path)} has no list {key!r}. Expected COCO's format: an object with "
                "the lists images, annotations and categories."
            )
    return content


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object of JSON, in which each name is there once."""
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"an object has {max(names, key=names.count)[:40]!r} twice")
    return found


def _used(annotations: list[Any]) -> set[int | str]:
    """The ids of categories in annotations, bad ones aside."""
    found: set[int | str] = set()
    for entry in annotations:
        with contextlib.suppress(Rejected):
            found.add(_key(entry, "category_id"))
    return found


def _key(entry: Any, name: str) -> int | str:
    value = _whole(entry.get(name)) if isinstance(entry, dict) else None
    if isinstance(value, int | str) and not isinstance(value, bool):
        return value
    raise Rejected(f"has no {name}", _REMEDY)


def _whole(value: Any) -> Any:
    """The value; a whole float, as tables write them, as int."""
    return int(value) if isinstance(value, float) and value.is_integer() else value
