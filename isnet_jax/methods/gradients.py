"""Plain gradients by the image, which some methods have in their losses."""

from __future__ import annotations

from collections.abc import Callable

import jax
from flax import nnx
from jaxtyping import Array, Float

from isnet_jax.objective.classification import Task
from isnet_jax.objective.loss import pure_forward

Images = Float[Array, "batch height width channels"]
Logits = Float[Array, "batch classes"]


def image_gradient(
    model: nnx.Module, image: Images, quantity: Callable[[Logits], Array]
) -> tuple[Logits, Images]:
    """Logits, and the gradient by the image of a quantity of them, differentiable once more.

    The model's statistics are updated, as by a plain call.

    Args:
      quantity: logits to a number: a sum over samples, so that each has its own gradient.
    """
    logits, pullback, changed = jax.vjp(pure_forward(model), image, has_aux=True)
    nnx.update(model, changed)
    return logits, pullback(jax.grad(quantity)(logits))[0]


def sum_of_log_probabilities(logits: Logits, task: Task) -> Float[Array, ""]:
    """Over all classes and samples; multi-label, over yes and no of each class."""
    logits = logits.astype(jax.numpy.promote_types(logits.dtype, jax.numpy.float32))
    if task == "multilabel":
        return (jax.nn.log_sigmoid(logits) + jax.nn.log_sigmoid(-logits)).sum()
    return jax.nn.log_softmax(logits).sum()
