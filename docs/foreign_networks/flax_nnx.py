"""Networks of Flax NNX modules."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import nnx

from foreign_networks.registry import Made, drawn, network, shaken


def made(model: Callable, x: jax.Array) -> Made:
    graph, state = nnx.split(model)
    values, rest = nnx.split_state(state, nnx.Any(nnx.Param, nnx.BatchStat), ...)

    def apply(values, x):
        return nnx.merge(graph, values, rest, copy=True)(x)

    return Made(apply, shaken(values), x)


F64 = {"param_dtype": jnp.float64, "dtype": jnp.float64}


class UNet(nnx.Module):
    def __init__(self, rngs):
        self.down = nnx.Conv(3, 4, (3, 3), rngs=rngs)
        self.deep = nnx.Conv(4, 8, (3, 3), rngs=rngs)
        self.up = nnx.ConvTranspose(8, 4, (2, 2), strides=(2, 2), rngs=rngs)
        self.join = nnx.Conv(8, 4, (3, 3), rngs=rngs)
        self.out = nnx.Conv(4, 3, (1, 1), rngs=rngs)

    def __call__(self, x):
        skip = nnx.relu(self.down(x))
        deep = nnx.relu(self.deep(nnx.max_pool(skip, (2, 2), (2, 2))))
        x = jnp.concatenate([nnx.relu(self.up(deep)), skip], -1)
        return self.out(nnx.relu(self.join(x))).mean((1, 2))


@network("U-Net with a transposed convolution", "flax")
def unet():
    return made(UNet(nnx.Rngs(0)), drawn(2, 6, 6, 3))


class MBConv(nnx.Module):
    def __init__(self, channels, rngs):
        wide = 3 * channels
        self.expand = nnx.Conv(channels, wide, (1, 1), use_bias=False, rngs=rngs)
        self.depthwise = nnx.Conv(
            wide, wide, (3, 3), feature_group_count=wide, use_bias=False, rngs=rngs
        )
        self.project = nnx.Conv(wide, channels, (1, 1), use_bias=False, rngs=rngs)
        self.norms = nnx.List([nnx.BatchNorm(c, rngs=rngs) for c in (wide, wide, channels)])
        self.squeeze = nnx.Conv(wide, 2, (1, 1), rngs=rngs)
        self.excite = nnx.Conv(2, wide, (1, 1), rngs=rngs)

    def __call__(self, x):
        h = nnx.swish(self.norms[0](self.expand(x)))
        h = nnx.swish(self.norms[1](self.depthwise(h)))
        gate = jnp.mean(h, (1, 2), keepdims=True)
        h = h * nnx.sigmoid(self.excite(nnx.swish(self.squeeze(gate))))
        return x + self.norms[2](self.project(h))


class EfficientNet(nnx.Module):
    def __init__(self, rngs):
        self.stem = nnx.Conv(3, 4, (3, 3), strides=2, rngs=rngs)
        self.blocks = nnx.List([MBConv(4, rngs), MBConv(4, rngs)])
        self.head = nnx.Linear(4, 3, rngs=rngs)

    def __call__(self, x):
        x = nnx.swish(self.stem(x))
        for block in self.blocks:
            x = block(x)
        return self.head(x.mean((1, 2)))


@network("EfficientNet: MBConv, swish, squeeze-excite, batch norm", "flax", written_in=False)
def efficientnet():
    model = EfficientNet(nnx.Rngs(1))
    model.eval()
    return made(model, drawn(2, 8, 8, 3))


class Normalised(nnx.Module):
    def __init__(self, norm, rngs):
        self.one = nnx.Conv(3, 8, (3, 3), rngs=rngs)
        self.two = nnx.Conv(8, 8, (3, 3), rngs=rngs)
        self.norms = nnx.List([norm(), norm()])
        self.head = nnx.Linear(8, 3, rngs=rngs)

    def __call__(self, x):
        x = nnx.relu(self.norms[0](self.one(x)))
        x = nnx.relu(self.norms[1](self.two(x)))
        return self.head(x.mean((1, 2)))


@network("GroupNorm CNN (NNX)", "flax")
def group_norm():
    rngs = nnx.Rngs(2)
    return made(Normalised(lambda: nnx.GroupNorm(8, 4, rngs=rngs), rngs), drawn(2, 6, 6, 3))


@network("InstanceNorm CNN (NNX)", "flax")
def instance_norm():
    rngs = nnx.Rngs(3)
    return made(Normalised(lambda: nnx.InstanceNorm(8, rngs=rngs), rngs), drawn(2, 6, 6, 3))


@network("RMSNorm CNN (NNX)", "flax")
def rms_norm():
    rngs = nnx.Rngs(4)
    return made(Normalised(lambda: nnx.RMSNorm(8, rngs=rngs), rngs), drawn(2, 6, 6, 3))


@network("BatchNorm CNN in train mode (NNX)", "flax", conserves=False, written_in=False)
def batch_norm():
    rngs = nnx.Rngs(5)
    return made(Normalised(lambda: nnx.BatchNorm(8, rngs=rngs), rngs), drawn(2, 6, 6, 3))


class Recurrent(nnx.Module):
    def __init__(self, cell, rngs):
        self.layer = nnx.RNN(cell)
        self.head = nnx.Linear(5, 3, rngs=rngs)

    def __call__(self, x):
        return self.head(self.layer(x)[:, -1])


@network("LSTM (nnx.RNN)", "flax", written_in=False)
def lstm():
    rngs = nnx.Rngs(6)
    return made(Recurrent(nnx.LSTMCell(3, 5, rngs=rngs, **F64), rngs), drawn(2, 4, 3))


@network("GRU (nnx.RNN)", "flax", conserves=False, written_in=False)
def gru():
    rngs = nnx.Rngs(7)
    return made(Recurrent(nnx.GRUCell(3, 5, rngs=rngs, **F64), rngs), drawn(2, 4, 3))


class Encoder(nnx.Module):
    def __init__(self, rngs):
        self.embed = nnx.Linear(4, 8, rngs=rngs)
        self.attention = nnx.MultiHeadAttention(2, 8, decode=False, rngs=rngs)
        self.norms = nnx.List([nnx.LayerNorm(8, rngs=rngs) for _ in range(2)])
        self.wide, self.narrow = nnx.Linear(8, 16, rngs=rngs), nnx.Linear(16, 8, rngs=rngs)
        self.head = nnx.Linear(8, 3, rngs=rngs)

    def __call__(self, x):
        x = self.embed(x)
        x = self.norms[0](x + self.attention(x))
        x = self.norms[1](x + self.narrow(nnx.gelu(self.wide(x))))
        return self.head(x.mean(1))


@network("Transformer encoder of nnx.MultiHeadAttention", "flax", conserves=False, written_in=False)
def encoder():
    return made(Encoder(nnx.Rngs(8)), drawn(2, 5, 4))
