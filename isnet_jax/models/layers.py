"""The layers all networks are built from."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax
from jaxtyping import Array, Float

from isnet_jax.models.convolution import convolve

_DENSE_INIT = nnx.initializers.lecun_normal()

Images = Float[Array, "batch height width channels"]
Maps = Float[Array, "batch new_height new_width features"]


class Conv(nnx.Module):
    """A square convolution with zero padding, in its input's dtype; kernel (k, k, in, out)."""

    def __init__(
        self,
        in_features: int,
        out_features: int,
        size: int,
        *,
        stride: int = 1,
        padding: int | None = None,
        use_bias: bool = False,
        rngs: nnx.Rngs,
    ):
        self.stride = stride
        self.padding = size // 2 if padding is None else padding
        shape = (size, size, in_features, out_features)
        self.kernel = nnx.Param(_drawn_kernel(rngs.params(), shape))
        self.bias = nnx.Param(jnp.zeros(out_features)) if use_bias else None

    def __call__(self, x: Images) -> Maps:
        kernel = self.kernel[...].astype(x.dtype)
        y = convolve(x, kernel, stride=self.stride, padding=self.padding)
        return y if self.bias is None else y + self.bias[...].astype(x.dtype)


def _drawn_kernel(key: Array, shape: tuple[int, int, int, int]) -> Float[Array, "k l in_ out"]:
    """He's normal values for the fan-out, as `variance_scaling(2, "fan_out", "normal")` draws them.

    XLA for CPUs takes up to a second to compile what draws them, for each shape; flat, and cut
    from a power of two, a third, and once for those that share it. With JAX's partitionable keys,
    the default, a value depends on its place only.
    """
    height, width, _, features = shape
    scale, count = jnp.sqrt(2 / (height * width * features)), math.prod(shape)
    drawn = jax.random.normal(key, (1 << (count - 1).bit_length(),))
    return (scale * drawn[:count]).reshape(shape)


class Linear(nnx.Module):
    """A dense layer, in its input's dtype; kernel (in, out)."""

    def __init__(self, in_features: int, out_features: int, *, rngs: nnx.Rngs):
        self.kernel = nnx.Param(_DENSE_INIT(rngs.params(), (in_features, out_features)))
        self.bias = nnx.Param(jnp.zeros(out_features))

    def __call__(self, x: Float[Array, "*batch features"]) -> Float[Array, "*batch new_features"]:
        return x @ self.kernel[...].astype(x.dtype) + self.bias[...].astype(x.dtype)


class Identity(nnx.Module):
    """Nothing, where torchvision's numbering has a dropout."""

    def __call__(self, x: Array) -> Array:
        return x


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Moments:
    """Mean and biased variance of each channel, and the number of values behind them."""

    mean: Float[Array, " channels"]
    variance: Float[Array, " channels"]
    size: int = dataclasses.field(metadata={"static": True})

    @classmethod
    def of_joined(cls, parts: Sequence[Moments]) -> Moments:
        """The moments of the concatenation of the maps' channels."""
        mean = jnp.concatenate([part.mean for part in parts])
        variance = jnp.concatenate([part.variance for part in parts])
        return cls(mean, variance, parts[0].size)


class BatchNorm(nnx.Module):
    """Batch norm over all axes but the last, with PyTorch's conventions.

    Normalises with the biased variance of the batch, or with running statistics in eval mode;
    the running variance is the unbiased one: `running = 0.9 * running + 0.1 * batch`. Statistics
    and the affine map are in float32 or wider, the result in the input's dtype.

    Args:
      axis_name: also average the statistics over this mapped axis.
    """

    def __init__(self, features: int, *, axis_name: str | None = None, rngs: nnx.Rngs):
        del rngs
        self.scale = nnx.Param(jnp.ones(features))
        self.bias = nnx.Param(jnp.zeros(features))
        self.mean = nnx.BatchStat(jnp.zeros(features))
        self.var = nnx.BatchStat(jnp.ones(features))
        self.epsilon = 1e-5
        self.momentum = 0.9
        self.axis_name = axis_name
        self.use_running_average = False

    def __call__(
        self, x: Float[Array, "*batch channels"], moments: Moments | None = None
    ) -> Float[Array, "*batch channels"]:
        """Normalise `x`; in train mode by `moments`, measured here if they are not given."""
        if self.use_running_average:
            mean, variance = self.mean[...], self.var[...]
        else:
            moments = self.measure(x) if moments is None else moments
            mean, variance, size = moments.mean, moments.variance, moments.size
            self._track(self.mean, mean)
            self._track(self.var, variance * (size / max(size - 1, 1)))
        factor = self.scale[...] * lax.rsqrt(variance + self.epsilon)
        return ((x - mean) * factor + self.bias[...]).astype(x.dtype)

    def measure(self, x: Float[Array, "*batch channels"]) -> Moments:
        """The moments of maps that are the last channels of what this norm reads."""
        x = x.astype(jnp.promote_types(x.dtype, jnp.float32))
        # The shift keeps the one-pass variance from cancelling; its value is free to choose.
        shift = lax.stop_gradient(self.mean[...][-x.shape[-1] :])
        axes = tuple(range(x.ndim - 1))
        shifted = x - shift
        first, second = shifted.mean(axes), (shifted * shifted).mean(axes)
        size = x.size // x.shape[-1]
        if self.axis_name is not None:
            first, second = lax.pmean((first, second), self.axis_name)
            size = size * lax.axis_size(self.axis_name)
        spread = second - first * first
        return Moments(shift + first, jnp.where(spread < 0, 0, spread), size)

    def _track(self, running: nnx.Variable, value: Array) -> None:
        old = running[...]
        new = self.momentum * old + (1 - self.momentum) * lax.stop_gradient(value)
        running.set_value(new.astype(old.dtype))


class LayerNorm(nnx.Module):
    """Layer norm over the last axis, in float32 or wider; the result in the input's dtype."""

    def __init__(self, features: int, *, epsilon: float = 1e-6, rngs: nnx.Rngs):
        del rngs
        self.scale = nnx.Param(jnp.ones(features))
        self.bias = nnx.Param(jnp.zeros(features))
        self.epsilon = epsilon

    def __call__(self, x: Float[Array, "*batch features"]) -> Float[Array, "*batch features"]:
        wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
        centred = wide - wide.mean(-1, keepdims=True)
        variance = (centred * centred).mean(-1, keepdims=True)
        normal = centred * lax.rsqrt(variance + self.epsilon)
        return (normal * self.scale[...] + self.bias[...]).astype(x.dtype)


def max_pool(
    x: Images, size: int, *, stride: int | None = None, padding: int = 0
) -> Float[Array, "batch new_height new_width channels"]:
    """Maximum over windows; by comparing the tiles where the windows tile the image.

    Not by `jnp.max` or `jnp.maximum`: their derivative looks for the winner by equality with the
    maximum. Where XLA computes the values once more in a fused loop, rounded otherwise, no value
    equals it, and the window's gradient and relevance are silently lost.
    """
    stride = size if stride is None else stride
    batch, height, width, channels = x.shape
    if stride == size and padding == 0 and height % size == width % size == 0:
        tiles = x.reshape(batch, height // size, size, width // size, size, channels)
        highest = tiles[:, :, 0, :, 0]
        for place in range(1, size * size):
            tile = tiles[:, :, place // size, :, place % size]
            # A NaN wins and stays.
            highest = jnp.where((tile > highest) | (tile != tile), tile, highest)
        return highest
    return lax.reduce_window(
        x,
        -jnp.inf,
        lax.max,
        (1, size, size, 1),
        (1, stride, stride, 1),
        ((0, 0), (padding, padding), (padding, padding), (0, 0)),
    )


def global_average(x: Images) -> Float[Array, "batch channels"]:
    return x.mean((1, 2))


def average_pool(x: Images, size: int) -> Maps:
    """Mean over windows that tile the image; rows and columns that are left over are dropped."""
    batch, height, width, channels = x.shape
    rows, columns = height // size, width // size
    x = x[:, : rows * size, : columns * size]
    return x.reshape(batch, rows, size, columns, size, channels).mean((2, 4))


def adaptive_average_pool(x: Images, cells: int) -> Maps:
    """Mean over `cells` x `cells` windows that cover the image evenly (PyTorch's convention)."""
    height, width = x.shape[1:3]
    if height == width == cells:
        return x
    if height % cells == width % cells == 0 and height == width:
        return average_pool(x, height // cells)
    rows, columns = (_window_means(size, cells).astype(x.dtype) for size in (height, width))
    return jnp.einsum("rh,bhwc,sw->brsc", rows, x, columns)


def _window_means(size: int, cells: int) -> Array:
    # Made by the program, so that nobody takes the matrix for a layer's weights.
    pixels = jnp.arange(size)[None]
    cell = jnp.arange(cells)[:, None]
    inside = (pixels >= cell * size // cells) & (pixels < -(-(cell + 1) * size // cells))
    return inside / inside.sum(1, keepdims=True)
