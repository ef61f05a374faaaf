"""ISNet's objective: from a batch to one value."""

from isnet_jax.objective.classification import Classification
from isnet_jax.objective.config import ISNetConfig
from isnet_jax.objective.exchange import Exchange
from isnet_jax.objective.loss import isnet_loss, plain_loss

__all__ = ["Classification", "Exchange", "ISNetConfig", "isnet_loss", "plain_loss"]
