"""Weights that a method keeps as they are: no `nnx.Param`s, so that no optimiser moves them."""

from __future__ import annotations

from flax import nnx

from isnet_jax.models.network import Constant


class Held(Constant):
    """A parameter that is not trained."""


def hold(module: nnx.Module, but: nnx.Module | None = None) -> nnx.Module:
    """The module with its parameters held, in place.

    Args:
      but: a part whose own parameters are still trained.
    """
    return _changed(module, nnx.Param, Held, but)


def released(module: nnx.Module) -> nnx.Module:
    """A copy that shares the arrays, with what is held as parameters again."""
    return _changed(nnx.merge(*nnx.split(module)), Held, nnx.Param)


def _changed(
    module: nnx.Module,
    kind: type[nnx.Variable],
    other: type[nnx.Variable],
    but: nnx.Module | None = None,
) -> nnx.Module:
    for _, part in nnx.iter_modules(module):
        if part is but:
            continue
        for name, value in [*vars(part).items()]:
            if type(value) is kind:
                setattr(part, name, other(value.get_value()))
    return module
