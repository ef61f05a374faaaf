"""What a network's predictions do when the background is changed, or the object taken away.

These need masks, and no test set of another source: a network that looks at the object only keeps
its predictions with any background, and is at chance without the object.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Float, Float32, Int
from scipy import ndimage

from isnet_jax.evaluation.predict import predict
from isnet_jax.objective.classification import accuracy
from isnet_jax.objective.exchange import filled_background

Images = Float32[np.ndarray, "n h w c"]
Masks = Float32[np.ndarray, "n h w 1"]

# The predictions that must agree, and the background share below which that is expected.
AGREEMENT, SMALL_SHARE = 0.9, 0.25

_SEED: Final = 0


def background_exchanged(images: Images, masks: Masks) -> Images:
    """Each object before the background of another image, whose own object is removed."""
    if len(images) < 2:
        return images
    order = np.random.default_rng(_SEED).permutation(len(images))
    donors = np.empty_like(order)
    donors[order] = np.roll(order, 1)  # Along one cycle: nobody gets their own.
    filled = object_removed(images, masks)
    return _composed(images, masks, filled[donors])


def background_mean(images: Images, masks: Masks) -> Images:
    """The background is its own mean colour."""
    return _composed(images, masks, np.broadcast_to(_mean_outside(images, masks), images.shape))


def background_blurred(images: Images, masks: Masks) -> Images:
    """The background, without the object's colours in it, is blurred over an eighth of the side."""
    sigma = max(images.shape[1:3]) / 8
    outside = (1 - masks).astype(np.float32)
    over = (0, sigma, sigma, 0)
    weight = ndimage.gaussian_filter(outside, over, mode="nearest")
    blurred = ndimage.gaussian_filter(images * outside, over, mode="nearest")
    blurred = np.where(weight > 1e-3, blurred / np.maximum(weight, 1e-3), images)
    return _composed(images, masks, blurred)


def background_noise(images: Images, masks: Masks) -> Images:
    """The background is uniform noise in [0, 1], other noise in each image."""
    noise = np.random.default_rng(_SEED).random(images.shape, dtype=np.float32)
    return _composed(images, masks, noise)


def object_removed(images: Images, masks: Masks) -> Images:
    """Background only, without the object's silhouette: see `exchange.filled_background`."""
    return np.asarray(filled_background(jnp.asarray(images), jnp.asarray(masks)))


BACKGROUNDS: Final[Mapping[str, Callable[[Images, Masks], Images]]] = {
    "exchanged": background_exchanged,
    "mean": background_mean,
    "blurred": background_blurred,
    "noise": background_noise,
}

MEASURED: Final = (
    *(f"{kind}_{name}" for name in BACKGROUNDS for kind in ("background", "agreement")),
    "object_removed",
)
"""What `interventions` measures, by name."""


def interventions(
    network: nnx.Module,
    images: Images,
    masks: Masks,
    labels: Int[np.ndarray, " n"] | Float[np.ndarray, "n classes"],
) -> dict[str, float]:
    """Accuracy with other backgrounds and without the object, and agreement with the images as is.

    Returns:
      "background_NAME", the accuracy, and "agreement_NAME", the share of images whose prediction
      stays, for each NAME of `BACKGROUNDS`; and "object_removed", the accuracy then, which is that
      of chance if only the object decides. All in [0, 1].
    """
    before = predict(network, images)
    found: dict[str, float] = {}
    for name, changed in BACKGROUNDS.items():
        after = predict(network, changed(images, masks))
        found[f"background_{name}"] = float(accuracy(after, labels))
        found[f"agreement_{name}"] = agreement(before, after, labels.ndim)
    removed = predict(network, object_removed(images, masks))
    return found | {"object_removed": float(accuracy(removed, labels))}


def agreement(
    before: Float[np.ndarray, "n classes"], after: Float[np.ndarray, "n classes"], label_axes: int
) -> float:
    """Share of equal predictions; of multi-label data, of equal decisions."""
    if label_axes == 2:
        return float(((before > 0) == (after > 0)).mean())
    return float((before.argmax(1) == after.argmax(1)).mean())


def heatmap_warning(judged: Mapping[str, Any]) -> str | None:
    """What to say where heatmaps look clean and predictions follow the background nevertheless.

    Args:
      judged: see `isnet_jax.evaluation.judge.judge`.
    """
    share = judged.get("background_relevance")
    agreed = (judged.get("interventions") or {}).get("agreement_exchanged")
    if share is None or agreed is None or share > SMALL_SHARE or agreed >= AGREEMENT:
        return None
    return (
        f"only {share:.0%} of the relevance is on the background, yet another background changes "
        f"{1 - agreed:.0%} of the predictions: this network decides by the background. Trust the "
        "interventions, not the heatmaps."
    )


def _mean_outside(images: Images, masks: Masks) -> Float32[np.ndarray, "n 1 1 c"]:
    outside = 1 - masks
    count = np.maximum(outside.sum((1, 2), keepdims=True), 1)
    return ((images * outside).sum((1, 2), keepdims=True) / count).astype(np.float32)


def _composed(images: Images, masks: Masks, background: np.ndarray) -> Images:
    return (images * masks + background * (1 - masks)).astype(np.float32)
