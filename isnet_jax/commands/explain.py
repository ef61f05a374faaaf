"""`isnet-jax explain`: heatmaps of image files, as pictures and arrays."""

from __future__ import annotations

import dataclasses
import functools
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import tyro
from matplotlib.figure import Figure
from rich.console import Console

from isnet_jax.commands.images import Drawing, image_files, pictures_of, progress, read_batches
from isnet_jax.commands.network import NetworkChoice, chosen_network, chosen_rules, files_of
from isnet_jax.commands.terminal import say, warn
from isnet_jax.data.custom.picture import WrongSize, read_image
from isnet_jax.data.custom.readers.pictures import PixelRules
from isnet_jax.data.custom.readers.samples import Rejected
from isnet_jax.errors import UserError, printable, suggest
from isnet_jax.evaluation.background import Explained, explain_classes
from isnet_jax.files import check_outputs, write_atomically
from isnet_jax.models.unet import UNet
from isnet_jax.report.heatmaps import is_ours, panel, save_png

_BATCH = 8
_MOST_ROWS = 32


@dataclasses.dataclass(frozen=True, kw_only=True)
class Explain(NetworkChoice):
    """Draw where a network's relevance lies in images.

    Attributes:
      images: image files, or folders of them, in colour or grey; read as `isnet-jax prepare`
        reads them, DICOM and 16-bit grey included.
      target: class to explain, by name or number; the predicted class if left out.
      resize: what to do with images of another size: refuse them (no), stretch them, crop the
        middle after scaling the shorter side, or pad with zeros after scaling the longer one.
      white: the value of white in 16-bit grey images; 65,535 if left out.
      out: the picture to write, a row for each image; a name without .png is a folder with a
        picture for each, the image beside its heatmap.
      arrays: also write numbers: .npz with files, logits, explained classes and relevance, or
        .npy with the relevance alone, (images, height, width, channels).
    """

    images: Annotated[tuple[Path, ...], tyro.conf.Positional]
    target: str | None = None
    resize: Literal["no", "stretch", "crop", "pad"] = "no"
    white: int | None = None
    out: Path = Path("heatmap.png")
    arrays: Path | None = None


def run(options: Explain, console: Console) -> None:
    """Explain the images, write picture and arrays, print a line for each image.

    Raises:
      UserError: files that are no images or of another size (all of them are named), an unknown
        class or composite, a network that cannot be loaded, places that cannot be written.
    """
    _check_suffixes(options)
    rules = chosen_rules(options)
    files = image_files(options.images, "explain", functools.partial(warn, console))
    one = options.out.suffix.lower() == ".png"
    if one and len(files) > _MOST_ROWS:
        raise UserError(
            f"{len(files)} images are too many rows for one picture (at most {_MOST_ROWS}). Give a "
            "folder, such as --out heatmaps."
        )
    network = chosen_network(options)
    if isinstance(network.model, UNet):
        raise UserError(
            "the network is a segmenter, whose answers are pixels; expected a classifier. Its "
            "masks are drawn by isnet-jax prepare folder IMAGES --masks-by RUN."
        )
    target = None if options.target is None else _class_number(options.target, network.class_names)
    pictures = [options.out] * len(files) if one else pictures_of(files, options.out)
    inputs = [*files, *files_of(options)]
    check_outputs(pictures, inputs=inputs, ours=lambda picture: one or is_ours(picture))
    if options.arrays is not None:
        check_outputs([options.arrays], "--arrays", inputs=inputs)
    pixels = _read_all(files, network.image_shape, options)
    with progress(console, "explaining", len(files)) as advance, Drawing("--out") as drawing:
        waiting = iter(() if one else zip(pixels, pictures, strict=True))

        def draw(found: Explained) -> None:
            for relevance, (image, picture) in zip(found.relevance, waiting, strict=False):
                drawing.save(image, relevance, picture)
            advance(len(found.logits))

        found = explain_classes(
            network.model,
            pixels,
            target=target,
            rules=rules,
            batch_size=_BATCH,
            on_chunk=draw,
        )
    if one:
        _write_picture(options.out, pixels, found, network.class_names)
    if options.arrays is not None:
        _write_arrays(options.arrays, files, found, network.class_names)
    for line in _lines(files, pictures, found, network.class_names):
        say(console, line)


def _check_suffixes(options: Explain) -> None:
    if options.out.suffix.lower() not in ("", ".png"):
        raise UserError(
            f"--out is {printable(options.out)}; expected a name that ends in .png, or a folder."
        )
    if options.arrays is not None and options.arrays.suffix not in (".npz", ".npy"):
        raise UserError(
            f"--arrays is {printable(options.arrays)}; expected a name in .npz or .npy."
        )


# Images


def _read_all(files: list[Path], shape: tuple[int, ...], options: Explain) -> np.ndarray:
    """(N, H, W, C) float32 in [0, 1]; all that is wrong with the files is said at once."""
    height, width, channels = shape
    fit = None if options.resize == "no" else options.resize
    rules = PixelRules(white=options.white)

    def read(file: Path) -> np.ndarray | str:
        try:
            return read_image(file, (height, width), channels, fit, rules)
        except WrongSize as error:
            return f"{printable(file)} has {error} pixels; the network expects {width} x {height}"
        except Rejected as error:
            return f"{printable(file)} {error.wrong}. {error.remedy}"

    images = [found for _, batch in read_batches(files, read, _BATCH) for found in batch]
    problems = [found for found in images if isinstance(found, str)]
    if problems:
        listed = "\n".join(f"  {problem}" for problem in problems[:12])
        more = f"\n  and {len(problems) - 12} more" if len(problems) > 12 else ""
        raise UserError(
            f"{len(problems)} of {len(files)} images cannot be used:\n{listed}{more}\nImages are "
            "PNG, JPEG or the like; for another size add --resize crop, pad or stretch."
        )
    return np.stack(images)


def _class_number(target: str, names: tuple[str, ...]) -> int:
    if names.count(target) > 1:
        numbers = ", ".join(str(number) for number, name in enumerate(names) if name == target)
        raise UserError(
            f"--target {printable(target)} is the name of the classes {numbers}. Give the number."
        )
    if target in names:
        return names.index(target)
    if target.isdecimal() and len(target) < 10 and int(target) < len(names):
        return int(target)
    if len(names) > 20:
        shown = suggest(target, names, what="class").split(" Known:")[0]
        raise UserError(
            f"{shown} Known: {', '.join(map(printable, names[:5]))} and {len(names) - 5} more."
        )
    raise UserError(suggest(target, names, what="class"))


# What is written and said


def _lines(
    files: list[Path], pictures: list[Path], found: Explained, names: tuple[str, ...]
) -> Iterator[str]:
    for file, picture, logits, target in zip(
        files, pictures, found.logits, found.targets, strict=True
    ):
        predicted, share = _prediction(logits)
        said = f"predicted {names[predicted]} ({share:.1%}); heatmap for {names[target]}: {picture}"
        yield said if len(files) == 1 else f"{file}: {said}"


def _prediction(logits: np.ndarray) -> tuple[int, float]:
    exponentials = np.exp(logits.astype(np.float64) - logits.max())
    return int(logits.argmax()), float(exponentials.max() / exponentials.sum())


def _write_picture(out: Path, pixels: np.ndarray, found: Explained, names: tuple[str, ...]) -> None:
    try:
        save_png(_picture(pixels, found, names), out)
    except OSError as error:
        raise UserError(
            f"cannot write {printable(out)} ({error}). Choose another --out."
        ) from error


def _write_arrays(path: Path, files: list[Path], found: Explained, names: tuple[str, ...]) -> None:
    buffer = io.BytesIO()
    if path.suffix == ".npy":
        np.save(buffer, found.relevance)
    else:
        listed = {"files": np.array([str(file) for file in files]), "classes": np.array(names)}
        np.savez(buffer, **listed, **found._asdict())
    try:
        write_atomically(path, buffer.getvalue())
    except OSError as error:
        raise UserError(
            f"cannot write {printable(path)} ({error}). Choose another --arrays."
        ) from error


def _picture(pixels: np.ndarray, found: Explained, names: tuple[str, ...]) -> Figure:
    captions = []
    for logits, target in zip(found.logits, found.targets, strict=True):
        predicted, share = _prediction(logits)
        guess, explained = printable(names[predicted]), printable(names[target])
        captions.append(f"{explained}; predicted: {guess} ({share:.0%})")
    return panel(pixels, {"relevance": found.relevance}, captions={"relevance": captions})
