"""`isnet-jax export`: a trained network for other programs, and a card that says what it is."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console

from isnet_jax import models
from isnet_jax.commands import run_folder
from isnet_jax.commands.finished import whole_metrics
from isnet_jax.commands.terminal import say
from isnet_jax.commands.trained import Trained, trained
from isnet_jax.errors import UserError, printable
from isnet_jax.files import check_outputs, write_atomically
from isnet_jax.models.programs import exported
from isnet_jax.report.card import is_card, model_card

WEIGHTS, PROGRAM, CARD, CLASSES = (
    "weights.safetensors", "network.stablehlo", "README.md", "classes.txt",
)  # fmt: skip


@dataclasses.dataclass(frozen=True, kw_only=True)
class Export:
    """Write a trained network for other programs.

    weights.safetensors holds its weights with torchvision's names and layouts, network.stablehlo
    the network as a program for batches of any size, which `jax.export.deserialize` reads
    without isnet_jax, classes.txt the names of its classes, and README.md, a model card, what it
    was trained on, what it is worth, and its limits.

    Attributes:
      run: a run's folder, or that of one of its networks, such as runs/own-data/plain.
      out: folder to write into; RUN/export/NETWORK if left out.
      network: which network of the run: plain, or its method's, which is taken if left out.
    """

    run: Annotated[Path, tyro.conf.Positional] = dataclasses.field(kw_only=False)
    out: Path | None = None
    network: str | None = None


def run(options: Export, console: Console) -> Path:
    """Export; the folder that was written into.

    Raises:
      UserError: no such run, or a place that cannot be written.
    """
    network = trained(options.run, options.network)
    out = options.out or network.folder / "export" / network.name
    described = network.description
    check_outputs(
        (out / name for name in (CARD, WEIGHTS, PROGRAM, CLASSES)),
        inputs=run_folder.records(network.folder),
        ours=lambda path: is_card(out / CARD),
    )
    with console.status("exporting"):
        program = exported(network.model, described.image_shape).serialize()
        card = _card(network, console)
    try:
        write_atomically(out / CARD, card)  # First: it makes the others known as ours.
        models.save_weights(network.model, out / WEIGHTS)
        write_atomically(out / PROGRAM, bytes(program))
        write_atomically(out / CLASSES, "\n".join(described.class_names) + "\n")
    except OSError as error:
        raise UserError(
            f"cannot write to {printable(out)} ({error}). Choose another --out."
        ) from error
    for name in (WEIGHTS, PROGRAM, CLASSES, CARD):
        say(console, str(out / name))
    return out


def _card(network: Trained, console: Console) -> str:
    without = "The model card has no numbers."
    return model_card(
        network.name,
        dataclasses.asdict(network.description),
        run_folder.read(network.folder),
        whole_metrics(network.folder, [network.name], console, without) or {},
        multi_label=network.multi_label,
        reading=dataclasses.asdict(network.reading),
    )
