"""What a trained network is worth: accuracy over test sets, and where its relevance lies."""

from isnet_jax.evaluation.background import background_share, highest_logit_relevance
from isnet_jax.evaluation.predict import predict
from isnet_jax.objective.classification import accuracy

__all__ = ["accuracy", "background_share", "highest_logit_relevance", "predict"]
