"""What all networks share: how images come in, how logits come out, what is computed twice."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from isnet_jax.errors import UserError, suggest
from isnet_jax.models.layers import Images, Linear, Maps, global_average

Normalisation = str | tuple[Sequence[float], Sequence[float]]
Stages = tuple[tuple[str, ...], ...]
"""Of each stage the dotted paths of its modules and parameters, as in torchvision's names."""

# Mean and standard deviation of each channel, of images in [0, 1].
NORMALISATIONS: dict[str, tuple[tuple[float, ...], tuple[float, ...]]] = {
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "half": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
}


class Constant(nnx.Variable):
    """Data of a network that is neither trained nor updated."""


class Normalise(nnx.Module):
    """`(images - mean) / deviation`, with a value for each channel."""

    def __init__(self, normalisation: Normalisation, channels: int):
        mean, deviation = _normalisation(normalisation, channels)
        self.mean, self.deviation = Constant(mean), Constant(deviation)

    def __call__(self, x: Images) -> Images:
        return (x - self.mean[...].astype(x.dtype)) / self.deviation[...].astype(x.dtype)


class Network(nnx.Module):
    """Images (B, H, W, C) in [0, 1] to logits (B, classes).

    A subclass builds its layers and has `embed`, images to the features (B, F) that its last
    dense layer reads, and `head`, that layer. Where features are means of maps over all places, it
    has `maps` in place of `embed`; where they are made of maps otherwise, `pooled` too.

    Args:
      in_channels: C, 1 for grey and 3 for colour images.
      dropout: probability in [0, 1) that a feature is dropped before the head, in train mode.
      dtype: what the layers compute in, such as `jnp.bfloat16`; statistics of norms stay in
        float32 or wider, parameters and logits in the dtype of the parameters. None: the dtype of
        parameters and images.
      normalisation: subtracted from and divided into the images inside the network, so that
        images stay in [0, 1]: a name of `NORMALISATIONS`, or (mean, standard deviation) with a
        value for each channel; None: nothing.
    """

    def __init__(
        self,
        *,
        in_channels: int = 3,
        dropout: float = 0.0,
        dtype: DTypeLike | None = None,
        normalisation: Normalisation | None = None,
        rngs: nnx.Rngs,
    ):
        if not 0 <= dropout < 1:
            raise UserError(f"{type(self).__name__}: dropout is {dropout}; expected in [0, 1).")
        self.in_channels = in_channels
        self.dtype = None if dtype is None else jnp.dtype(dtype)
        self.dropout = nnx.Dropout(dropout, rngs=rngs) if dropout else None
        self.normalisation = (
            None if normalisation is None else Normalise(normalisation, in_channels)
        )

    @property
    def head(self) -> Linear:
        """The last dense layer."""
        raise NotImplementedError

    @property
    def stages(self) -> Stages:
        """The parts before the head, from the input on; all in one unless a subclass says more."""
        return (("",),)

    def maps(self, x: Images) -> Maps:
        """The last maps, before places are joined."""
        raise UserError(
            f"{type(self).__name__} has no maps of places from which classes are read; expected a "
            "convolutional classifier, such as compact, a ResNet, a VGG or a DenseNet."
        )

    def pooled(self, maps: Maps) -> Float[Array, "batch pooled"]:
        """What the head reads of the maps."""
        return global_average(maps)

    def embed(self, x: Images) -> Float[Array, "batch *place features"]:
        """What the head reads; of segmenters, at each place of the image."""
        return self.pooled(self.maps(x))

    def __call__(self, x: Array) -> Float[Array, "batch *place classes"]:
        return self.decided(self.embed(self.prepared(x)))

    def prepared(self, x: Array) -> Images:
        """Images as `embed` and `maps` take them: checked, normalised, in the layers' dtype."""
        self._check(x)
        if self.normalisation is not None:
            x = self.normalisation(x)
        return x.astype(self.dtype or jnp.promote_types(x.dtype, self.head.kernel[...].dtype))

    def decided(
        self, features: Float[Array, "batch *place features"]
    ) -> Float[Array, "batch *place classes"]:
        """The logits of features."""
        if self.dropout is not None:
            features = self.dropout(features)
        logits = self.head(features)
        return logits.astype(jnp.promote_types(logits.dtype, self.head.kernel[...].dtype))

    def stage_of(self, path: str) -> int:
        """The number of the stage that a module or parameter lies in; the head's is their count.

        Args:
          path: dotted, such as "layer1.0.conv1.kernel".
        """
        modules = nnx.iter_modules(self)
        head = next((path for path, module in modules if module is self.head), None)
        if head is None:
            raise ValueError(f"{type(self).__name__}: the head is none of its modules")
        parts = [*self.stages, (".".join(map(str, head)),)]
        for number in (len(parts) - 1, *range(len(parts) - 1)):
            if any(not name or f"{path}.".startswith(f"{name}.") for name in parts[number]):
                return number
        raise ValueError(f"{type(self).__name__}: {path!r} lies in no stage")

    def _check(self, x: Any) -> None:
        name = type(self).__name__
        if x.ndim != 4 or x.shape[-1] != self.in_channels:
            raise UserError(
                f"{name}: images are {x.shape}; expected (B, H, W, {self.in_channels}). The number "
                "of channels is models.create's in_channels."
            )
        if not jnp.issubdtype(x.dtype, jnp.floating):
            raise UserError(
                f"{name}: images are {x.dtype}; expected floating point in [0, 1]: divide by 255."
            )


def rematerialised(call: Callable[..., Any], module: nnx.Module, *inputs: Any) -> Any:
    """`call(module, *inputs)`, of which the gradient keeps only convolutions and dense layers.

    As `nnx.remat`, but a module that the call does not change is not written to: it may belong to
    an outer trace, as one that `lrp.vjp` explains does.
    """
    graph, parameters, rest = nnx.split(module, nnx.Param, ...)

    # Layers take the time, what is between them, attention's scores included, the memory.
    @functools.partial(jax.checkpoint, policy=_is_layer)
    def run(parameters, rest, *inputs):
        copy = nnx.merge(graph, parameters, rest, copy=True)
        before = _values(copy)
        result = call(copy, *inputs)
        after = _values(copy)
        return result, {path: after[path] for path in after if after[path] is not before[path]}

    result, changed = run(parameters, rest, *inputs)
    variables = dict(nnx.to_flat_state(nnx.state(module, nnx.Not(nnx.Param))))
    for path, value in changed.items():
        variables[path].set_value(value)
    return result


def _is_layer(primitive: Any, *_: Any, **parameters: Any) -> bool:
    if primitive.name == "dot_general":
        (_, batched) = parameters["dimension_numbers"]
        return not any(batched)
    return primitive.name == "conv_general_dilated"


def _values(module: nnx.Module) -> dict[tuple[Any, ...], Any]:
    state = nnx.to_flat_state(nnx.state(module, nnx.Not(nnx.Param)))
    return {path: variable.get_value() for path, variable in state}


def _normalisation(given: Normalisation, channels: int) -> tuple[Array, Array]:
    if isinstance(given, str):
        if given not in NORMALISATIONS:
            raise UserError(suggest(given, NORMALISATIONS, what="normalisation"))
        mean, deviation = NORMALISATIONS[given]
        if channels == 1:  # as of a grey image in three equal channels
            mean, deviation = (float(np.mean(mean)),), (float(np.mean(deviation)),)
    else:
        mean, deviation = given
    if not len(mean) == len(deviation) == channels or min(deviation) <= 0:
        raise UserError(
            f"normalisation is {given!r}; expected {channels} means and {channels} positive "
            "standard deviations, one for each channel."
        )
    return jnp.asarray(mean, float), jnp.asarray(deviation, float)


def in_mode(model: nnx.Module, *, training: bool) -> nnx.Module:
    """The model in train or eval mode: a copy with the same arrays, so that the caller's stays."""
    copy = nnx.merge(*nnx.split(model))
    (copy.train if training else copy.eval)()
    return copy


def require_side(model: nnx.Module, x: Images, least: int) -> None:
    """Raises a `UserError` for images of which strides and pools would leave nothing."""
    height, width = x.shape[1:3]
    if min(height, width) < least:
        raise UserError(
            f"{type(model).__name__}: images are {height}x{width}; expected at least "
            f"{least}x{least}, as the network halves them several times. Resize the images."
        )
