"""Methods by name."""

from __future__ import annotations

import importlib
from typing import TypeVar

from isnet_jax.errors import UserError, suggest
from isnet_jax.methods.method import Method

M = TypeVar("M", bound=type[Method])

# Of each name the module below this package and its class, imported on first use.
_KNOWN = {
    "plain": ("plain", "Plain"),
    "isnet": ("isnet", "ISNet"),
    "swap": ("swap", "Swap"),
    "rrr": ("rrr", "RRR"),
    "gradient-input": ("gradient_input", "GradientInput"),
    "group-dro": ("group_dro", "GroupDRO"),
    "r4": ("r4", "R4"),
    "teacher": ("teacher", "Teacher"),
    "tea": ("tea", "TEA"),
    "jtt": ("jtt", "JTT"),
    "dfr": ("dfr", "DFR"),
    "segmentation": ("segmentation", "SegmentThenClassify"),
    "multitask": ("multitask", "Multitask"),
    "gain": ("gain", "GAIN"),
    "ham": ("ham", "HAM"),
    "attention-gated": ("attention_gated", "AttentionGated"),
}
_REGISTERED: dict[str, type[Method]] = {}


def register(method: M) -> M:
    """Make a method known by its name, to the command line too; a decorator of its class.

    Raises:
      UserError: another method has this name.
    """
    taken = _REGISTERED.get(method.name)
    if method.name in _KNOWN or (taken and taken.__qualname__ != method.__qualname__):
        raise UserError(f"there is a method {method.name!r} already. Choose another name.")
    _REGISTERED[method.name] = method
    return method


def named(name: str) -> type[Method]:
    """The method of a name.

    Raises:
      UserError: there is none; the nearest is suggested.
    """
    if name in _REGISTERED:
        return _REGISTERED[name]
    if name not in _KNOWN:
        raise UserError(suggest(name, names(), what="method"))
    module, kind = _KNOWN[name]
    return getattr(importlib.import_module(f"isnet_jax.methods.{module}"), kind)


def names() -> tuple[str, ...]:
    """All that are known."""
    return (*_KNOWN, *_REGISTERED)
