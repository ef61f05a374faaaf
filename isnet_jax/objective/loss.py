"""ISNet's objective: classification and heatmap loss from one forward pass."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax
from jaxtyping import Array, Float, Int

from isnet_jax.errors import UserError
from isnet_jax.objective.classification import Classification, accuracy, classification_loss
from isnet_jax.objective.config import ISNetConfig
from isnet_jax.objective.exchange import Exchange, both_views, disagreement, exchanged
from isnet_jax.objective.seeds import explain, needed, weighted_heatmap_loss

_EXCHANGE = 1  # Folded into the key, so that other choices are the same with and without.


def isnet_loss(
    model: nnx.Module,
    batch: Mapping[str, Any],
    config: ISNetConfig,
    *,
    rng: Array | None = None,
    step: Array | int | None = None,
    axis_name: str | None = None,
) -> tuple[Float[Array, ""], dict[str, Array]]:
    """The loss of one batch: classification and heatmap loss from one forward pass.

    Differentiate it with respect to the model's parameters (`nnx.value_and_grad`, or `jax.grad`
    of a function that merges the model). Batch statistics and other state of the model are
    updated in place, as a plain call would.

    Args:
      model: image -> logits (B, classes).
      batch: "image" (B, H, W, C) in [0, 1], "mask" (B, H, W, 1) in {0, 1} with foreground in
        every sample, "label" (B,) ints, or (B, classes) in [0, 1] for multi-label heads.
        "has_mask" (B,), if there: samples where it is false have no mask and are only classified.
        Where this is one of the equal parts of a device's batch: "number" (B,) ints, each
        sample's place in the batch of all devices, which random choices go by; and "whole", a
        mapping with "label" and "has_mask" of all parts, so that the mean of their losses is the
        loss of the whole.
        Values are not checked here, under jit they cannot be: use
        `isnet_jax.data.check_examples` on the data.
      config: the objective. With `exchange` all is of the images whose backgrounds are exchanged,
        and with its consistency of the images as they are, followed by those.
      rng: a JAX key, needed by the stochastic variant, `heatmap_fraction` and `exchange`.
      step: the number of updates so far, for `heatmap_schedule`; None: P is heatmap_weight.
      axis_name: a mapped axis over which the batch is split, of pmap or of
        `jax.shard_map(..., check_vma=False)`. The mean over the devices of the loss is then the
        whole batch's, whatever their number, random choices included; with `heatmap_fraction` if
        its share of each device's batch is a whole number. `exchange` stays within a device.

    Returns:
      The mean loss, and aux: "logits" (B, classes), "heatmaps" (B, K, H, W, C), with
      `heatmap_fraction` of the samples whose numbers are in "explained" only, the mean losses
      "classification" and "heatmap", "accuracy", "nonfinite" (the number of NaN and Inf in the
      heatmaps), and "relevance/PLACE" for each supervised place.

    Raises:
      UserError: shapes that do not fit, a key that is missing, places the model does not have.
    """
    _check_batch(batch)
    batch = _with_exchange(batch, config.exchange, rng, axis_name)
    places = supervised_places(model, config)
    image = batch["image"]
    sampling_key, variant_key = (None, None) if rng is None else jax.random.split(rng)
    order = _drawn_first(len(image), config, sampling_key)
    count = _explained_count(len(image), config)

    def drawn(values: Array) -> Array:
        return values if count == len(values) else values[order[:count]]

    numbers = _numbers(batch, axis_name)
    explanation = explain(
        pure_forward(model), drawn(image), config, places, variant_key, drawn(numbers)
    )
    nnx.update(model, explanation.auxiliary)
    logits = explanation.logits
    if count < len(image):
        others = model(image[order[count:]])  # pyright: ignore[reportCallIssue]
        logits = jnp.concatenate([logits, others])[jnp.argsort(order)]
    weights, mask = _annotated(batch, axis_name)
    weights = drawn(weights) * (len(image) / count)
    heatmap, maps = weighted_heatmap_loss(explanation, drawn(mask), weights, config)
    classification = _classified(logits, batch, config, axis_name)
    weight = config.weight_at(step)
    loss = (1 - weight) * classification + weight * heatmap
    return loss, {
        "logits": logits,
        "heatmaps": maps[0],
        "explained": drawn(jnp.arange(len(image))),
        "classification": classification,
        "heatmap": heatmap,
        "accuracy": accuracy(logits, batch["label"]),
        "nonfinite": jnp.asarray(sum(jnp.sum(~jnp.isfinite(relevance)) for relevance in maps)),
        **{f"relevance/{name}": r for name, r in zip(places, maps[1:], strict=True)},
    }


def exchange_loss(
    model: nnx.Module,
    batch: Mapping[str, Any],
    config: ISNetConfig,
    *,
    rng: Array,
    axis_name: str | None = None,
) -> tuple[Float[Array, ""], dict[str, Array]]:
    """`isnet_loss` without heatmaps, at the cost of `plain_loss`: what `exchange` does alone."""
    _check_batch(batch)
    batch = _with_exchange(batch, config.exchange, rng, axis_name)
    logits = model(batch["image"])  # pyright: ignore[reportCallIssue]
    loss = _classified(logits, batch, config, axis_name)
    return loss, {
        "logits": logits,
        "classification": loss,
        "accuracy": accuracy(logits, batch["label"]),
    }


def plain_loss(
    model: nnx.Module,
    batch: Mapping[str, Any],
    classification: Classification | None = None,
    *,
    axis_name: str | None = None,
) -> tuple[Float[Array, ""], dict[str, Array]]:
    """The classification loss alone, for the classifier that an ISNet is compared with."""
    options = Classification() if classification is None else classification
    logits = model(batch["image"])  # pyright: ignore[reportCallIssue]
    loss = _classification_loss(logits, batch, options, axis_name)
    return loss, {
        "logits": logits,
        "classification": loss,
        "accuracy": accuracy(logits, batch["label"]),
    }


def supervised_places(model: nnx.Module, config: ISNetConfig) -> tuple[str, ...]:
    """The hidden places whose relevance is supervised too."""
    if config.deep_supervision is True:
        places = getattr(model, "supervised_places", ())
        if not places:
            raise UserError(
                f"ISNetConfig: deep_supervision=True, but {type(model).__name__} names no "
                "supervised_places. Mark places with lrp.tap(value, name) and pass their names."
            )
        return tuple(places)
    return tuple(config.deep_supervision or ())


def pure_forward(model: nnx.Module) -> Callable[[Array], tuple[Array, nnx.State]]:
    """The model as a function of the image that returns logits and its changed state."""
    graph, parameters, rest = nnx.split(model, nnx.Param, ...)

    def forward(image: Array) -> tuple[Array, nnx.State]:
        copy = nnx.merge(graph, parameters, rest, copy=True)
        logits = copy(image)  # pyright: ignore[reportCallIssue]
        return logits, nnx.state(copy, nnx.Not(nnx.Param))

    return forward


def _explained_count(total: int, config: ISNetConfig) -> int:
    return max(1, round(config.heatmap_fraction * total))


def _drawn_first(total: int, config: ISNetConfig, rng: Array | None) -> Int[Array, " batch"]:
    """The samples' order with those that are explained at its beginning.

    Systematic sampling: evenly spaced from a random start, each sample as likely as any other.
    Devices with the same key and share of the batch draw alike.
    """
    count = _explained_count(total, config)
    if count == total:
        return jnp.arange(total)
    start = jax.random.uniform(needed(rng, "heatmap_fraction"))
    chosen = ((jnp.arange(count) + start) * (total / count)).astype(int)
    left_out = jnp.ones(total, bool).at[jnp.minimum(chosen, total - 1)].set(False)
    return jnp.argsort(left_out, stable=True)


def _numbers(batch: Mapping[str, Any], axis_name: str | None) -> Int[Array, " batch"]:
    """Each sample's place in the batch of all devices."""
    count = len(batch["image"])
    offset = 0 if axis_name is None else lax.axis_index(axis_name) * count
    return batch.get("number", jnp.arange(count) + offset)


def _with_exchange(
    batch: Mapping[str, Any], exchange: Exchange, rng: Array | None, axis_name: str | None
) -> Mapping[str, Any]:
    if not exchange.probability:
        return batch
    views = both_views if exchange.consistency else exchanged
    numbered = {**batch, "number": _numbers(batch, axis_name)}
    return views(numbered, exchange, jax.random.fold_in(needed(rng, "exchange"), _EXCHANGE))


def _classified(
    logits: Array, batch: Mapping[str, Any], config: ISNetConfig, axis_name: str | None
) -> Float[Array, ""]:
    """The classification loss, and how far the logits of the two views are apart."""
    loss = _classification_loss(logits, batch, config.classification, axis_name)
    if not config.exchange.consistency:
        return loss
    return loss + config.exchange.consistency * disagreement(logits)


def _classification_loss(
    logits: Array, batch: Mapping[str, Any], options: Classification, axis_name: str | None
) -> Float[Array, ""]:
    whole = batch["whole"]["label"] if "whole" in batch else None
    return classification_loss(logits, batch["label"], options, axis_name, whole)


def _annotated(batch: Mapping[str, Any], axis_name: str | None) -> tuple[Array, Array]:
    """Each sample's weight in the mean over those with a mask, and the masks.

    Of a sample without a mask all counts as foreground, so that its heatmap loss is finite.
    """
    image, mask = batch["image"], batch["mask"]
    dtype = jnp.promote_types(image.dtype, jnp.float32)
    if "has_mask" not in batch:
        return jnp.full(len(image), 1 / len(image), dtype), mask
    there = batch["has_mask"].astype(bool)
    share = batch.get("whole", batch)["has_mask"].astype(bool).mean(dtype=dtype)
    count = share * len(image)
    if axis_name is not None:
        count = lax.pmean(count, axis_name)
    weights = jnp.where(there, 1 / jnp.maximum(count, 1e-6), 0)
    return weights, jnp.where(there[:, None, None, None], mask, 1)


def _check_batch(batch: Mapping[str, Any]) -> None:
    missing = sorted({"image", "mask", "label"} - set(batch))
    if missing:
        raise UserError(
            f"isnet_loss: the batch lacks {', '.join(missing)}; expected image (B, H, W, C), mask "
            "(B, H, W, 1) and label (B,)."
        )
    image, mask, label = (batch[name] for name in ("image", "mask", "label"))
    expected = (*image.shape[:3], 1)
    if image.ndim != 4 or mask.shape != expected or label.shape[:1] != image.shape[:1]:
        raise UserError(
            f"isnet_loss: image {image.shape}, mask {mask.shape}, label {label.shape}; expected "
            "image (B, H, W, C), mask (B, H, W, 1) and label (B,) or, multi-label, (B, classes)."
        )
    if "has_mask" in batch and batch["has_mask"].shape != image.shape[:1]:
        raise UserError(
            f"isnet_loss: has_mask {batch['has_mask'].shape}; expected {image.shape[:1]}."
        )
    if not jnp.issubdtype(image.dtype, jnp.floating):
        raise UserError(
            f"isnet_loss: the images are {image.dtype}; expected floating point in [0, 1]: divide "
            "by 255."
        )
