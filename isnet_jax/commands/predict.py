"""`isnet-jax predict`: the classes of image files, as a table."""

from __future__ import annotations

import csv
import dataclasses
import functools
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import tyro
from rich.console import Console

from isnet_jax.commands import run_folder
from isnet_jax.commands.images import Drawing, image_files, pictures_of, progress, read_batches
from isnet_jax.commands.terminal import say, warn
from isnet_jax.commands.trained import Trained, trained
from isnet_jax.data.custom.readers.samples import Rejected
from isnet_jax.errors import UserError, printable
from isnet_jax.evaluation import predict
from isnet_jax.evaluation.background import Explained, explain_classes
from isnet_jax.files import check_outputs, write_atomically
from isnet_jax.report.heatmaps import is_ours

_SHOWN = 8


@dataclasses.dataclass(frozen=True, kw_only=True)
class Predict:
    """Predict the classes of images with a network that `isnet-jax train` has trained.

    Writes a CSV table with a row for each image: image, predicted (the class; of multi-label
    networks the classes above one half, separated by |), probability (of the predicted class, or
    of the likeliest), a column p_CLASS with the probability of each class, and problem, what is
    wrong with a file that cannot be read. Images need no mask.

    Attributes:
      run: a run's folder, or that of one of its networks, such as runs/own-data/plain.
      images: image files, or folders of them, read as `isnet-jax prepare` reads them.
      out: the table to write.
      network: which network of the run: plain, or its method's, which is taken if left out.
      heatmaps: also write for each image a picture of it beside its heatmap, into this folder.
      fit: how images of another size are brought to the network's: crop, pad or stretch; as the
        training images were, if left out.
      batch_size: images in each batch.
    """

    run: Annotated[Path, tyro.conf.Positional] = dataclasses.field(kw_only=False)
    images: Annotated[tuple[Path, ...], tyro.conf.Positional] = dataclasses.field(kw_only=False)
    out: Path = Path("predictions.csv")
    network: str | None = None
    heatmaps: Path | None = None
    fit: Literal["crop", "pad", "stretch"] | None = None
    batch_size: int = 32

    def __post_init__(self):
        if self.batch_size < 1:
            raise UserError(f"batch_size is {self.batch_size}; expected at least 1.")


def run(options: Predict, console: Console) -> None:
    """Predict, and write the table.

    Raises:
      UserError: no such run or images, a place that cannot be written; or, after the table was
        written, that it says of some files that they cannot be read.
    """
    files = image_files(options.images, "predict", functools.partial(warn, console))
    network = trained(options.run, options.network)
    pictures = pictures_of(files, options.heatmaps) if options.heatmaps else []
    inputs = [*files, *run_folder.records(network.folder)]
    check_outputs([options.out], inputs=inputs)
    check_outputs(pictures, "--heatmaps", inputs=[*inputs, options.out], ours=is_ours)
    reading = network.reading
    if options.fit is not None:
        reading = dataclasses.replace(reading, fit=options.fit)
    rows: list[list[object]] = []
    problems: list[str] = []
    size = min(options.batch_size, len(files))

    def read_file(file: Path) -> Any:
        try:
            return reading.read(file, network.description.image_shape)
        except Rejected as error:
            return error

    with progress(console, "predicting", len(files)) as advance, Drawing("--heatmaps") as drawing:
        for number, read in read_batches(files, read_file, size):
            names = files[number : number + len(read)]
            good = [place for place, found in enumerate(read) if not isinstance(found, Rejected)]
            images = np.stack([read[place] for place in good]) if good else np.zeros(0)
            found = _predicted(network, images, size, options.heatmaps is not None)
            answers = iter(_answers(network, found.logits) if good else ())
            for file, image in zip(names, read, strict=True):
                if isinstance(image, Rejected):
                    wrong = printable(f"{image.wrong}. {image.remedy}.")
                    empty = [""] * (2 + network.description.num_classes)
                    rows.append([printable(file), *empty, wrong])
                    problems.append(f"{printable(file)} {wrong}")
                else:
                    rows.append([printable(file), *next(answers), ""])
            for row, place in enumerate(good if pictures else ()):
                drawing.save(images[row], found.relevance[row], pictures[number + place])
            advance(len(read))
    _write(options.out, network.description.class_names, rows)
    done = len(files) - len(problems)
    say(console, f"{done:,} images predicted: {options.out}")
    if problems:
        listed = "\n  ".join(problems[:_SHOWN])
        more = f"\n  and {len(problems) - _SHOWN} more" if len(problems) > _SHOWN else ""
        raise UserError(
            f"{len(problems)} of {len(files)} images cannot be read; "
            f"{printable(options.out)} has the others, and says why in its last column:\n  "
            f"{listed}{more}"
        )


def _predicted(network: Trained, images: np.ndarray, size: int, explained: bool) -> Explained:
    """Logits, and relevance if it is wanted; every batch has one size, so that one is compiled."""
    count = len(images)
    if not count:
        return Explained(images, images, images)
    filled = np.concatenate([images, np.zeros((size - count, *images.shape[1:]), np.float32)])
    if explained:
        found = explain_classes(network.model, filled, batch_size=size)
        return Explained(*(array[:count] for array in found))
    logits = predict(network.model, filled, batch_size=size)[:count]
    return Explained(logits, logits.argmax(1), np.zeros(0))


def _answers(network: Trained, logits: np.ndarray) -> Iterator[list[object]]:
    """Of each image: what is predicted, its probability, that of each class."""
    names = network.description.class_names
    for shares in network.probabilities(logits):
        highest = int(shares.argmax())
        said = names[highest]
        if network.multi_label:
            said = "|".join(name for name, share in zip(names, shares, strict=True) if share > 0.5)
        yield [said, *(f"{share:.6f}" for share in (shares[highest], *shares))]


def _write(out: Path, names: tuple[str, ...], rows: list[list[object]]) -> None:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    columns = (f"p_{name}" for name in names)
    writer.writerow(["image", "predicted", "probability", *columns, "problem"])
    writer.writerows(rows)
    write_atomically(out, text.getvalue())
