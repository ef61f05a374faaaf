"""Networks of Flax Linen modules."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp

from foreign_networks.registry import Made, drawn, network, shaken


def made(model: nn.Module, x: jax.Array) -> Made:
    def apply(variables, x):
        return model.apply(variables, x)

    return Made(apply, shaken(model.init(jax.random.key(0), x)), x)


class MobileNet(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.Conv(6, (3, 3), strides=2, use_bias=False)(x)
        for _ in range(2):
            x = nn.BatchNorm(use_running_average=True)(x)
            x = nn.Conv(6, (3, 3), feature_group_count=6, use_bias=False)(nn.relu6(x))
            x = nn.BatchNorm(use_running_average=True)(x)
            x = nn.Conv(6, (1, 1), use_bias=False)(nn.relu6(x))
        return nn.Dense(3)(x.mean((1, 2)))


@network("MobileNet: depthwise convolutions, ReLU6, batch norm", "flax", written_in=False)
def mobilenet():
    return made(MobileNet(), drawn(2, 8, 8, 3))


class Grouped(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.silu(nn.GroupNorm(num_groups=4)(nn.Conv(8, (3, 3))(x)))
        x = nn.silu(nn.GroupNorm(num_groups=2)(nn.Conv(8, (3, 3))(x)))
        return nn.Dense(3)(nn.avg_pool(x, (6, 6))[:, 0, 0])


@network("GroupNorm CNN (Linen)", "flax")
def group_norm():
    return made(Grouped(), drawn(2, 6, 6, 3))


class WeightNormed(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.relu(nn.WeightNorm(nn.Conv(8, (3, 3)))(x))
        return nn.WeightNorm(nn.Dense(3))(x.mean((1, 2)))


@network("WeightNorm CNN (Linen)", "flax")
def weight_norm():
    return made(WeightNormed(), drawn(2, 6, 6, 3))


class Bidirectional(nn.Module):
    @nn.compact
    def __call__(self, x):
        forward, backward = (nn.RNN(nn.GRUCell(5, param_dtype=float)) for _ in range(2))
        x = nn.Bidirectional(forward, backward)(x)
        return nn.Dense(3)(x.mean(1))


@network("Bidirectional GRU (linen.RNN)", "flax", conserves=False, written_in=False)
def bidirectional_gru():
    return made(Bidirectional(), drawn(2, 4, 3))


class Block(nn.Module):
    @nn.compact
    def __call__(self, x, _):
        h = nn.relu(nn.Dense(6)(nn.RMSNorm()(x)))
        return x + nn.Dense(6)(h), None


class Stacked(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.Dense(6)(x)
        body = nn.scan(
            nn.remat(Block), variable_axes={"params": 0}, split_rngs={"params": True}, length=3
        )
        x, _ = body()(x, None)
        return nn.Dense(3)(x)


@network("Residual MLP, RMSNorm, layers under scan and remat (Linen)", "flax")
def stacked():
    return made(Stacked(), drawn(2, 4))


class Autoregressive(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = x.reshape(2, -1, 2)
        x = nn.PReLU()(nn.Conv(6, (3,), padding="CAUSAL", kernel_dilation=2)(x))
        x = nn.softplus(nn.DenseGeneral((2, 3))(x))
        head = self.param("head", nn.initializers.lecun_normal(), (3, 3))
        return jnp.einsum("btij,jk->bk", x, head)


@network("Causal 1d convolution, PReLU, softplus, DenseGeneral", "flax")
def causal():
    return made(Autoregressive(), drawn(2, 6, 2))
