"""Image classifiers that ignore biased backgrounds: ISNet and functional LRP in JAX."""

from isnet_jax import lrp, models
from isnet_jax.errors import UserError
from isnet_jax.objective import ISNetConfig, isnet_loss, plain_loss

__all__ = ["ISNetConfig", "UserError", "isnet_loss", "lrp", "models", "plain_loss"]
