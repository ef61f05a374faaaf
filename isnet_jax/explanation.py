"""Explain one image file with a trained network."""

from __future__ import annotations

import functools
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array
from PIL import Image

from isnet_jax import lrp
from isnet_jax.errors import UserError, suggest
from isnet_jax.evaluation.background import JUDGE
from isnet_jax.training.checkpoint import load_network
from isnet_jax.visualize import panel, save_png


def explain_file(
    image: Path, checkpoint: Path, target: str | None, architecture: str | None, out: Path
) -> str:
    """Write the image beside its heatmap.

    Args:
      image: any size and mode that Pillow reads; it must have the network's size.
      checkpoint: a network's folder in a run.
      target: class name or number; None explains the prediction.
      architecture: what the checkpoint should be; None takes what is there.
      out: PNG file to write.

    Returns:
      A sentence with the prediction and the file.

    Raises:
      UserError: an unreadable image or one of another size, an unknown class, no such checkpoint.
    """
    if out.suffix.lower() != ".png":
        raise UserError(f"--out is {out}; expected a file name that ends in .png.")
    if out.is_dir():
        raise UserError(f"{out} is a folder; expected the name of a file to write.")
    model, description = load_network(checkpoint, architecture)
    pixels = _read(image, description.image_shape)
    names = description.class_names
    wanted = None if target is None else jnp.array([_class_number(target, names)])
    logits, relevance = _explained(*nnx.split(model), jnp.asarray(pixels), wanted)
    predicted = int(jnp.argmax(logits))
    explained = predicted if wanted is None else int(wanted[0])
    share = float(jax.nn.softmax(logits[0]).max())
    caption = f"relevance for {names[explained]}"
    figure = panel(
        pixels,
        {caption: np.asarray(relevance)},
        captions={caption: [f"predicted: {names[predicted]} ({share:.0%})"]},
    )
    try:
        save_png(figure, out)
    except OSError as error:
        raise UserError(f"cannot write {out} ({error}). Choose another --out.") from error
    return f"predicted {names[predicted]} ({share:.1%}); heatmap for {names[explained]}: {out}"


@functools.partial(jax.jit, static_argnums=0)
def _explained(
    graph: nnx.GraphDef, state: nnx.State, pixels: Array, wanted: Array | None
) -> tuple[Array, Array]:
    """Logits, and the relevance for the wanted class or the highest logit."""
    logits, pullback = lrp.vjp(nnx.merge(graph, state), pixels, rules=JUDGE)
    target = jnp.argmax(logits, 1) if wanted is None else wanted
    return logits, pullback(jax.nn.one_hot(target, logits.shape[1]))


def _read(path: Path, shape: tuple[int, ...]) -> np.ndarray:
    height, width, channels = shape
    try:
        with Image.open(path) as picture:
            pixels = np.asarray(picture.convert("RGB" if channels == 3 else "L"))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise UserError(
            f"{path} cannot be read as an image ({error}). Expected a PNG, JPEG or the like."
        ) from error
    if pixels.shape[:2] != (height, width):
        raise UserError(
            f"{path} has {pixels.shape[1]} x {pixels.shape[0]} pixels; the network expects "
            f"{width} x {height}. Resize or crop the image."
        )
    return (pixels.reshape(1, *shape) / 255).astype(np.float32)


def _class_number(target: str, names: tuple[str, ...]) -> int:
    if target in names:
        return names.index(target)
    if target.isdecimal() and int(target) < len(names):
        return int(target)
    raise UserError(suggest(target, names, what="class"))
