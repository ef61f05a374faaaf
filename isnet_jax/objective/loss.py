"""ISNet's objective, from a batch to one value: top to bottom as it is computed."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int, Shaped

from isnet_jax import lrp
from isnet_jax.errors import UserError
from isnet_jax.objective import losses
from isnet_jax.objective.batch import Batch
from isnet_jax.objective.chunks import sum_over
from isnet_jax.objective.classification import Classification, accuracy, classified
from isnet_jax.objective.config import ISNetConfig
from isnet_jax.objective.exchange import Exchange, both_views, disagreement, exchanged
from isnet_jax.objective.seeds import explained, needed

_EXCHANGE = 1  # Folded into the key, so that other choices are the same with and without.

Maps = list[Float[Array, "batch k _ _ _"]]


def isnet_loss(
    model: nnx.Module,
    batch: Mapping[str, Any] | Batch,
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
        A `Batch` may also say which part of a whole it is.
        Values are checked outside jit; under it they cannot be (a label out of range makes the
        loss NaN): use `isnet_jax.data.check_examples` on the data.
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
      UserError: shapes, dtypes or values that do not fit, a key that is missing, places the model
        does not have.
    """
    batch = Batch.of(batch).annotated()
    batch = _with_exchange(batch, config.exchange, rng, axis_name)
    places = supervised_places(model, config)
    sampling_key, variant_key = (None, None) if rng is None else jax.random.split(rng)
    order, count = _drawn_first(len(batch), config, sampling_key)

    def drawn(values: Array) -> Array:
        return values if count == len(batch) else values[order[:count]]

    explanation = explain(
        pure_forward(model),
        drawn(batch.image),
        config,
        places,
        variant_key,
        drawn(batch.numbers(axis_name)),
    )
    nnx.update(model, explanation.auxiliary)
    logits = explanation.logits
    if count < len(batch):
        others = model(batch.image[order[count:]])  # pyright: ignore[reportCallIssue]
        logits = jnp.concatenate([logits, others])[jnp.argsort(order)]
    classification = _of_views(logits, batch, config, axis_name)
    weights, mask = batch.weighted_masks(axis_name)
    weights = drawn(weights) * (len(batch) / count)
    heatmap, maps = _weighted_heatmap_loss(explanation, drawn(mask), weights, config)
    weight = config.weight_at(step)
    loss = (1 - weight) * classification + weight * heatmap
    return loss, {
        "logits": logits,
        "heatmaps": maps[0],
        "explained": drawn(jnp.arange(len(batch))),
        "classification": classification,
        "heatmap": heatmap,
        "accuracy": accuracy(logits, batch.label),
        "nonfinite": jnp.asarray(sum(jnp.sum(~jnp.isfinite(relevance)) for relevance in maps)),
        **{f"relevance/{name}": r for name, r in zip(places, maps[1:], strict=True)},
    }


def exchange_loss(
    model: nnx.Module,
    batch: Mapping[str, Any] | Batch,
    config: ISNetConfig,
    *,
    rng: Array,
    axis_name: str | None = None,
) -> tuple[Float[Array, ""], dict[str, Array]]:
    """`isnet_loss` without heatmaps, at the cost of `plain_loss`: what `exchange` does alone."""
    batch = Batch.of(batch).annotated()
    batch = _with_exchange(batch, config.exchange, rng, axis_name)
    logits = model(batch.image)  # pyright: ignore[reportCallIssue]
    loss = _of_views(logits, batch, config, axis_name)
    return loss, {
        "logits": logits,
        "classification": loss,
        "accuracy": accuracy(logits, batch.label),
    }


def plain_loss(
    model: nnx.Module,
    batch: Mapping[str, Any] | Batch,
    classification: Classification | None = None,
    *,
    axis_name: str | None = None,
) -> tuple[Float[Array, ""], dict[str, Array]]:
    """The classification loss alone, for the classifier that an ISNet is compared with."""
    options = Classification() if classification is None else classification
    batch = Batch.of(batch)
    logits = model(batch.image)  # pyright: ignore[reportCallIssue]
    loss = classified(logits, batch, options, axis_name)
    return loss, {
        "logits": logits,
        "classification": loss,
        "accuracy": accuracy(logits, batch.label),
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


def pure_forward(
    model: nnx.Module, call: Callable[[Any, Array], Array] = lambda model, image: model(image)
) -> Callable[[Array], tuple[Array, nnx.State]]:
    """The model as a function of the image that returns logits and its changed state.

    Args:
      call: what is done with model and image, or with what else is given in the image's place.
    """
    graph, parameters, rest = nnx.split(model, nnx.Param, ...)

    def forward(image: Array) -> tuple[Array, nnx.State]:
        copy = nnx.merge(graph, parameters, rest, copy=True)
        logits = call(copy, image)
        return logits, nnx.state(copy, nnx.Not(nnx.Param))

    return forward


def _drawn_first(
    total: int, config: ISNetConfig, rng: Array | None
) -> tuple[Int[Array, " batch"], int]:
    """The samples' order with those that are explained at its beginning, and how many they are.

    Systematic sampling: evenly spaced from a random start, each sample as likely as any other.
    Devices with the same key and share of the batch draw alike.
    """
    count = max(1, round(config.heatmap_fraction * total))
    if count == total:
        return jnp.arange(total), total
    start = jax.random.uniform(needed(rng, "heatmap_fraction"))
    chosen = ((jnp.arange(count) + start) * (total / count)).astype(int)
    left_out = jnp.ones(total, bool).at[jnp.minimum(chosen, total - 1)].set(False)
    return jnp.argsort(left_out, stable=True), count


class Explanation(NamedTuple):
    """A forward pass and the way to its heatmaps.

    Attributes:
      logits: (B, classes).
      auxiliary: what else the forward pass returned.
      seeds: (K, B, classes): the gradient of each explained quantity by the logits.
      heatmaps: seeds, all or some -> the heatmaps (B, K, H, W, C) at the input and at each
        supervised place. "dual" has those of LRP-z+ before those of LRP-epsilon.
    """

    logits: Float[Array, "batch classes"]
    auxiliary: Any
    seeds: Float[Array, "k batch classes"]
    heatmaps: Callable[[Float[Array, "k batch classes"]], Maps]


def explain(
    forward: Callable[[Array], tuple[Array, Any]],
    image: Float[Array, "batch height width channels"],
    config: ISNetConfig,
    places: Sequence[str],
    rng: Array | None,
    samples: Int[Array, " batch"],
) -> Explanation:
    """Run the network once, ready to explain what the variant asks for.

    Args:
      forward: image -> logits, auxiliary.
      places: the supervised places beside the input.
      rng, samples: see `explained`.
    """
    passes = [
        lrp.vjp(forward, image, rules=composite, taps=places, has_aux=True)
        for composite in config.composites()
    ]
    logits, _, auxiliary = passes[0]

    def heatmaps(seeds: Array) -> Maps:
        pulled = [_heatmaps(pullback, seeds, places) for _, pullback, _ in passes]
        return [jnp.concatenate(maps, 1) for maps in zip(*pulled, strict=True)]

    return Explanation(logits, auxiliary, explained(logits, config, rng, samples), heatmaps)


def _heatmaps(pullback: Callable[[Array], Any], seeds: Array, places: Sequence[str]) -> Maps:
    if len(seeds) > 1:
        pulled = jax.vmap(pullback)(seeds)
    else:
        pulled = jax.tree.map(lambda relevance: relevance[None], pullback(seeds[0]))
    at_input, at_places = pulled if places else (pulled, {})
    return [jnp.moveaxis(r, 0, 1) for r in (at_input, *(at_places[name] for name in places))]


def heatmap_loss(
    relevances: Maps, mask: Shaped[Array, "batch height width 1"], config: ISNetConfig
) -> Float[Array, " batch"]:
    """w1 * background + w2 * foreground for each sample, pooled over the supervised places."""
    ranges = config.foreground_ranges(len(relevances))
    per_place = []
    for relevance, bounds in zip(relevances, ranges, strict=True):
        size = (relevance.shape[2], relevance.shape[3])
        shrunk = mask if size == mask.shape[1:3] else losses.shrink_mask(mask, size)
        background = losses.background_loss(
            relevance,
            shrunk,
            decay=config.gwrp_decay,
            scale=config.background_scale,
            norm=config.background_norm,
        )
        foreground = losses.foreground_loss(
            relevance,
            shrunk,
            bounds=bounds,
            form=config.foreground_loss,
        )
        per_place.append(
            config.background_weight * background + config.foreground_weight * foreground
        )
    return losses.pool_layers(per_place, config.deep_supervision_decay)


def _weighted_heatmap_loss(
    explanation: Explanation,
    mask: Shaped[Array, "batch height width 1"],
    weights: Float[Array, " batch"],
    config: ISNetConfig,
) -> tuple[Float[Array, ""], Maps]:
    """The weighted sum of the samples' heatmap losses, and the heatmaps.

    With `heatmap_chunk` the classes are explained a few at a time, and the heatmaps are not
    differentiable by themselves.
    """

    def of(seeds: Array) -> tuple[Array, Maps]:
        maps = explanation.heatmaps(seeds)
        return (weights * heatmap_loss(maps, mask, config)).sum(), maps

    count = len(explanation.seeds)
    wanted = _default_chunk(config) if config.heatmap_chunk is None else config.heatmap_chunk
    chunk = min(wanted, count)
    if chunk in (0, count):
        return of(explanation.seeds)
    size = next(size for size in range(chunk, 0, -1) if count % size == 0)
    chunks = explanation.seeds.reshape(count // size, size, *explanation.seeds.shape[1:])
    total, maps = sum_over(of, chunks)
    # The chunks' axis, then the samples', then that within a chunk.
    return total / len(chunks), [
        jnp.moveaxis(m, 0, 1).reshape(m.shape[1], count, *m.shape[3:]) for m in maps
    ]


def _default_chunk(config: ISNetConfig) -> int:
    return int(jax.default_backend() == "cpu" and not config.deep_supervision)


def _with_exchange(
    batch: Batch, exchange: Exchange, rng: Array | None, axis_name: str | None
) -> Batch:
    if not exchange.probability:
        return batch
    views = both_views if exchange.consistency else exchanged
    numbered = dataclasses.replace(batch, number=batch.numbers(axis_name))
    return views(numbered, exchange, jax.random.fold_in(needed(rng, "exchange"), _EXCHANGE))


def _of_views(
    logits: Array, batch: Batch, config: ISNetConfig, axis_name: str | None
) -> Float[Array, ""]:
    """The classification loss, and how far the logits of the two views are apart."""
    exchange = config.exchange
    if not exchange.consistency:
        return classified(logits, batch, config.classification, axis_name)
    half = dataclasses.replace(batch, label=batch.label[: len(batch) // 2])
    own, others = (
        classified(view, half, config.classification, axis_name) for view in jnp.split(logits, 2)
    )
    loss = exchange.unexchanged * own + (1 - exchange.unexchanged) * others
    return loss + exchange.consistency * disagreement(logits)
