"""The lowering of convolutions, chosen in one place by backend and shape.

Every lowering is made of JAX's own differentiable operations with a single product of input and
weights, so that gradients of any order and LRP see one linear layer.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float


def convolve(
    x: Float[Array, "batch height width channels"],
    kernel: Float[Array, "k_h k_w channels features"],
    *,
    stride: int = 1,
    padding: int = 0,
) -> Float[Array, "batch new_height new_width features"]:
    """A two-dimensional convolution (cross-correlation), NHWC and HWIO, zero padding."""
    if jax.default_backend() == "cpu" and _is_slow_on_cpu(x.shape, kernel.shape):
        return _as_product(x, kernel, stride, padding)
    return lax.conv_general_dilated(
        x,
        kernel,
        (stride, stride),
        [(padding, padding)] * 2,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )


def _is_slow_on_cpu(x_shape: tuple[int, ...], kernel_shape: tuple[int, ...]) -> bool:
    """XLA's CPU convolutions crawl where the input is hardly larger than the kernel."""
    return kernel_shape[:2] == (1, 1) or min(x_shape[1:3]) <= max(kernel_shape[:2]) + 1


def _as_product(x: Array, kernel: Array, stride: int, padding: int) -> Array:
    """Patches (im2col) times weights."""
    height, width, channels, features = kernel.shape
    if padding:
        x = jnp.pad(x, [(0, 0), (padding, padding), (padding, padding), (0, 0)])
    rows = (x.shape[1] - height) // stride + 1
    columns = (x.shape[2] - width) // stride + 1
    patches = jnp.concatenate(
        [
            lax.slice(
                x,
                (0, row, column, 0),
                (
                    x.shape[0],
                    row + stride * (rows - 1) + 1,
                    column + stride * (columns - 1) + 1,
                    channels,
                ),
                (1, stride, stride, 1),
            )
            for row in range(height)
            for column in range(width)
        ],
        axis=-1,
    )
    return patches @ kernel.reshape(height * width * channels, features)
