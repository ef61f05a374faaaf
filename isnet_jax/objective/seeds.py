"""What each variant explains: the seeds of the pullback."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from isnet_jax.errors import UserError
from isnet_jax.objective.config import ISNetConfig


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
    if softmax_epsilon == 0:  # The lowest logit less the logsumexp of the others: never saturated.
        return lowest - jax.nn.softmax(jnp.where(lowest > 0, -jnp.inf, logits))

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
