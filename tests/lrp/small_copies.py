"""The network `small` with equal weights in five frameworks, as functions of the images."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import equinox as eqx
import flax.linen as nn
import golden_values
import haiku as hk
import jax
import jax.numpy as jnp
from flax import nnx

from isnet_jax import models

CLASSES = 4
Network = Callable[[jax.Array], jax.Array]
Weights = dict[str, Any]
"""Torch names; convolutions HWIO, dense (in, out)."""

CONVS = {"conv1": (3, 8, 1), "conv2": (8, 8, 1), "conv3": (8, 16, 2)}
NORM = {"scale": "weight", "bias": "bias", "mean": "running_mean", "var": "running_var"}


def own(train: bool = False) -> nnx.Module:
    model = models.create("small", num_classes=CLASSES, rngs=nnx.Rngs(0))
    models.load_torch(model, golden_values.drawn_weights(model, 3))
    (model.train if train else model.eval)()
    return model


def weights_of(model: nnx.Module) -> Weights:
    return {name: variable[...] for name, variable in models.torch_names(model).items()}


def plain(w: Weights) -> Network:
    def conv(x, name, stride=1):
        y = jax.lax.conv_general_dilated(
            x,
            w[f"{name}.weight"],
            (stride, stride),
            [(1, 1), (1, 1)],
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )
        return y + w[f"{name}.bias"]

    def norm(x, name):
        scaled = (x - w[f"{name}.running_mean"]) / jnp.sqrt(w[f"{name}.running_var"] + 1e-5)
        return scaled * w[f"{name}.weight"] + w[f"{name}.bias"]

    def network(x):
        x = jnp.maximum(norm(conv(x, "conv1"), "bn1"), 0)
        x = nn.max_pool(x, (2, 2), (2, 2))
        x = jnp.maximum(norm(conv(x, "conv2"), "bn2") + x, 0)
        x = jnp.maximum(conv(x, "conv3", 2), 0)
        return x.mean((1, 2)) @ w["fc.weight"] + w["fc.bias"]

    return network


class FlaxNNX(nnx.Module):
    """With Flax's own layers."""

    def __init__(self, w: Weights, train: bool):
        rngs = nnx.Rngs(0)
        for name, (a, b, stride) in CONVS.items():
            conv = nnx.Conv(a, b, (3, 3), strides=stride, padding=1, param_dtype=float, rngs=rngs)
            conv.kernel.set_value(w[f"{name}.weight"])
            conv.bias.set_value(w[f"{name}.bias"])
            setattr(self, name, conv)
        for name in ("bn1", "bn2"):
            norm = nnx.BatchNorm(8, param_dtype=float, use_running_average=not train, rngs=rngs)
            for ours, theirs in NORM.items():
                getattr(norm, ours).set_value(w[f"{name}.{theirs}"])
            setattr(self, name, norm)
        self.fc = nnx.Linear(16, CLASSES, param_dtype=float, rngs=rngs)
        self.fc.kernel.set_value(w["fc.weight"])
        self.fc.bias.set_value(w["fc.bias"])

    def __call__(self, x):
        x = nnx.max_pool(nnx.relu(self.bn1(self.conv1(x))), (2, 2), (2, 2))
        x = nnx.relu(self.bn2(self.conv2(x)) + x)
        return self.fc(nnx.relu(self.conv3(x)).mean((1, 2)))


def flax_nnx(w: Weights, train: bool = False) -> Network:
    graph, state = nnx.split(FlaxNNX(w, train))
    return lambda x: nnx.merge(graph, state, copy=True)(x)


class Linen(nn.Module):
    train: bool

    @nn.compact
    def __call__(self, x):
        def norm(name):
            return nn.BatchNorm(use_running_average=not self.train, name=name)

        x = nn.relu(norm("bn1")(nn.Conv(8, (3, 3), padding=1, name="conv1")(x)))
        x = nn.max_pool(x, (2, 2), (2, 2))
        x = nn.relu(norm("bn2")(nn.Conv(8, (3, 3), padding=1, name="conv2")(x)) + x)
        x = nn.relu(nn.Conv(16, (3, 3), 2, padding=1, name="conv3")(x))
        return nn.Dense(CLASSES, name="fc")(x.mean((1, 2)))


def linen(w: Weights, train: bool = False) -> Network:
    layers = ("conv1", "conv2", "conv3", "fc")
    variables = {
        "params": {
            **{n: {"kernel": w[f"{n}.weight"], "bias": w[f"{n}.bias"]} for n in layers},
            **{n: {"scale": w[f"{n}.weight"], "bias": w[f"{n}.bias"]} for n in ("bn1", "bn2")},
        },
        "batch_stats": {
            n: {"mean": w[f"{n}.running_mean"], "var": w[f"{n}.running_var"]}
            for n in ("bn1", "bn2")
        },
    }
    return lambda x: Linen(train).apply(variables, x, mutable=["batch_stats"])[0]


class Equinox(eqx.Module):
    """One image, channels first; batch norm with running statistics."""

    convs: dict[str, eqx.nn.Conv2d]
    norms: dict[str, dict[str, jax.Array]]
    pool: eqx.nn.MaxPool2d
    head: eqx.nn.Linear

    def norm(self, name, x):
        p = {key: value[:, None, None] for key, value in self.norms[name].items()}
        return (x - p["mean"]) * jax.lax.rsqrt(p["var"] + 1e-5) * p["scale"] + p["bias"]

    def __call__(self, x):
        x = self.pool(jax.nn.relu(self.norm("bn1", self.convs["conv1"](x))))
        x = jax.nn.relu(self.norm("bn2", self.convs["conv2"](x)) + x)
        return self.head(jax.nn.relu(self.convs["conv3"](x)).mean((1, 2)))


def equinox(w: Weights) -> Network:
    key = jax.random.key(0)

    def conv(name, a, b, stride):
        made = eqx.nn.Conv2d(a, b, 3, stride, 1, key=key)
        values = w[f"{name}.weight"].transpose(3, 2, 0, 1), w[f"{name}.bias"][:, None, None]
        return eqx.tree_at(lambda c: (c.weight, c.bias), made, values)

    head = eqx.nn.Linear(16, CLASSES, key=key)
    model = Equinox(
        {name: conv(name, *sizes) for name, sizes in CONVS.items()},
        {n: {a: w[f"{n}.{b}"] for a, b in NORM.items()} for n in ("bn1", "bn2")},
        eqx.nn.MaxPool2d(2, 2),
        eqx.tree_at(lambda d: (d.weight, d.bias), head, (w["fc.weight"].T, w["fc.bias"])),
    )
    return lambda x: jax.vmap(model)(x.transpose(0, 3, 1, 2))


def haiku(w: Weights) -> Network:
    def forward(x):
        def conv(x, channels, name, stride=1):
            return hk.Conv2D(channels, 3, stride, padding=[(1, 1), (1, 1)], name=name)(x)

        def norm(x, name):
            return hk.BatchNorm(True, True, 0.9, name=name)(x, is_training=False)

        x = jax.nn.relu(norm(conv(x, 8, "conv1"), "bn1"))
        x = hk.max_pool(x, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")
        x = jax.nn.relu(norm(conv(x, 8, "conv2"), "bn2") + x)
        return hk.Linear(CLASSES, name="fc")(jax.nn.relu(conv(x, 16, "conv3", 2)).mean((1, 2)))

    parameters: Weights = {
        name: {"w": w[f"{name}.weight"], "b": w[f"{name}.bias"]}
        for name in ("conv1", "conv2", "conv3", "fc")
    }
    state: Weights = {}
    for name in ("bn1", "bn2"):
        row = {key: value[None, None, None] for key, value in w.items() if key.startswith(name)}
        parameters[name] = {"scale": row[f"{name}.weight"], "offset": row[f"{name}.bias"]}
        for kind in ("mean", "var"):
            average = row[f"{name}.running_{kind}"]
            state[f"{name}/~/{kind}_ema"] = {
                "average": average,
                "hidden": average,
                "counter": jnp.zeros((), jnp.int32),
            }
    network = hk.without_apply_rng(hk.transform_with_state(forward))
    return lambda x: network.apply(parameters, state, x)[0]
