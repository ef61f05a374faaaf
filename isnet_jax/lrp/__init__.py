"""Layer-wise relevance propagation as a JAX transformation."""

from isnet_jax.lrp._api import relevance, tap, vjp
from isnet_jax.lrp._inspect import Table, inspect
from isnet_jax.lrp._registry import register_rule
from isnet_jax.lrp.composites import Composite, ISNetFlex
from isnet_jax.lrp.rules import (
    Epsilon,
    Gradient,
    Layer,
    Pass,
    RelevanceRule,
    Rule,
    ZBox,
    Zero,
    stabilise,
    transpose,
)

__all__ = [
    "Composite",
    "Epsilon",
    "Gradient",
    "ISNetFlex",
    "Layer",
    "Pass",
    "RelevanceRule",
    "Rule",
    "Table",
    "ZBox",
    "Zero",
    "inspect",
    "register_rule",
    "relevance",
    "stabilise",
    "tap",
    "transpose",
    "vjp",
]
