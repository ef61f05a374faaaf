"""LRP's rules in plain NumPy on materialised weights: element by element, no shared code.

`x` (n,), `w` (n, m), `b` (m,), `relevance` (m,) -> relevance (n,).
"""

import itertools

import numpy as np


def convolution_matrix(shape, kernel, stride=1, padding=0, dilation=1, groups=1, spread=1):
    """The matrix (inputs, outputs) of a convolution of (h, w, c), and its output's shape.

    `spread` puts zeros between the inputs, as a transposed convolution does.
    """
    height, width, channels = shape
    k_h, k_w, per_group, features = kernel.shape
    sizes = [
        ((size - 1) * spread + 1 + 2 * padding - dilation * (k - 1) - 1) // stride + 1
        for size, k in ((height, k_h), (width, k_w))
    ]
    matrix = np.zeros((*shape, *sizes, features))
    ranges = (range(n) for n in (*sizes, features, k_h, k_w, per_group))
    for row, column, feature, i, j, c in itertools.product(*ranges):
        y = row * stride + i * dilation - padding
        x = column * stride + j * dilation - padding
        if y % spread or x % spread:
            continue
        y, x = y // spread, x // spread
        if 0 <= y < height and 0 <= x < width:
            channel = feature // (features // groups) * per_group + c
            matrix[y, x, channel, row, column, feature] += kernel[i, j, c, feature]
    return matrix.reshape(height * width * channels, -1), (*sizes, features)


def stabilised(z, epsilon):
    return z + np.where(z >= 0, epsilon, -epsilon)


def epsilon(x, w, b, relevance, epsilon, zero_bias=False):
    c = x[:, None] * w
    z = c.sum(0) + (0 if zero_bias else b)
    return (c / stabilised(z, epsilon) * relevance).sum(1)


def gamma(x, w, b, relevance, gamma, epsilon=1e-6, zero_bias=False):
    c = x[:, None] * w
    z = c.sum(0) + b
    b = np.zeros_like(b) if zero_bias else b
    own = np.where(z >= 0, np.maximum(c, 0), np.minimum(c, 0))
    own_b = np.where(z >= 0, np.maximum(b, 0), np.minimum(b, 0))
    modified = c + gamma * own
    total = modified.sum(0) + b + gamma * own_b
    return (modified / stabilised(total, epsilon) * relevance).sum(1)


def alpha_beta(x, w, b, relevance, alpha, beta, epsilon=1e-6, zero_bias=False):
    c = x[:, None] * w
    b = np.zeros_like(b) if zero_bias else b
    up, down = np.maximum(c, 0), np.minimum(c, 0)
    z_up, z_down = up.sum(0) + np.maximum(b, 0), down.sum(0) + np.minimum(b, 0)
    shares = alpha * up / (z_up + epsilon) - beta * down / (z_down - epsilon)
    return (shares * relevance).sum(1)


def z_box(x, w, b, relevance, low, high, epsilon, zero_bias=False):
    b = np.zeros_like(b) if zero_bias else b
    up, down = np.maximum(w, 0), np.minimum(w, 0)
    c = x[:, None] * w - low * up - high * down
    z = c.sum(0) + b - low * np.maximum(b, 0) - high * np.minimum(b, 0)
    return (c / stabilised(z, epsilon) * relevance).sum(1)


def w_square(x, w, b, relevance, epsilon=1e-6, zero_bias=False):
    b = np.zeros_like(b) if zero_bias else b
    return (w**2 / ((w**2).sum(0) + b**2 + epsilon) * relevance).sum(1)


def flat(x, w, b, relevance, connected, epsilon=1e-6):
    """`connected`: the matrix of ones where a weight is."""
    return (connected / (connected.sum(0) + epsilon) * relevance).sum(1)
