"""Drawn data sets on which plain networks fail: background, colour or hospital tells the class.

``Textured``, ``Decoy``, ``Coloured`` and ``Lungs`` are their options; ``prepare_made`` writes one.
"""

from isnet_jax.data.hard.coloured import Coloured
from isnet_jax.data.hard.decoy import Decoy
from isnet_jax.data.hard.lungs import Lungs
from isnet_jax.data.hard.made import MadeSet, prepare_made
from isnet_jax.data.hard.objects import ObjectSet
from isnet_jax.data.hard.textured import Textured

__all__ = [
    "Coloured",
    "Decoy",
    "Lungs",
    "MadeSet",
    "ObjectSet",
    "Textured",
    "prepare_made",
]
