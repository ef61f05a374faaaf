"""A folder of images with masks: images/CLASS/x.png and masks/CLASS/x.png."""

import itertools
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path

from isnet_jax.data.custom.readers import names, splits
from isnet_jax.data.custom.readers.pictures import SUFFIXES, MaskFile, PixelRules, no_picture
from isnet_jax.data.custom.readers.samples import (
    Listing,
    Problem,
    Sample,
    encodable,
    entries,
    is_folder,
    relative,
    require_folder,
)
from isnet_jax.errors import UserError, printable

_KINDS = ("images", "masks")
_EXPECTED = (
    "images/CLASS/x.png and masks/CLASS/x.png, or the same inside train/, validation/ and test/"
)


@dataclass(frozen=True)
class FolderSource:
    """Images in a folder per class, each with a mask of the same name.

    Attributes:
        root: holds `images` and `masks`, each with a folder per class; or `train`, `test` and, if
            wanted, `validation` and further test sets `test_NAME`, each of them with `images` and
            `masks`. Image and mask have the same name, their suffixes may differ.
        rules: how values in the files are understood.
    """

    root: Path
    rules: PixelRules = field(default_factory=PixelRules)

    def listing(self) -> Listing:
        """Finds images and masks by their names.

        Raises:
            UserError: no such folder, or it is laid out otherwise.
        """
        require_folder(self.root, f"a folder with {_EXPECTED}")
        samples: list[Sample] = []
        problems: list[Problem] = []
        classes: set[str] = set()
        for split, folder in self._parts():
            for name, folders in _classes(folder, self.root, problems).items():
                if not (encodable(name) and name.isprintable()):
                    place = relative(folders[0], self.root)
                    wrong = "has a name that is not UTF-8 or has invisible characters"
                    problems.append(Problem(place, wrong, "Rename it"))
                    continue
                found = self._of_class(folders, split, name, problems)
                samples += found
                classes |= {name} if found else set()
        names.require_distinct(sorted(classes), self.root)
        names.require_values(sorted(classes), self.root)
        return Listing(
            root=self.root,
            samples=tuple(samples),
            problems=tuple(problems),
            class_names=tuple(sorted(classes)),
        )

    def _parts(self) -> list[tuple[str | None, Path]]:
        """Folders that hold `images` and `masks`, with the split they stand for."""
        inner = [path for path in entries(self.root) if is_folder(path)]
        found = {path.name for path in inner}
        _require_kinds(found, self.root)
        if "images" in found:
            given = sorted(name for name in found if splits.is_split(splits.meant(name)))
            if given:
                raise UserError(
                    f"{printable(self.root)} holds both images/ and {printable(given[0])}/. Keep "
                    f"{_EXPECTED}."
                )
            return [(None, self.root)]
        for path in inner:
            _require_kinds({entry.name for entry in entries(path)}, path)
        if not found or not any((path / "images").is_dir() for path in inner):
            raise UserError(f"{printable(self.root)} has no folder images/. Expected {_EXPECTED}.")
        splits.require_complete({printable(name) for name in found}, printable(self.root))
        for path in inner:
            require_folder(path / "images", "a folder per class with the split's images")
        return [(path.name, path) for path in inner]

    def _of_class(
        self, folders: list[Path], split: str | None, name: str, problems: list[Problem]
    ) -> list[Sample]:
        images, masks = (
            self._pictures([path for path in folders if path.parent.name == kind], problems)
            for kind in _KINDS
        )
        if not images:
            place = relative(folders[0].parent.parent / "images" / folders[0].name, self.root)
            problems.append(Problem(place, "has no images", "Put images there or remove it"))
        for stem in masks.keys() - images.keys():
            for path in masks[stem]:
                remedy = "Put the image there under the mask's name, or remove the mask"
                problems.append(
                    Problem(relative(path, self.root), "is a mask without an image", remedy)
                )
        samples = []
        for stem, paths in images.items():
            own_masks = masks.get(stem, [])
            for kind, found in (("images", paths), ("masks", own_masks)):
                if len(found) > 1:
                    both = " and ".join(path.name for path in found)
                    place = relative(found[0], self.root)
                    wrong = f"has a duplicate name: {both} are {kind} of one sample"
                    problems.append(Problem(place, wrong, "Keep one or rename the others"))
            if len(paths) == 1 and len(own_masks) <= 1:
                mask = MaskFile(own_masks[0] if own_masks else None, (name,), self.rules)
                samples.append(Sample(relative(paths[0], self.root), paths[0], mask, split))
        return samples

    def _pictures(self, folders: list[Path], problems: list[Problem]) -> dict[str, list[Path]]:
        """The picture files of folders by name without suffix."""
        found: dict[str, list[Path]] = defaultdict(list)
        for path in itertools.chain.from_iterable(map(entries, folders)):
            place = relative(path, self.root)
            if not encodable(path.name):
                problems.append(Problem(place, "has a name that is not UTF-8", "Rename it"))
            elif is_folder(path):
                wrong = "is a folder, expected images only"
                problems.append(Problem(place, wrong, "Move or remove it"))
            elif path.suffix.lower() not in SUFFIXES:
                problems.append(no_picture(path, place))
            else:
                found[names.normal(path.stem)].append(path)
        return found


def _require_kinds(found: set[str], place: Path) -> None:
    """Raises a `UserError` for folders that are called nearly like `images` or `masks`."""
    names.require_as_written(found, _KINDS, f"{printable(place)}: the folder")


def _classes(folder: Path, root: Path, problems: list[Problem]) -> dict[str, list[Path]]:
    """Folders in `images` and `masks` by their class; whatever else lies there is a problem."""
    found: dict[str, list[Path]] = defaultdict(list)
    for kind in _KINDS:
        for path in entries(folder / kind) if is_folder(folder / kind) else ():
            if is_folder(path):
                found[names.normal(path.name)].append(path)
            else:
                wrong = f"lies directly in {kind}/"
                remedy = "Move it into its class's folder, or remove it"
                problems.append(Problem(relative(path, root), wrong, remedy))
    return dict(sorted(found.items(), key=lambda item: item[0].encode("utf-8", "surrogateescape")))
