"""What methods that supervise a network's last maps share: attention at the images' size."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax
from jaxtyping import Array, Float

from isnet_jax.errors import UserError
from isnet_jax.models.network import Network

_FLOOR = 1e-8
Attention = Float[Array, "batch rows columns"]


def network_with_maps(method: str, model: nnx.Module) -> Network:
    """The model, once it is known to have maps.

    Raises:
      UserError: it is no network whose maps are known.
    """
    if not isinstance(model, Network):
        raise UserError(
            f"{method} supervises the last maps of a network, and a {type(model).__name__} does "
            "not say which these are; expected a Network of isnet_jax.models with `maps`."
        )
    return model


def highest(attention: Attention) -> Float[Array, "batch 1 1"]:
    """Of each sample, with a gradient that no rounding loses (see `layers.max_pool`)."""
    return lax.top_k(attention.reshape(len(attention), -1), 1)[0][:, :, None]


def resized(attention: Attention, size: tuple[int, ...]) -> Float[Array, "batch height width"]:
    """Bilinear, with the corners' areas aligned."""
    return jax.image.resize(attention, (len(attention), *size), "bilinear", antialias=False)


def stretched(attention: Attention) -> Attention:
    """From 0 to 1 in each sample; 0 where all is alike."""
    lowest = -highest(-attention)
    spread = highest(attention) - lowest
    return (attention - lowest) / jnp.maximum(spread, _FLOOR)
