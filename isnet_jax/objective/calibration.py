"""C1 and C2: the natural range of the relevance in an image, measured on a plain network."""

from __future__ import annotations

import dataclasses
import datetime
import json
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import lax
from jaxtyping import Array, Float

from isnet_jax.errors import UserError, printable
from isnet_jax.files import check_outputs, read_regular, write_atomically
from isnet_jax.objective.config import Bounds, ISNetConfig
from isnet_jax.objective.loss import explain, pure_forward, supervised_places


@dataclasses.dataclass(frozen=True)
class Calibration:
    """What was measured, and for which explanation.

    Attributes:
      foreground_range: (C1, C2) for each place, or map of a place; `ISNetConfig`'s order.
      mean, deviation: of the samples' total relevance, likewise.
      places: the input and the supervised places.
      samples: how many were measured.
      model: architecture.
      dtype: what it computed in, by name.
      settings: all options that decide the heatmaps.
    """

    foreground_range: tuple[Bounds, ...]
    mean: tuple[float, ...]
    deviation: tuple[float, ...]
    places: tuple[str, ...]
    samples: int
    model: str
    dtype: str
    settings: dict[str, Any]


def bounds(totals: Float[np.ndarray, " samples"]) -> Bounds:
    """C1 and C2 from the samples' total relevance S.

    `C1 = max(mean / 5, mean - 3 sd)`, `C2 = min(25 C1, mean + 3 sd)`, sd of the sample.

    Source: Bassi et al., Nature Communications 15:291, 2024.

    Raises:
      UserError: totals that make no range: not finite, zero, or all the same.
    """
    mean, deviation = float(totals.mean()), float(totals.std(ddof=1)) if len(totals) > 1 else 0.0
    if not (np.isfinite(mean) and mean > 0 and deviation > 0):
        raise UserError(
            f"calibration: the total relevance of {len(totals)} samples has mean {mean:.3g} and "
            f"standard deviation {deviation:.3g}; expected finite numbers above 0. Train on more "
            "samples, or with a lower learning rate."
        )
    low = max(mean / 5, mean - 3 * deviation)
    return low, min(25 * low, mean + 3 * deviation)


def total_relevance(
    model: nnx.Module, image: Array, config: ISNetConfig, rng: Array
) -> Float[Array, "maps batch"]:
    """S: the sum of |R| over each whole map, mean over the classes where each has its own.

    One row for each place, or, with "dual", two: `ISNetConfig.foreground_range`'s order.

    "selective" is measured without its epsilon: in a trained network the lowest probability is far
    below it, and the relevance of a saturated log-odds says nothing of that of a network in
    training (docs/variants.md).
    """
    config = dataclasses.replace(config, softmax_epsilon=0.0)
    places = supervised_places(model, config)
    numbers = jnp.arange(len(image))
    explanation = explain(pure_forward(model), image, config, places, rng, numbers)

    def totals(seed: Array) -> Array:
        maps = explanation.heatmaps(seed[None])
        return jnp.concatenate([jnp.abs(relevance).sum((2, 3, 4)).T for relevance in maps])

    return lax.map(totals, explanation.seeds).mean(0)


def is_calibration(file: Path) -> bool:
    """Whether a file is what `write` writes."""
    try:
        return "foreground_range" in json.loads(read_regular(file))
    except (OSError, ValueError, TypeError, RecursionError):
        return False


def write(calibration: Calibration, file: Path) -> None:
    """As JSON.

    Raises:
      UserError: the file cannot be written, or is there and no calibration.
    """
    check_outputs([file], ours=is_calibration)
    record = dataclasses.asdict(calibration) | {"date": datetime.date.today().isoformat()}
    write_atomically(file, json.dumps(record, indent=2) + "\n")


def calibrated(config: ISNetConfig, model: str, dtype: str, file: Path) -> ISNetConfig:
    """The objective with the ranges from a file that `write` wrote.

    Args:
      config: of the training.
      model: the architecture that will be trained.
      dtype: what it computes in, by name.
      file: the calibration.

    Raises:
      UserError: no such file, or one that was made for other heatmaps.
    """
    try:
        record = json.loads(read_regular(file))
        ranges = tuple((float(low), float(high)) for low, high in record["foreground_range"])
        found = {"model": record["model"], "dtype": record.get("dtype", "float32")}
        found |= record["settings"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise UserError(
            f"{printable(file)} is no calibration ({error}); expected the file that `isnet-jax "
            "calibrate` "
            "wrote."
        ) from error
    wanted = {"model": model, "dtype": dtype, **settings_of(config)}
    differing = [
        f"{name}: {found.get(name)!r} there, {value!r} now"
        for name, value in wanted.items()
        if found.get(name) != value
    ]
    if differing:
        raise UserError(
            f"{printable(file)} was made for other heatmaps; it differs in:\n  "
            + "\n  ".join(differing)
            + "\nCalibrate again with the options of the training."
        )
    return dataclasses.replace(config, foreground_range=ranges)


def settings_of(config: ISNetConfig) -> dict[str, Any]:
    """The options that decide the heatmaps, as JSON has them."""
    names = ("variant", "engine", "lrp_epsilon", "softmax_epsilon", "batch_stats")
    places = config.deep_supervision
    return {
        **{name: getattr(config, name) for name in names},
        "box_rule": str(config.box_rule),
        "deep_supervision": places if isinstance(places, bool) else list(places),
    }
