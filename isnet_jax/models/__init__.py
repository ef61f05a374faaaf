"""Classifiers in Flax NNX: images (B, H, W, C) in [0, 1] to logits (B, classes)."""

from isnet_jax.models.convolution import convolve
from isnet_jax.models.network import NORMALISATIONS, Network
from isnet_jax.models.registry import check_options, create, list, options
from isnet_jax.models.torch_names import torch_names
from isnet_jax.models.torch_weights import load_torch, number_of_classes
from isnet_jax.models.weight_files import load_weights, read_weights, save_weights

__all__ = [
    "NORMALISATIONS",
    "Network",
    "check_options",
    "convolve",
    "create",
    "list",
    "load_torch",
    "load_weights",
    "number_of_classes",
    "options",
    "read_weights",
    "save_weights",
    "torch_names",
]
