"""Tiny networks in other people's style or from their libraries, for docs/foreign_models.py."""

# In the order of the rows; imported for what they register.
# isort: off
from foreign_networks import images as images
from foreign_networks import tokens as tokens
from foreign_networks import flax_nnx as flax_nnx
from foreign_networks import flax_linen as flax_linen
from foreign_networks import equinox_and_others as equinox_and_others

# isort: on
from foreign_networks.registry import NETWORKS, Made, Network

__all__ = ["NETWORKS", "Made", "Network"]
