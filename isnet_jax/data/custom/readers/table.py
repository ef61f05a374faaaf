"""A CSV table of images, masks and labels."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from isnet_jax.data.custom.readers import coordinates, names, splits
from isnet_jax.data.custom.readers.boxes import GivenBoxes, box
from isnet_jax.data.custom.readers.cells import BLANK, rows_of
from isnet_jax.data.custom.readers.pictures import SUFFIXES, MaskFile, PixelRules
from isnet_jax.data.custom.readers.samples import (
    Listing,
    Problem,
    Record,
    Rejected,
    Sample,
    inside,
    relative,
    require_folder,
    unique,
)
from isnet_jax.errors import UserError, printable

_BOX: Final = ("xmin", "ymin", "xmax", "ymax")
_RESERVED: Final = ("image", "mask", "label", "labels", "split", *_BOX)
_SIZE: Final = ("height", "width")
_TRUTH: Final = {"0": False, "0.0": False, "1": True, "1.0": True}
_SEPARATOR: Final = "|"


@dataclass(frozen=True)
class CsvSource:
    """A table with a row per image.

    Its columns: `image`, a path; `mask`, a path, or empty where there is no mask; or instead
    `xmin`, `ymin`, `xmax`, `ymax`, a box as a coarse mask, in pixels from the image's corner, with
    `width` and `height` of the image, if wanted, which must be its; one of: `label`, the image's
    class; `labels`, any number of classes separated by `|`; several columns of 0 and 1, named like
    the classes; and, if wanted, `split`.

    Attributes:
        table: the CSV file: UTF-8, commas, a header.
        folder: paths in the table are relative to this one and stay inside; the table's if left
            out.
        label_columns: the columns of 0 and 1, where the table has others too.
        rules: how values in the files are understood.
    """

    table: Path
    folder: Path | None = None
    label_columns: tuple[str, ...] = ()
    rules: PixelRules = field(default_factory=PixelRules)

    def __post_init__(self) -> None:
        object.__setattr__(self, "label_columns", tuple(map(names.normal, self.label_columns)))

    @property
    def root(self) -> Path:
        return self.table.parent if self.folder is None else self.folder

    def listing(self) -> Listing:
        """Reads the table.

        Raises:
            UserError: it cannot be read, or its columns are not as described.
        """
        header, rows = rows_of(self.table)
        self._check_header(header)
        require_folder(self.root, "the folder that the table's paths are relative to")
        single = "label" in header and not self.label_columns
        columns = self._class_columns(header)
        self._check_unread(header, rows, {*_RESERVED, *columns})
        samples: list[Sample] = []
        problems: list[Problem] = []
        seen: dict[Path | Record, int] = {}
        named: set[str] = set()
        for number, row in rows:
            place = f"{self.table.name} line {number}"
            try:
                sample, labels = self._sample(header, row, single, columns)
                if sample.image in seen:
                    first = seen[sample.image]
                    raise Rejected(f"names the image of line {first} again", "Keep one row")
                seen[sample.image] = number
                samples.append(sample)
                named.update(labels)
            except Rejected as error:
                problems.append(Problem(place, error.wrong, error.remedy))
        given = {sample.split for sample in samples if sample.split is not None}
        names.require_distinct(columns or sorted(named), self.table)
        names.require_values(columns, self.table)
        names.require_apart(sorted(named), self.table)
        # Rows whose split is refused are among the problems: they may be those that lack.
        refused = any(problem.wrong.startswith("has the split") for problem in problems)
        if given and not refused:
            splits.require_complete({printable(name) for name in given}, printable(self.table))
        return Listing(
            root=self.root,
            samples=tuple(samples),
            problems=tuple(problems),
            class_names=tuple(columns) or tuple(sorted(named)),
            multi_label=not single,
            files=(self.table,),
        )

    def _check_header(self, header: list[str]) -> None:
        table = printable(self.table)
        sides = [name for name in header if name in _BOX]
        if sides and (len(sides) < len(_BOX) or "mask" in header):
            also = " and mask" if "mask" in header else ""
            raise UserError(
                f"{table} has the columns {_listed(sides)}{also}; expected either mask, or all of "
                f"{', '.join(_BOX)}."
            )
        odd = [name for name in header if not name.isprintable()]
        if odd:
            raise UserError(
                f"{table}: a column's name has invisible characters: {_listed(odd[:1])}. Remove "
                "them."
            )
        names.require_as_written(
            [name for name in header if name not in self.label_columns],
            (*_RESERVED, *_SIZE) if sides else _RESERVED,
            f"{table}: the column",
            "Rename it; if it is a class, name all columns that are: --label-columns",
        )
        if "" in header:
            raise UserError(f"{table}: column {header.index('') + 1} has no name. Name or drop it.")
        if "image" not in header:
            raise UserError(
                f"{table} has no column 'image'; its columns are {_listed(header)}. Expected "
                "image, mask, then label, labels or columns of 0 and 1, and perhaps split."
            )

    def _class_columns(self, header: list[str]) -> list[str]:
        """The columns of 0 and 1; none where a column names the classes."""
        table = printable(self.table)
        missing = [name for name in self.label_columns if name not in header]
        if missing:
            raise UserError(
                f"{table} has no column {printable(repr(missing[0]))}; its columns are "
                f"{_listed(header)}. Correct --label-columns."
            )
        reserved = [name for name in self.label_columns if name in ("image", "mask", "split")]
        if reserved:
            raise UserError(f"--label-columns names {reserved[0]!r}, which holds no label.")
        if self.label_columns:
            return list(unique(self.label_columns))
        if "label" in header and "labels" in header:
            raise UserError(f"{table} has both columns 'label' and 'labels'. Keep one.")
        if "label" in header or "labels" in header:
            return []
        columns = [name for name in header if name not in _RESERVED]
        if not columns:
            raise UserError(
                f"{table} has no labels. Add a column label (one class), labels (classes separated "
                f"by {_SEPARATOR}), or a column of 0 and 1 per class."
            )
        return columns

    def _check_unread(
        self, header: list[str], rows: list[tuple[int, list[str]]], read: set[str]
    ) -> None:
        """Raises a `UserError` for a column that is not read and holds splits, or the masks."""
        whole = [dict(zip(header, row, strict=True)) for _, row in rows if len(row) == len(header)]
        held = {name: {row[name].strip() for row in whole} - {""} for name in header}
        masked = any(held.get(name) for name in ("mask", *_BOX))
        for name in header:
            if name in read or len(held[name]) < 2:
                continue
            meant = None
            if "split" not in header and all(splits.is_split(splits.meant(v)) for v in held[name]):
                meant = "split"
            elif not masked and all(self._is_picture(value) for value in held[name]):
                meant = "mask"
            if meant is not None:
                raise UserError(
                    f"{printable(self.table)}: the column {printable(repr(name))} is not read, but "
                    f"holds what a column {meant} does. Call it {meant}, or drop it."
                )

    def _is_picture(self, text: str) -> bool:
        try:
            path = inside(self.root, text)
        except Rejected:
            return False
        return path.suffix.lower() in SUFFIXES and path.is_file()

    def _sample(
        self, header: list[str], row: list[str], single: bool, columns: list[str]
    ) -> tuple[Sample, tuple[str, ...]]:
        if len(row) != len(header):
            raise Rejected(
                f"has {len(row)} cells, but the header {len(header)}",
                "Add or remove cells; quote cells that hold commas",
            )
        cells = dict(zip(header, row, strict=True))
        image = inside(self.root, cells["image"])
        mask = inside(self.root, cells["mask"]) if cells.get("mask", "").strip() else None
        if mask == image:
            raise Rejected("names one file as image and as mask", "Correct the mask")
        split = None
        if "split" in cells:
            split = cells["split"].strip()
            if not splits.is_split(split):
                raise Rejected(f"has the split {split!r}", splits.remedy(split))
        labels = tuple(map(names.normal, _labels(cells, single, columns)))
        annotation = MaskFile(mask, labels, self.rules)
        sides = [cells[side].strip() for side in _BOX if side in cells]
        if any(sides):
            corners = coordinates.numbers(sides, coordinates.of_text, "box")
            annotation = GivenBoxes((box(*corners),), labels, None if columns else _size(cells))
        return Sample(relative(image, self.root), image, annotation, split), labels


def _size(cells: dict[str, str]) -> tuple[int, int] | None:
    """Height and width of the image that was annotated, where the table has such columns."""
    given = [cells.get(name, "").strip() for name in _SIZE]
    if not all(given):
        return None
    height, width = coordinates.numbers(given, coordinates.of_text, "size")
    return int(height), int(width)


def _labels(cells: dict[str, str], single: bool, columns: list[str]) -> tuple[str, ...]:
    if columns:
        values = {name: cells[name].strip() for name in columns}
        wrong = [name for name, value in values.items() if value not in _TRUTH]
        if wrong:
            raise Rejected(
                f"has {values[wrong[0]]!r} in the column {wrong[0]!r}, expected 0 or 1",
                "Correct it; if this column is no class, name those that are: --label-columns",
            )
        return tuple(name for name, value in values.items() if _TRUTH[value])
    if single:
        label = cells["label"].strip(BLANK)
        if not label:
            raise Rejected("has no label", "Write its class")
        names.require_value(label)
        if _SEPARATOR in label:
            raise Rejected(
                f"has the label {label!r}, with the mark between several",
                "Write one class, or call the column labels",
            )
        return _printable((label,))
    text = cells["labels"].strip(BLANK)
    labels = tuple(part.strip(BLANK) for part in text.split(_SEPARATOR)) if text else ()
    for label in labels:
        names.require_value(label)
    listed = text.startswith("[") and text.endswith("]")
    if listed or ";" in text or "" in labels or len(set(labels)) < len(labels):
        raise Rejected(
            f"has the labels {text!r}", f"Write each class once, separated by {_SEPARATOR}"
        )
    return _printable(labels)


def _printable(labels: tuple[str, ...]) -> tuple[str, ...]:
    for label in labels:
        if not label.isprintable():
            raise Rejected(f"has a label with invisible characters: {label!r}", "Remove them")
    return labels


def _listed(names: list[str]) -> str:
    shown = ", ".join(printable(repr(name[:40])) for name in names[:10])
    return shown + (f" and {len(names) - 10} more" if len(names) > 10 else "")
