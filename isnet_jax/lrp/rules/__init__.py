"""LRP's rules: one class and one method a rule; `base` has the notation."""

from isnet_jax.lrp.rules.backward import BackwardRule, Deconvolution, Guided
from isnet_jax.lrp.rules.base import (
    Apply,
    Gradient,
    Layer,
    LayerRule,
    Pass,
    Rule,
    Stabiliser,
    Zero,
    is_plain,
    stabilise,
    transpose,
)
from isnet_jax.lrp.rules.layer import AlphaBeta, Epsilon, Flex, Gamma, LayerEpsilon, Norm, ZPlus
from isnet_jax.lrp.rules.product import SignalTakesAll
from isnet_jax.lrp.rules.relevance import Flat, Level, RelevanceRule, WSquare, ZBox

__all__ = [
    "AlphaBeta",
    "Apply",
    "BackwardRule",
    "Deconvolution",
    "Epsilon",
    "Flat",
    "Flex",
    "Gamma",
    "Gradient",
    "Guided",
    "Layer",
    "LayerEpsilon",
    "LayerRule",
    "Level",
    "Norm",
    "Pass",
    "RelevanceRule",
    "Rule",
    "SignalTakesAll",
    "Stabiliser",
    "WSquare",
    "ZBox",
    "ZPlus",
    "Zero",
    "is_plain",
    "stabilise",
    "transpose",
]
