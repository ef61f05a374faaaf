"""Own images checked one by one, then written as a data set: all of it or nothing."""

import contextlib
import itertools
import json
import os
import shutil
import tempfile
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import tensorflow_datasets as tfds

from isnet_jax.data.checks import mask_warning
from isnet_jax.data.custom import partition
from isnet_jax.data.custom.builder import (
    LAYOUT,
    MANIFEST,
    Contained,
    OwnData,
    digests,
    open_prepared,
)
from isnet_jax.data.custom.check import (
    SIDES,
    Checked,
    OwnDataConfig,
    Progress,
    check,
    fit_both,
    read,
)
from isnet_jax.data.custom.fingerprints import differences, fingerprints, require_form
from isnet_jax.data.custom.readers import Contents, Listing, Rejected, Source
from isnet_jax.data.custom.readers.made_masks import MaskedSource
from isnet_jax.data.digits.sources import quiet_tfds
from isnet_jax.data.refine import opencv, refined
from isnet_jax.errors import UserError, printable
from isnet_jax.files import check_outputs, write_atomically

SHOWN: Final = 8
# Options that came later, and what stands for their absence in earlier records.
_LATER: Final = (("boxes", False), ("refine_masks", False))


@dataclass(frozen=True)
class Prepared:
    """What `prepare_own` has done.

    Attributes:
        builder: for `load_split`.
        problems: what was left out.
        reused: the data were there from an earlier time.
        warnings: what is no error and keeps some methods from learning.
    """

    builder: tfds.core.DatasetBuilder
    problems: tuple[str, ...]
    reused: bool
    warnings: tuple[str, ...]


def prepare_own(
    source: Source, out: str | Path, config: OwnDataConfig, progress: Progress | None = None
) -> Prepared:
    """Checks all files of a source, then writes a data set into ``out``, or finds it there.

    Nothing is written before every file has been decoded and checked. The folder appears when it is
    complete; preparing that was killed leaves a folder ``.NAME.incomplete-*`` beside it, which may
    be deleted. An earlier data set is used again if source, options and files are the same; files
    count as the same if size and time of change, or else their content, are.

    Args:
        source: where the images are.
        out: the folder to make.
        config: options.
        progress: called with what is being done, the number of samples so far and of all.

    Raises:
        UserError: bad files (all are listed in the file ``OUT.bad-files.txt`` beside the folder if
            they do not fit on the screen), a source that is none, data too few for their splits, or
            a folder that holds something else.
    """
    if config.refine_masks:
        opencv()  # Refuses where it is not installed.
    out = Path(os.path.abspath(Path(out).expanduser()))
    listing = source.listing()
    options = _settings(source, config)
    report = progress or (lambda *_: None)
    if os.path.lexists(out) and not (out.is_dir() and not any(out.iterdir())):
        record = record_of(out)
        changed = differences(record, options, listing)
        if changed:
            more = [f"and {len(changed) - SHOWN} more"] if len(changed) > SHOWN else []
            lines = "\n  ".join(changed[:SHOWN] + more)
            raise UserError(
                f"{printable(out)} was prepared from something else:\n  {lines}\nChoose another "
                "--out, or delete this folder to prepare it anew."
            )
        if record["left_out"] and not config.skip_bad:
            raise UserError(_told(record["left_out"], out))
        return _prepared(out, record, reused=True)
    _require_apart(out, source, listing)
    check_outputs([_bad_files(out)], inputs=listing.files)
    checked = check(listing, config, source.rules, report)
    left_out = [str(problem) for problem in checked.problems]
    if left_out and not config.skip_bad:
        raise UserError(_told(left_out, out))
    contained = _contained(listing, checked, config)
    record = {
        "layout": LAYOUT,
        "options": options,
        "files": fingerprints(listing, checked.contents.digests),
        "left_out": left_out,
        "warnings": _warnings(checked, contained.members["train"]),
    }
    with _temporary(out) as folder:
        written = _write(folder, source, listing, checked, contained, config, report)
        record["digests"] = digests(written)
        write_atomically(written / MANIFEST, json.dumps(record, indent=1) + "\n")
        written.replace(out)
    return _prepared(out, record, reused=False)


def _require_apart(out: Path, source: Source, listing: Listing) -> None:
    """Raises a `UserError` if data in `out` would count among the source's files the next time."""
    roots = [(place(out), place(listing.root)) for place in (os.path.abspath, os.path.realpath)]
    if not any(Path(inner).is_relative_to(outer) for inner, outer in roots):
        return

    def seen(found: Listing) -> Any:
        return [sample.id for sample in found.samples], found.problems, found.class_names

    absent = [path for path in (out, *out.parents) if not path.exists()]
    try:
        for path in reversed(absent):
            path.mkdir()
        with contextlib.suppress(UserError):
            if seen(source.listing()) == seen(listing):
                return
    except OSError:
        return  # What cannot be written to is said where it is.
    finally:
        for path in absent:
            with contextlib.suppress(OSError):
                path.rmdir()
    raise UserError(
        f"{printable(out)} lies where the images are looked for, and would be taken for some of "
        "them. Choose another --out."
    )


def _prepared(out: Path, record: Mapping[str, Any], *, reused: bool) -> Prepared:
    warnings = tuple(record.get("warnings", ()))  # Earlier records have none.
    return Prepared(open_prepared(out), tuple(record["left_out"]), reused, warnings)


def _warnings(checked: Checked, train: list[str]) -> list[str]:
    found = [checked.usable[name] for name in train]
    said = mask_warning(
        np.array([each.has_mask for each in found]), np.array([each.whole for each in found])
    )
    return [] if said is None else [said]


def _contained(listing: Listing, checked: Checked, config: OwnDataConfig) -> Contained:
    usable = list(checked.usable.values())
    if not usable:
        raise UserError(
            f"{printable(listing.root)} holds no usable sample. Check that it is the right place."
        )
    occurring = {name for found in usable for name in found.labels}
    names = tuple(name for name in listing.class_names if name in occurring or listing.multi_label)
    classes = checked.classes()
    members = _members(listing, classes, config)
    partition.require_classes(members, classes, names, listing.multi_label)
    colour = any(found.colour for found in usable)
    wide = not colour and any(found.dtype == np.uint16 for found in usable)
    return Contained(
        size=_common_size({found.size for found in usable}) if config.size is None else config.size,
        channels=3 if colour else 1,
        dtype=np.uint16 if wide else np.uint8,
        class_names=names,
        multi_label=listing.multi_label,
        partly_annotated=not all(found.has_mask for found in usable),
        members=members,
    )


def _common_size(sizes: set[tuple[int, int]]) -> tuple[int, int]:
    if len(sizes) > 1:
        (h0, w0), (h1, w1) = min(sizes), max(sizes)
        raise UserError(
            f"the images have {len(sizes)} sizes, from {h0} x {w0} to {h1} x {w1} (height x "
            "width). Bring them to one: --size HEIGHT WIDTH, and see --fit."
        )
    size = next(iter(sizes))
    if not all(SIDES[0] <= side <= SIDES[1] for side in size):
        raise UserError(
            f"the images are {size[0]} x {size[1]} pixels (height x width), expected "
            f"{SIDES[0]} to {SIDES[1]} on each side. Bring them to another size with --size."
        )
    return size


def _members(
    listing: Listing, classes: Mapping[str, tuple[str, ...]], config: OwnDataConfig
) -> partition.Members:
    given: partition.Members = defaultdict(list)
    for sample in listing.samples:
        if sample.id in classes and sample.split is not None:
            given[sample.split].append(sample.id)
    if not given:
        return partition.by_fractions(
            classes,
            validation_fraction=config.validation_fraction,
            test_fraction=config.test_fraction,
            seed=config.seed,
        )
    if "train" not in given or not any(name.startswith("test") for name in given):
        raise UserError(
            f"usable samples are left in the splits {', '.join(sorted(given))} only. Mend those of "
            "train and test."
        )
    if "validation" not in given:
        divided = partition.by_fractions(
            {sample: classes[sample] for sample in given["train"]},
            validation_fraction=config.validation_fraction,
            test_fraction=0.0,
            seed=config.seed,
        )
        given |= divided
    return {split: sorted(given[split]) for split in sorted(given)}


def _write(
    folder: Path,
    source: Source,
    listing: Listing,
    checked: Checked,
    contained: Contained,
    config: OwnDataConfig,
    report: Progress,
) -> Path:
    """Writes the data set below ``folder``; returns the folder of its files."""
    samples = {sample.id: sample for sample in listing.samples}
    contents = Contents(checked.contents.digests)
    done = itertools.count(1)

    def decode(name: str) -> tuple[np.ndarray, np.ndarray | None, tuple[str, ...]]:
        found = read(samples[name], contents, source.rules)
        assert found is not None
        image, mask = fit_both(*found, config)
        if config.refine_masks and mask is not None:
            mask = refined(_converted(image, np.uint8, 3), mask)
        converted = _converted(image, contained.dtype, contained.channels)
        return converted, mask, found[1].labels

    def count() -> None:
        report("writing", next(done), len(checked.usable))

    builder = OwnData(contained, decode, count, data_dir=folder)
    with quiet_tfds():
        builder.download_and_prepare(
            file_format="array_record",
            download_config=tfds.download.DownloadConfig(try_download_gcs=False),
        )
    return Path(builder.data_path)


@contextlib.contextmanager
def _temporary(out: Path) -> Iterator[Path]:
    """A folder beside ``out`` that goes away; what can fail while it is filled is told."""
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{out.name}.incomplete-", dir=out.parent))
    except OSError as error:
        raise UserError(
            f"cannot write to {printable(out.parent)} ({error.strerror}). Choose another --out."
        ) from error
    try:
        yield temporary
    except Rejected as error:
        raise UserError(
            f"a file changed while the data were being prepared: it {error.wrong}. Nothing was "
            "written; give the command again when the files are at rest."
        ) from error
    except OSError as error:
        if (out / MANIFEST).is_file():
            raise UserError(
                f"another preparation of {printable(out)} was faster. Give the command again to "
                "use its data."
            ) from error
        raise UserError(
            f"cannot write {printable(out)} ({error}). Choose another --out."
        ) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _converted(image: np.ndarray, dtype: Any, channels: int) -> np.ndarray:
    """The pixels in this type and number of channels."""
    if dtype == np.uint16 and image.dtype == np.uint8:
        return image.astype(np.uint16) * np.uint16(257)
    if dtype == np.uint8 and image.dtype == np.uint16:
        image = np.rint(image / 257).astype(np.uint8)
    if channels == 3 and image.ndim == 2:
        return np.repeat(image[..., None], 3, axis=-1)
    return image


def _settings(source: Source, config: OwnDataConfig) -> dict[str, Any]:
    """All options that decide the content; not where the files are, and not `skip_bad`."""
    if isinstance(source, MaskedSource):
        return _settings(source.source, config) | source.maker.options
    typed: Any = source
    options = {"source": type(source).__name__, **asdict(typed), **asdict(config)}
    places = ("root", "table", "folder", "annotations", "skip_bad")
    chosen = {k: v for k, v in options.items() if k not in places and (k, v) not in _LATER}
    return json.loads(json.dumps(chosen))


def record_of(out: Path) -> dict[str, Any]:
    """What a folder of prepared data was made from: layout, options, files, what was left out.

    Raises:
        UserError: it holds none, or of another layout.
    """
    try:
        record = json.loads((out / MANIFEST).read_text())
        if record["layout"] == LAYOUT:
            require_form(record)
            return record
        found = f"holds data of the layout {record['layout']}, expected {LAYOUT}"
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        found = "exists and holds no prepared data"
    raise UserError(f"{printable(out)} {found}; nothing was overwritten. Choose another --out.")


def _bad_files(out: Path) -> Path:
    return out.with_name(f"{out.name}.bad-files.txt")


def _told(problems: list[str], out: Path) -> str:
    shown, more = problems[:SHOWN], len(problems) - SHOWN
    if more > 0:
        everything = _bad_files(out)
        try:
            write_atomically(everything, "\n".join(problems) + "\n")
            shown.append(f"and {more} more, all of them in {printable(everything)}")
        except OSError:
            shown.append(f"and {more} more")
    count = "1 file or entry" if len(problems) == 1 else f"{len(problems):,} files or entries"
    return (
        f"{count} cannot be used:\n  " + "\n  ".join(shown) + "\nMend them, or leave them out with "
        "--skip-bad. Nothing was written."
    )
