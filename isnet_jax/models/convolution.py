"""The lowering of convolutions, chosen in one place by backend and shape.

Of patches that do not overlap it is one product. `lax.conv_general_dilated` is what accelerators
get else, except where it is strided. There, and on CPUs, a convolution is three bilinear functions,
each the derivative of the others:

    forward            y = x * w
    input_gradient     g, w -> the gradient by x
    weight_gradient    x, g -> the gradient by w

so that gradients of every order, LRP's among them, use these lowerings, and not what JAX makes of
the derivative of a derivative: of a strided one a convolution with a kernel as large as the image,
which cuDNN computes by Fourier transforms in gigabytes. Only reverse mode works: no `jax.jvp`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.custom_derivatives import SymbolicZero
from jaxtyping import Array, Float

_NHWC = ("NHWC", "HWIO", "NHWC")

_backend: list[str] = []


@contextlib.contextmanager
def lowered_for(backend: str) -> Iterator[None]:
    """Trace convolutions for a backend other than the default one ("cpu", "gpu", "tpu")."""
    _backend.append(backend)
    try:
        yield
    finally:
        _backend.pop()


class Geometry(NamedTuple):
    """What is fixed of a convolution: sizes of images and kernel, stride, padding."""

    height: int
    width: int
    kernel_height: int
    kernel_width: int
    stride: int
    padding: int

    @property
    def rows(self) -> int:
        return (self.height + 2 * self.padding - self.kernel_height) // self.stride + 1

    @property
    def columns(self) -> int:
        return (self.width + 2 * self.padding - self.kernel_width) // self.stride + 1


def convolve(
    x: Float[Array, "batch height width channels"],
    kernel: Float[Array, "k_h k_w channels features"],
    *,
    stride: int = 1,
    padding: int = 0,
) -> Float[Array, "batch new_height new_width features"]:
    """A two-dimensional convolution (cross-correlation), NHWC and HWIO, zero padding."""
    (_, height, width, _), (rows, columns, _, _) = x.shape, kernel.shape
    geometry = Geometry(height, width, rows, columns, stride, padding)
    if stride == rows == columns > 1 and not padding:
        return _of_patches(geometry, x, kernel)
    if (_backend[-1] if _backend else jax.default_backend()) != "cpu":
        return (_direct if stride == 1 else _convolution)(geometry, x, kernel)
    if _is_slow_on_cpu(geometry):
        return _as_product(geometry, x, kernel)
    return _convolution(geometry, x, kernel)


def _of_patches(geometry: Geometry, x: Array, kernel: Array) -> Array:
    """Where windows do not overlap they are a rearrangement, and what follows is one product."""
    side, (batch, _, _, channels) = geometry.stride, x.shape
    rows, columns = geometry.rows, geometry.columns
    x = x[:, : rows * side, : columns * side]
    patches = x.reshape(batch, rows, side, columns, side, channels).transpose(0, 1, 3, 2, 4, 5)
    return _times(patches.reshape(batch, rows, columns, side * side * channels), kernel)


def _is_slow_on_cpu(geometry: Geometry) -> bool:
    """XLA's CPU convolutions crawl where input or output are smaller than the kernel."""
    size = (geometry.kernel_height, geometry.kernel_width)
    smallest = min(geometry.height, geometry.width, geometry.rows, geometry.columns)
    return size == (1, 1) or smallest < max(size)


def _as_product(geometry: Geometry, x: Array, kernel: Array) -> Array:
    """Patches (im2col) times weights."""
    return _times(jnp.concatenate(_windows(geometry, x), axis=-1), kernel)


def _times(patches: Array, kernel: Array) -> Array:
    # With one axis of rows, the weights' gradient needs no transposed copy of the patches.
    product = patches.reshape(-1, patches.shape[-1]) @ kernel.reshape(-1, kernel.shape[-1])
    return product.reshape(*patches.shape[:-1], kernel.shape[-1])


def _windows(geometry: Geometry, x: Array) -> list[Array]:
    """For each element of the kernel, what it is multiplied with."""
    padding, stride = geometry.padding, geometry.stride
    if padding:
        x = jnp.pad(x, [(0, 0), (padding, padding), (padding, padding), (0, 0)])
    rows, columns = stride * (geometry.rows - 1) + 1, stride * (geometry.columns - 1) + 1
    return [
        x[:, row : row + rows : stride, column : column + columns : stride]
        for row in range(geometry.kernel_height)
        for column in range(geometry.kernel_width)
    ]


# The three functions. Each knows how the cotangent of its result goes to either operand.


def _bilinear(
    compute: Callable[[Geometry, Array, Array], Array],
    to_first: Callable[[Geometry, Array, Array], Array],
    to_second: Callable[[Geometry, Array, Array], Array],
) -> Callable[[Geometry, Array, Array], Array]:
    """`compute`, differentiated by `to_first(geometry, cotangent, second)` and
    `to_second(geometry, cotangent, first)`; what nobody asks for is not computed."""

    run = jax.custom_vjp(compute, nondiff_argnums=(0,))

    def forward(geometry, first, second):
        # JAX wants the residuals' tree to be always the same: a scalar stands for "not needed".
        kept = (
            second.value if first.perturbed else jnp.zeros(()),
            first.value if second.perturbed else jnp.zeros(()),
        )
        return compute(geometry, first.value, second.value), kept

    def backward(geometry, kept, cotangent):
        if isinstance(cotangent, SymbolicZero):
            return None, None
        second, first = kept
        return (
            to_first(geometry, cotangent, second) if second.ndim else None,
            to_second(geometry, cotangent, first) if first.ndim else None,
        )

    run.defvjp(forward, backward, symbolic_zeros=True)
    return run


def _direct(geometry: Geometry, x: Array, kernel: Array) -> Array:
    return lax.conv_general_dilated(
        x,
        kernel,
        (geometry.stride, geometry.stride),
        [(geometry.padding, geometry.padding)] * 2,
        dimension_numbers=_NHWC,
    )


def _input_gradient_by_xla(geometry: Geometry, g: Array, kernel: Array) -> Array:
    """A convolution of the spread gradient with the turned kernel."""
    if geometry.stride > 1:
        # XLA moves the turn beyond what made the kernel, and cuDNN then convolves the zeros too.
        kernel = lax.optimization_barrier(kernel)
    pads = [
        (size - 1 - geometry.padding, whole + geometry.padding - 1 - (count - 1) * geometry.stride)
        for size, whole, count in (
            (geometry.kernel_height, geometry.height, geometry.rows),
            (geometry.kernel_width, geometry.width, geometry.columns),
        )
    ]
    return lax.conv_general_dilated(
        g,
        jnp.flip(kernel, (0, 1)).swapaxes(2, 3),
        (1, 1),
        pads,
        lhs_dilation=(geometry.stride, geometry.stride),
        dimension_numbers=_NHWC,
    )


def _weight_gradient_by_shape(geometry: Geometry, x: Array, g: Array) -> Array:
    few_features = x.shape[-1] >= 3 * g.shape[-1]
    if (
        geometry.stride == 1
        and few_features
        and x.shape[0] * geometry.rows * geometry.columns >= 1024
    ):
        return _weight_gradient_as_product(geometry, x, g)
    return _weight_gradient_by_xla(geometry, x, g)


def _weight_gradient_as_product(geometry: Geometry, x: Array, g: Array) -> Array:
    """Inputs times patches of the gradient, which are the smaller ones where features are few."""
    turned = geometry._replace(
        height=geometry.rows,
        width=geometry.columns,
        padding=geometry.kernel_height - 1 - geometry.padding,
    )
    patches = jnp.concatenate(_windows(turned, g)[::-1], axis=-1)
    channels = x.shape[-1]
    product = x.reshape(-1, channels).T @ patches.reshape(-1, patches.shape[-1])
    sizes = (geometry.kernel_height, geometry.kernel_width)
    return product.reshape(channels, *sizes, g.shape[-1]).transpose(1, 2, 0, 3)


def _weight_gradient_by_xla(geometry: Geometry, x: Array, g: Array) -> Array:
    """A convolution in which channels and samples have changed places."""
    pads = [
        (geometry.padding, (count - 1) * geometry.stride + size - whole - geometry.padding)
        for size, whole, count in (
            (geometry.kernel_height, geometry.height, geometry.rows),
            (geometry.kernel_width, geometry.width, geometry.columns),
        )
    ]
    by_channel = lax.conv_general_dilated(
        x.transpose(3, 1, 2, 0),
        g.transpose(1, 2, 0, 3),
        (1, 1),
        pads,
        rhs_dilation=(geometry.stride, geometry.stride),
        dimension_numbers=_NHWC,
    )
    return by_channel.transpose(1, 2, 0, 3)


def _convolution(geometry: Geometry, x: Array, kernel: Array) -> Array:
    return _forward(geometry, x, kernel)


def _input_gradient(geometry: Geometry, g: Array, kernel: Array) -> Array:
    return _to_input(geometry, g, kernel)


def _weight_gradient(geometry: Geometry, x: Array, g: Array) -> Array:
    return _to_kernel(geometry, x, g)


_forward = _bilinear(
    _direct,
    _input_gradient,
    lambda geometry, cotangent, x: _weight_gradient(geometry, x, cotangent),
)
_to_input = _bilinear(_input_gradient_by_xla, _convolution, _weight_gradient)
_to_kernel = _bilinear(
    _weight_gradient_by_shape,
    lambda geometry, cotangent, g: _input_gradient(geometry, g, cotangent),
    lambda geometry, cotangent, x: _convolution(geometry, x, cotangent),
)
