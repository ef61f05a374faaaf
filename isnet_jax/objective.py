"""ISNet's objective: what each variant explains, and the loss of one step."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int

from isnet_jax import losses, lrp
from isnet_jax.errors import UserError, suggest
from isnet_jax.losses import ForegroundLoss

Variant = Literal["selective", "stochastic", "original"]
BatchStats = Literal["gradient", "constant"]
Bounds = tuple[float, float]


@dataclasses.dataclass(frozen=True)
class ISNetConfig:
    """What is explained and how background relevance is punished.

    Attributes:
      variant: "selective" explains, for each sample, the log-odds of its least probable class;
        "stochastic" the highest logit or, as often, a random other one; "original" every logit.
      heatmap_weight: P in [0, 1]: the loss is (1 - P) * classification + P * heatmap loss.
      gwrp_decay: d in [0, 1]: 0.9 looks at about ten pixels of a heatmap, 1 at all alike.
      background_scale: E > 0: the ratio of background to foreground at which the loss is log 2.
      foreground_range: (C1, C2), 0 < C1 < C2: the natural range of the foreground's relevance;
        or one pair for the input and each supervised place.
      background_weight: w1 >= 0, of the background loss.
      foreground_weight: w2 >= 0, of the foreground loss.
      foreground_loss: beyond the range, "l2" grows quadratically, "hybrid" soon linearly.
      lrp_epsilon: the stabiliser of LRP-Flex; 0 is Gradient*Input.
      softmax_epsilon: s of the selective variant's log-odds.
      box_rule: z^B at the first layer, for images in [0, 1]; or another rule for that layer.
      batch_stats: whether the explanation passes through batch norm's statistics in train mode
        ("gradient", the reference's LRP-Flex) or takes them as constants ("constant", LRP as the
        theory has it).
      deep_supervision: also supervise relevance at hidden places: True for the model's own
        `supervised_places`, or the names of places marked with `lrp.tap`.
      deep_supervision_decay: decay of GWRP over the places' losses.
    """

    variant: Variant = "selective"
    heatmap_weight: float = 0.7
    gwrp_decay: float = 0.9
    background_scale: float = 1.0
    foreground_range: Bounds | tuple[Bounds, ...] = (1.0, 25.0)
    background_weight: float = 1.0
    foreground_weight: float = 1.0
    foreground_loss: ForegroundLoss = "l2"
    lrp_epsilon: float = 1e-2
    softmax_epsilon: float = 1e-2
    box_rule: bool | lrp.Rule = True
    batch_stats: BatchStats = "gradient"
    deep_supervision: bool | tuple[str, ...] = False
    deep_supervision_decay: float = 0.8

    def __post_init__(self):
        for field, kind in (
            ("variant", Variant),
            ("foreground_loss", ForegroundLoss),
            ("batch_stats", BatchStats),
        ):
            value = getattr(self, field)
            if value not in get_args(kind):
                raise UserError("ISNetConfig: " + suggest(str(value), get_args(kind), what=field))
        for field, low, high in (
            ("heatmap_weight", 0, 1),
            ("gwrp_decay", 0, 1),
            ("background_weight", 0, np.inf),
            ("foreground_weight", 0, np.inf),
            ("lrp_epsilon", 0, np.inf),
            ("softmax_epsilon", 0, np.inf),
            ("deep_supervision_decay", 0, 1),
        ):
            value = getattr(self, field)
            if not low <= value <= high:
                limits = f"in [{low}, {high}]" if high < np.inf else f"at least {low}"
                raise UserError(f"ISNetConfig: {field} is {value}; expected {limits}.")
        if not self.background_scale > 0:
            raise UserError(
                f"ISNetConfig: background_scale is {self.background_scale}; expected above 0."
            )
        for low, high in self._ranges():
            if not 0 < low < high:
                raise UserError(
                    f"ISNetConfig: foreground_range holds ({low}, {high}); expected 0 < C1 < C2."
                )

    def _ranges(self) -> tuple[Bounds, ...]:
        pairs = np.asarray(self.foreground_range, float)
        if pairs.ndim not in (1, 2) or pairs.shape[-1] != 2:
            raise UserError(
                f"ISNetConfig: foreground_range is {self.foreground_range}; expected (C1, C2) or "
                "one such pair for the input and each supervised place."
            )
        return tuple((float(low), float(high)) for low, high in pairs.reshape(-1, 2))

    def foreground_ranges(self, places: int) -> tuple[Bounds, ...]:
        """(C1, C2) for the input and each of the other supervised places, `places` in all."""
        pairs = self._ranges()
        if len(pairs) == 1:
            return pairs * places
        if len(pairs) != places:
            raise UserError(
                f"ISNetConfig: foreground_range has {len(pairs)} pairs; expected one, or {places}: "
                "the input's and one for each supervised place."
            )
        return pairs

    def composite(self) -> lrp.Composite:
        """The LRP that explains the network."""
        first = lrp.ZBox(0.0, 1.0) if self.box_rule is True else self.box_rule or None
        return lrp.ISNetFlex(self.lrp_epsilon, first=first, batch_statistics=self.batch_stats)


def isnet_loss(
    model: nnx.Module,
    batch: Mapping[str, Array],
    config: ISNetConfig,
    *,
    rng: Array | None = None,
) -> tuple[Float[Array, ""], dict[str, Array]]:
    """The loss of one batch: classification and heatmap loss from one forward pass.

    Differentiate it with respect to the model's parameters (`nnx.value_and_grad`, or `jax.grad`
    of a function that merges the model). Batch statistics and other state of the model are
    updated in place, as a plain call would.

    Args:
      model: image -> logits (B, classes).
      batch: "image" (B, H, W, C) in [0, 1], "mask" (B, H, W, 1) in {0, 1} with foreground in
        every sample, "label" (B,) ints. Values are not checked here, under jit they cannot be:
        use `isnet_jax.data.check_examples` on the data.
      config: the objective.
      rng: a JAX key; the stochastic variant needs it.

    Returns:
      The mean loss, and aux: "logits" (B, classes), "heatmaps" (B, K, H, W, C), the mean losses
      "classification" and "heatmap", "nonfinite" (the number of NaN and Inf in the heatmaps).

    Raises:
      UserError: shapes that do not fit, a key that is missing, places the model does not have.
    """
    _check_batch(batch)
    places = supervised_places(model, config)
    graph, parameters, rest = nnx.split(model, nnx.Param, ...)

    def forward(image):
        copy = nnx.merge(graph, parameters, rest, copy=True)
        return copy(image), nnx.state(copy, nnx.Not(nnx.Param))

    logits, pullback, state = lrp.vjp(
        forward, batch["image"], rules=config.composite(), taps=places, has_aux=True
    )
    nnx.update(model, state)
    seeds = explained(logits, config, rng)
    relevances = jax.vmap(pullback)(seeds) if len(seeds) > 1 else _single(pullback, seeds)
    at_input, at_places = relevances if places else (relevances, {})
    maps = [jnp.moveaxis(r, 0, 1) for r in (at_input, *(at_places[name] for name in places))]
    heatmap = heatmap_loss(maps, batch["mask"], config).mean()
    classification = cross_entropy(logits, batch["label"]).mean()
    weight = config.heatmap_weight
    loss = (1 - weight) * classification + weight * heatmap
    return loss, {
        "logits": logits,
        "heatmaps": maps[0],
        "classification": classification,
        "heatmap": heatmap,
        "nonfinite": jnp.sum(~jnp.isfinite(maps[0])),
        **{f"relevance/{name}": r for name, r in zip(places, maps[1:], strict=True)},
    }


def plain_loss(
    model: nnx.Module, batch: Mapping[str, Array]
) -> tuple[Float[Array, ""], dict[str, Array]]:
    """Cross-entropy alone, for the classifier that an ISNet is compared with."""
    logits = model(batch["image"])  # pyright: ignore[reportCallIssue]
    loss = cross_entropy(logits, batch["label"]).mean()
    return loss, {"logits": logits, "classification": loss}


def cross_entropy(
    logits: Float[Array, "batch classes"], labels: Int[Array, " batch"]
) -> Float[Array, " batch"]:
    """`-log softmax(logits)[label]`, in float32 or wider."""
    logits = logits.astype(jnp.promote_types(logits.dtype, jnp.float32))
    return -jnp.take_along_axis(jax.nn.log_softmax(logits), labels[:, None], 1)[:, 0]


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


def explained(
    logits: Float[Array, "batch classes"], config: ISNetConfig, rng: Array | None
) -> Float[Array, "k batch classes"]:
    """The seeds of the pullback: the gradient of each explained quantity by the logits."""
    classes = logits.shape[1]
    if config.variant == "original":
        return jnp.broadcast_to(
            jnp.eye(classes, dtype=logits.dtype)[:, None], (classes, *logits.shape)
        )
    if config.variant == "selective":
        return _selective_seed(logits, config.softmax_epsilon)[None]
    return _stochastic_seed(logits, rng)[None]


def _selective_seed(logits: Array, softmax_epsilon: float) -> Array:
    """The gradient of `eta = log(p_c + s) - log(1 - p_c + s)`, c the lowest logit."""
    lowest = jax.nn.one_hot(jnp.argmin(logits, 1), logits.shape[1], dtype=logits.dtype)

    def eta(logits):
        p = (jax.nn.softmax(logits) * lowest).sum(1)
        return (jnp.log(p + softmax_epsilon) - jnp.log(1 - p + softmax_epsilon)).sum()

    return jax.grad(eta)(logits)


def _stochastic_seed(logits: Array, rng: Array | None) -> Array:
    """The highest logit with probability 1/2, else a uniformly random other one."""
    batch, classes = logits.shape
    if rng is None:
        raise UserError('isnet_loss: the "stochastic" variant needs rng=, a JAX key.')
    if classes < 2:
        raise UserError(
            f'isnet_loss: the "stochastic" variant needs two classes or more; the model has '
            f"{classes}."
        )
    coin, pick = jax.random.split(rng)
    highest = jnp.argmax(logits, 1)
    other = (highest + jax.random.randint(pick, (batch,), 1, classes)) % classes
    chosen = jnp.where(jax.random.bernoulli(coin, shape=(batch,)), highest, other)
    return jax.nn.one_hot(chosen, classes, dtype=logits.dtype)


def heatmap_loss(
    relevances: list[Float[Array, "batch k _ _ _"]],
    mask: Float[Array, "batch height width 1"],
    config: ISNetConfig,
) -> Float[Array, " batch"]:
    """w1 * background + w2 * foreground for each sample, pooled over the supervised places."""
    ranges = config.foreground_ranges(len(relevances))
    per_place = []
    for relevance, bounds in zip(relevances, ranges, strict=True):
        size = (relevance.shape[2], relevance.shape[3])
        shrunk = mask if size == mask.shape[1:3] else losses.shrink_mask(mask, size)
        background = losses.background_loss(
            relevance, shrunk, decay=config.gwrp_decay, scale=config.background_scale
        )
        foreground = losses.foreground_loss(
            relevance, shrunk, bounds=bounds, form=config.foreground_loss
        )
        per_place.append(
            config.background_weight * background + config.foreground_weight * foreground
        )
    return losses.pool_layers(per_place, config.deep_supervision_decay)


def _single(pullback, seeds: Array) -> Any:
    return jax.tree.map(lambda relevance: relevance[None], pullback(seeds[0]))


def _check_batch(batch: Mapping[str, Array]) -> None:
    missing = sorted({"image", "mask", "label"} - set(batch))
    if missing:
        raise UserError(
            f"isnet_loss: the batch lacks {', '.join(missing)}; expected image (B, H, W, C), mask "
            "(B, H, W, 1) and label (B,)."
        )
    image, mask, label = (batch[name] for name in ("image", "mask", "label"))
    expected = (*image.shape[:3], 1)
    if image.ndim != 4 or mask.shape != expected or label.shape != image.shape[:1]:
        raise UserError(
            f"isnet_loss: image {image.shape}, mask {mask.shape}, label {label.shape}; expected "
            "image (B, H, W, C), mask (B, H, W, 1) and label (B,)."
        )
    if not jnp.issubdtype(image.dtype, jnp.floating):
        raise UserError(
            f"isnet_loss: the images are {image.dtype}; expected floating point in [0, 1]: divide "
            "by 255."
        )
    if not jnp.issubdtype(label.dtype, jnp.integer):
        raise UserError(f"isnet_loss: the labels are {label.dtype}; expected class numbers (ints).")
