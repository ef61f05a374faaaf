"""Activations and other ways to write them; the first of each is the plain one."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax, nn

SQRT2, TANH = np.sqrt(2), np.sqrt(2 / np.pi)

ACTIVATIONS = {
    "relu": {
        "jax.nn": nn.relu,
        "max(x, 0)": lambda x: jnp.maximum(x, 0),
        "max(x, zeros)": lambda x: jnp.maximum(x, jnp.zeros_like(x)),
        "max(zeros, x)": lambda x: lax.max(jnp.zeros_like(x), x),
        "where(x > 0)": lambda x: jnp.where(x > 0, x, 0),
        "where(x <= 0)": lambda x: jnp.where(x <= 0, 0, x),
        "x * (x > 0)": lambda x: x * (x > 0),
        "x * mask": lambda x: (x > 0).astype(x.dtype) * x,
        "clip(x, 0)": lambda x: jnp.clip(x, 0),
        "clamp(0, x, inf)": lambda x: lax.clamp(jnp.zeros((), x.dtype), x, jnp.asarray(jnp.inf)),
        "(x + |x|) / 2": lambda x: (x + jnp.abs(x)) / 2,
        "-min(-x, 0)": lambda x: -jnp.minimum(-x, 0),
        "x - min(x, 0)": lambda x: x - jnp.minimum(x, 0),
    },
    "leaky_relu": {
        "jax.nn": lambda x: nn.leaky_relu(x, 0.1),
        "where(x > 0)": lambda x: jnp.where(x > 0, x, 0.1 * x),
        "max(x, x / 10)": lambda x: jnp.maximum(x, 0.1 * x),
        "x * where": lambda x: x * jnp.where(x > 0, 1.0, 0.1),
        "relu of both signs": lambda x: nn.relu(x) - 0.1 * nn.relu(-x),
    },
    "relu6": {
        "jax.nn": nn.relu6,
        "clip(x, 0, 6)": lambda x: jnp.clip(x, 0, 6),
        "min(max(x, 0), 6)": lambda x: jnp.minimum(jnp.maximum(x, 0), 6),
        "clamp": lambda x: lax.clamp(jnp.zeros_like(x), x, jnp.full_like(x, 6)),
    },
    "squared_relu": {
        "relu ** 2": lambda x: nn.relu(x) ** 2,
        "square(relu)": lambda x: jnp.square(nn.relu(x)),
        "relu * relu": lambda x: nn.relu(x) * nn.relu(x),
        "x * relu": lambda x: x * nn.relu(x),
        "where": lambda x: jnp.where(x > 0, x * x, 0),
    },
    "elu": {
        "jax.nn": nn.elu,
        "where, expm1": lambda x: jnp.where(x > 0, x, jnp.expm1(jnp.minimum(x, 0))),
        "where, exp - 1": lambda x: jnp.where(x > 0, x, jnp.exp(x) - 1),
        "max + min": lambda x: jnp.maximum(x, 0) + jnp.expm1(jnp.minimum(x, 0)),
    },
    "selu": {
        "jax.nn": nn.selu,
        "by hand": lambda x: (
            1.0507009873554804934193349852946
            * jnp.where(x > 0, x, 1.6732632423543772848170429916717 * jnp.expm1(jnp.minimum(x, 0)))
        ),
    },
    "softplus": {
        "jax.nn": nn.softplus,
        "log(1 + exp)": lambda x: jnp.log(1 + jnp.exp(x)),
        "log1p(exp)": lambda x: jnp.log1p(jnp.exp(x)),
        "logaddexp": lambda x: jnp.logaddexp(x, 0.0),
        "-log(sigmoid(-x))": lambda x: -jnp.log(nn.sigmoid(-x)),
        "stable": lambda x: jnp.maximum(x, 0) + jnp.log1p(jnp.exp(-jnp.abs(x))),
    },
    "sigmoid": {
        "jax.nn": nn.sigmoid,
        "1 / (1 + exp(-x))": lambda x: 1 / (1 + jnp.exp(-x)),
        "exp / (1 + exp)": lambda x: jnp.exp(x) / (1 + jnp.exp(x)),
        "tanh": lambda x: 0.5 * (jnp.tanh(x / 2) + 1),
        "tanh, shifted": lambda x: 0.5 * jnp.tanh(0.5 * x) + 0.5,
        "(1 + exp(-x)) ** -1": lambda x: (1 + jnp.exp(-x)) ** -1,
        "reciprocal": lambda x: jnp.reciprocal(1 + jnp.exp(-x)),
        "exp(log_sigmoid)": lambda x: jnp.exp(nn.log_sigmoid(x)),
    },
    "tanh": {
        "jnp.tanh": jnp.tanh,
        "sigmoid": lambda x: 2 * nn.sigmoid(2 * x) - 1,
        "exp": lambda x: (jnp.exp(x) - jnp.exp(-x)) / (jnp.exp(x) + jnp.exp(-x)),
        "expm1": lambda x: jnp.expm1(2 * x) / (jnp.exp(2 * x) + 1),
        "sinh / cosh": lambda x: jnp.sinh(x) / jnp.cosh(x),
        "1 - 2 / (exp + 1)": lambda x: 1 - 2 / (jnp.exp(2 * x) + 1),
    },
    "silu": {
        "jax.nn": nn.silu,
        "x * sigmoid": lambda x: x * nn.sigmoid(x),
        "x / (1 + exp(-x))": lambda x: x / (1 + jnp.exp(-x)),
        "tanh": lambda x: 0.5 * x * (1 + jnp.tanh(x / 2)),
        "x * (1 / (1 + exp(-x)))": lambda x: x * (1 / (1 + jnp.exp(-x))),
    },
    "gelu": {
        "jax.nn": nn.gelu,
        "x ** 3": lambda x: 0.5 * x * (1 + jnp.tanh(TANH * (x + 0.044715 * x**3))),
        "x * x * x": lambda x: 0.5 * x * (1 + jnp.tanh(TANH * (x + 0.044715 * x * x * x))),
        "sigmoid": lambda x: x * nn.sigmoid(2 * TANH * x * (1 + 0.044715 * x * x)),
    },
    "exact_gelu": {
        "jax.nn": lambda x: nn.gelu(x, approximate=False),
        "erf": lambda x: 0.5 * x * (1 + lax.erf(x / SQRT2)),
        "erfc": lambda x: 0.5 * x * lax.erfc(-x / SQRT2),
        "x * cdf": lambda x: x * jax.scipy.stats.norm.cdf(x),
    },
    "mish": {
        "jax.nn": nn.mish,
        "x * tanh(softplus)": lambda x: x * jnp.tanh(nn.softplus(x)),
        "x * tanh(log(1 + exp))": lambda x: x * jnp.tanh(jnp.log(1 + jnp.exp(x))),
    },
    "soft_sign": {
        "jax.nn": nn.soft_sign,
        "x / (1 + |x|)": lambda x: x / (1 + jnp.abs(x)),
        "x * (1 / (1 + |x|))": lambda x: x * (1 / (1 + jnp.abs(x))),
    },
    "hard_sigmoid": {
        "jax.nn": nn.hard_sigmoid,
        "relu6(x + 3) / 6": lambda x: nn.relu6(x + 3) / 6,
        "clip(x / 6 + 1 / 2)": lambda x: jnp.clip(x / 6 + 0.5, 0, 1),
    },
    "hard_swish": {
        "jax.nn": nn.hard_swish,
        "x * relu6(x + 3) / 6": lambda x: x * nn.relu6(x + 3) / 6,
        "x * clip": lambda x: x * jnp.clip(x / 6 + 0.5, 0, 1),
    },
    "log_sigmoid": {
        "jax.nn": nn.log_sigmoid,
        "-softplus(-x)": lambda x: -nn.softplus(-x),
        "log(sigmoid)": lambda x: jnp.log(nn.sigmoid(x)),
        "-log1p(exp(-x))": lambda x: -jnp.log1p(jnp.exp(-x)),
    },
}

# Guided back-propagation treats ReLUs only: whether these contain one depends on the spelling.
OPEN_TO_GUIDED = {
    "relu": tuple(ACTIVATIONS["relu"]),
    "leaky_relu": ("jax.nn", "where(x > 0)", "max(x, x / 10)", "x * where"),
    "relu6": (),
    "squared_relu": ("relu ** 2", "square(relu)"),
    "elu": ("jax.nn", "where, expm1", "where, exp - 1"),
    "softplus": ("jax.nn", "log(1 + exp)", "log1p(exp)", "logaddexp", "-log(sigmoid(-x))"),
    "hard_sigmoid": (),
    "hard_swish": (),
}
