"""What each variant explains: seeds of the pullback, heatmaps, and their loss."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int, Shaped

from isnet_jax import lrp
from isnet_jax.errors import UserError
from isnet_jax.objective import losses
from isnet_jax.objective.config import ISNetConfig

Maps = list[Float[Array, "batch k _ _ _"]]


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


def explained(
    logits: Float[Array, "batch classes"],
    config: ISNetConfig,
    rng: Array | None = None,
    samples: Int[Array, " batch"] | None = None,
) -> Float[Array, "k batch classes"]:
    """The seeds of the pullback: the gradient of each explained quantity by the logits.

    Args:
      rng: a JAX key, for the stochastic variant.
      samples: each sample's number in the global batch, which decides its draw; None: 0, 1, ...

    Raises:
      UserError: a variant that the classes do not allow, or a key that is missing.
    """
    classes = logits.shape[1]
    match config.variant:
        case "original" | "gradient_input":
            return jnp.broadcast_to(
                jnp.eye(classes, dtype=logits.dtype)[:, None], (classes, *logits.shape)
            )
        case "dual":
            return jnp.ones_like(logits)[None]
        case "selective":
            return _selective_seed(logits, config.softmax_epsilon)[None]
        case "softmax_gradient_input":
            return jax.grad(lambda logits: jax.nn.softmax(logits).max(1).sum())(logits)[None]
        case "stochastic":
            samples = jnp.arange(len(logits)) if samples is None else samples
            return _stochastic_seed(logits, rng, samples)[None]


def _selective_seed(logits: Array, softmax_epsilon: float) -> Array:
    """The gradient of `eta = log(p_c + s) - log(1 - p_c + s)`, c the lowest logit."""
    _need_two_classes("selective", logits)
    lowest = jax.nn.one_hot(jnp.argmin(logits, 1), logits.shape[1], dtype=logits.dtype)

    def eta(logits):
        p = (jax.nn.softmax(logits) * lowest).sum(1)
        return (jnp.log(p + softmax_epsilon) - jnp.log(1 - p + softmax_epsilon)).sum()

    return jax.grad(eta)(logits)


def _stochastic_seed(logits: Array, rng: Array | None, samples: Array) -> Array:
    """The highest logit with probability 1/2, else a uniformly random other one."""
    classes = logits.shape[1]
    _need_two_classes("stochastic", logits)

    def draw(sample):
        coin, pick = jax.random.split(jax.random.fold_in(needed(rng, '"stochastic"'), sample))
        return jax.random.bernoulli(coin), jax.random.randint(pick, (), 1, classes)

    take_highest, step = jax.vmap(draw)(samples)
    highest = jnp.argmax(logits, 1)
    chosen = jnp.where(take_highest, highest, (highest + step) % classes)
    return jax.nn.one_hot(chosen, classes, dtype=logits.dtype)


def _need_two_classes(variant: str, logits: Array) -> None:
    if logits.shape[1] < 2:
        raise UserError(
            f'isnet_loss: the "{variant}" variant needs two classes or more; the model has '
            f"{logits.shape[1]}."
        )


def needed(rng: Array | None, what: str) -> Array:
    """The key, or an error that says what needs it."""
    if rng is None:
        raise UserError(f"isnet_loss: {what} needs rng=, a JAX key.")
    return rng


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


def weighted_heatmap_loss(
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
    total, maps = _sum_over(of, chunks)
    # The chunks' axis, then the samples', then that within a chunk.
    return total / len(chunks), [
        jnp.moveaxis(m, 0, 1).reshape(m.shape[1], count, *m.shape[3:]) for m in maps
    ]


def _default_chunk(config: ISNetConfig) -> int:
    return int(jax.default_backend() == "cpu" and not config.deep_supervision)


def _sum_over(f: Callable[[Array], tuple[Array, Any]], xs: Array) -> tuple[Array, Any]:
    """The sum of `f(x)[0]` and the stacked `f(x)[1]` over the leading axis of `xs`.

    The derivative of each term by what `f` closes over is taken as soon as its value is there, so
    that memory holds one term at a time and nothing is computed twice. `xs` and the second output
    have no derivative.
    """
    converted, constants = jax.closure_convert(f, xs[0])
    return _accumulated(converted, xs, constants)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _accumulated(f: Callable[..., Any], xs: Array, constants: list[Array]) -> tuple[Array, Any]:
    def step(total, x):
        value, auxiliary = f(x, *constants)
        return total + value, auxiliary

    return lax.scan(step, _zero_of(f, xs, constants), xs)


def _accumulated_forward(f, xs, constants):
    def step(carry, x):
        run = jax.value_and_grad(lambda constants: f(x, *constants), has_aux=True)
        (value, auxiliary), gradients = run(constants)
        total, so_far = carry
        return (total + value, jax.tree.map(jnp.add, so_far, gradients)), auxiliary

    start = _zero_of(f, xs, constants), jax.tree.map(jnp.zeros_like, constants)
    (total, gradients), auxiliary = lax.scan(step, start, xs)
    return (total, auxiliary), (xs, gradients)


def _accumulated_backward(f, residuals, cotangents):
    xs, gradients = residuals
    return jnp.zeros_like(xs), [cotangents[0].astype(g.dtype) * g for g in gradients]


_accumulated.defvjp(_accumulated_forward, _accumulated_backward)


def _zero_of(f: Callable[..., Any], xs: Array, constants: list[Array]) -> Array:
    value, _ = jax.eval_shape(f, xs[0], *constants)
    return jnp.zeros(value.shape, value.dtype)
