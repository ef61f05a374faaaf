"""Image networks written by hand, the way people write them with jax.numpy."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import lax

from foreign_networks.registry import Draw, Made, drawn, network


def conv(x, kernel, bias=None, *, stride=1, padding="SAME", groups=1):
    y = lax.conv_general_dilated(
        x,
        kernel,
        (stride, stride),
        padding,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=groups,
    )
    return y if bias is None else y + bias


def pool(x, operation=lax.max, initial=-jnp.inf, *, size=2, stride=2, padding="VALID"):
    window, strides = (1, size, size, 1), (1, stride, stride, 1)
    return lax.reduce_window(x, initial, operation, window, strides, padding)


def layer_norm(x, scale, bias, eps=1e-5):
    mean = x.mean(-1, keepdims=True)
    variance = ((x - mean) ** 2).mean(-1, keepdims=True)
    return (x - mean) / jnp.sqrt(variance + eps) * scale + bias


@network("Squeeze-and-excitation CNN", written_in=False)
def squeeze_excite():
    draw = Draw(1)
    p = {
        "stem": draw(3, 3, 3, 8),
        "stem_bias": draw.bias(8),
        "squeeze": jnp.abs(draw(8, 4)),
        "squeeze_bias": draw.bias(4),
        "excite": draw(4, 8),
        "excite_bias": draw.bias(8),
        "head": draw(8, 3),
        "head_bias": draw.bias(3),
    }

    def apply(p, x):
        x = jax.nn.relu(conv(x, p["stem"], p["stem_bias"]))
        gate = jax.nn.relu(x.mean((1, 2)) @ p["squeeze"] + p["squeeze_bias"])
        gate = jax.nn.sigmoid(gate @ p["excite"] + p["excite_bias"])
        x = x * gate[:, None, None, :]
        return x.mean((1, 2)) @ p["head"] + p["head_bias"]

    return Made(apply, p, drawn(2, 6, 6, 3))


@network("CBAM: attention over channels and places", written_in=False)
def cbam():
    draw = Draw(2)
    p = {
        "stem": draw(3, 3, 3, 8),
        "stem_bias": draw.bias(8),
        "first": draw(8, 4),
        "second": draw(4, 8),
        "place": draw(3, 3, 2, 1),
        "head": draw(8, 3),
        "head_bias": draw.bias(3),
    }

    def apply(p, x):
        x = jax.nn.relu(conv(x, p["stem"], p["stem_bias"]))

        def shared(v):
            return jax.nn.relu(v @ p["first"]) @ p["second"]

        channels = jax.nn.sigmoid(shared(x.mean((1, 2))) + shared(x.max((1, 2))))
        x = x * channels[:, None, None]
        both = jnp.stack([x.mean(-1), x.max(-1)], axis=-1)
        x = x * jax.nn.sigmoid(conv(both, p["place"]))
        return x.mean((1, 2)) @ p["head"] + p["head_bias"]

    return Made(apply, p, drawn(2, 6, 6, 3))


@network("ConvNeXt: depthwise, layer norm, GELU, layer scale")
def convnext():
    draw, channels = Draw(3), 6
    p = {
        "stem": draw(2, 2, 3, channels),
        "stem_bias": draw.bias(channels),
        "blocks": [
            {
                "depthwise": draw(7, 7, 1, channels),
                "depthwise_bias": draw.bias(channels),
                "norm": draw.scale(channels),
                "norm_bias": draw.bias(channels),
                "wide": draw(channels, 4 * channels),
                "wide_bias": draw.bias(4 * channels),
                "narrow": draw(4 * channels, channels),
                "narrow_bias": draw.bias(channels),
                "gamma": draw.scale(channels),
            }
            for _ in range(1)
        ],
        "norm": draw.scale(channels),
        "norm_bias": draw.bias(channels),
        "head": draw(channels, 3),
    }

    def apply(p, x):
        x = conv(x, p["stem"], p["stem_bias"], stride=2)
        for b in p["blocks"]:
            h = conv(x, b["depthwise"], b["depthwise_bias"], groups=channels)
            h = layer_norm(h, b["norm"], b["norm_bias"])
            h = jax.nn.gelu(h @ b["wide"] + b["wide_bias"])
            x = x + b["gamma"] * (h @ b["narrow"] + b["narrow_bias"])
        return layer_norm(x.mean((1, 2)), p["norm"], p["norm_bias"]) @ p["head"]

    return Made(apply, p, drawn(2, 8, 8, 3))


@network("Inception: four branches")
def inception():
    draw = Draw(4)
    p = {
        "stem": draw(3, 3, 3, 6),
        "stem_bias": draw.bias(6),
        "one": draw(1, 1, 6, 4),
        "three_in": draw(1, 1, 6, 3),
        "three": draw(3, 3, 3, 4),
        "five_in": draw(1, 1, 6, 2),
        "five": draw(5, 5, 2, 3),
        "pool": draw(1, 1, 6, 2),
        "merged_bias": draw.bias(13),
        "head": draw(13, 3),
        "head_bias": draw.bias(3),
    }

    def apply(p, x):
        x = jax.nn.relu(conv(x, p["stem"], p["stem_bias"]))
        branches = [
            conv(x, p["one"]),
            conv(jax.nn.relu(conv(x, p["three_in"])), p["three"]),
            conv(jax.nn.relu(conv(x, p["five_in"])), p["five"]),
            conv(pool(x, size=3, stride=1, padding="SAME"), p["pool"]),
        ]
        x = jax.nn.relu(jnp.concatenate(branches, -1) + p["merged_bias"])
        x = pool(x, lax.add, 0.0) / 4
        return x.mean((1, 2)) @ p["head"] + p["head_bias"]

    return Made(apply, p, drawn(2, 6, 6, 3))


@network("Network in network: 1x1 convolutions, global average")
def network_in_network():
    draw = Draw(5)
    sizes = [(5, 3, 6), (1, 6, 6), (1, 6, 6), (3, 6, 6), (1, 6, 3)]
    p = [{"kernel": draw(k, k, i, o), "bias": draw.bias(o)} for k, i, o in sizes]

    def apply(p, x):
        for number, layer in enumerate(p):
            x = jnp.maximum(conv(x, layer["kernel"], layer["bias"]), 0)
            x = pool(x) if number == 2 else x
        return jnp.mean(x, axis=(1, 2))

    return Made(apply, p, drawn(2, 6, 6, 3))


@network("MLP-Mixer")
def mixer():
    draw, tokens, dim = Draw(6), 4, 6

    def mlp(size):
        return [draw(size, 8), draw(8, size)]

    p = {
        "embed": draw(12, dim),
        "embed_bias": draw.bias(dim),
        "blocks": [
            {
                "norms": [draw.scale(dim), draw.scale(dim)],
                "norms_bias": [draw.bias(dim), draw.bias(dim)],
                "tokens": mlp(tokens),
                "channels": mlp(dim),
            }
            for _ in range(1)
        ],
        "head": draw(dim, 3),
    }

    def apply(p, x):
        n = len(x)
        x = x.reshape(n, 2, 2, 2, 2, 3).transpose(0, 1, 3, 2, 4, 5).reshape(n, 4, 12)
        x = x @ p["embed"] + p["embed_bias"]
        for b in p["blocks"]:
            h = jnp.swapaxes(layer_norm(x, b["norms"][0], b["norms_bias"][0]), 1, 2)
            h = jax.nn.gelu(h @ b["tokens"][0]) @ b["tokens"][1]
            x = x + jnp.swapaxes(h, 1, 2)
            h = layer_norm(x, b["norms"][1], b["norms_bias"][1])
            x = x + jax.nn.gelu(h @ b["channels"][0]) @ b["channels"][1]
        return x.mean(1) @ p["head"]

    return Made(apply, p, drawn(2, 4, 4, 3))


@network("Swin: shifted windows by roll, masked softmax", conserves=False, written_in=False)
def swin():
    draw, dim, heads, side, window = Draw(7), 8, 2, 4, 2
    head = dim // heads
    p = {
        "embed": draw(3, dim),
        "embed_bias": draw.bias(dim),
        "blocks": [
            {
                "norms": [draw.scale(dim), draw.scale(dim)],
                "norms_bias": [draw.bias(dim), draw.bias(dim)],
                "qkv": draw(dim, 3 * dim),
                "relative": draw.bias(heads, window**2, window**2),
                "out": draw(dim, dim),
                "wide": draw(dim, 2 * dim),
                "narrow": draw(2 * dim, dim),
            }
            for _ in range(2)
        ],
        "merge": draw(4 * dim, dim),
        "head": draw(dim, 3),
    }

    def windows(x):
        x = x.reshape(*x.shape[:-3], 2, window, 2, window, x.shape[-1])
        x = jnp.swapaxes(x, -4, -3)
        return x.reshape(*x.shape[:-5], 4, window**2, x.shape[-1])

    def back(x):
        x = x.reshape(*x.shape[:-3], 2, 2, window, window, x.shape[-1])
        x = jnp.swapaxes(x, -4, -3)
        return x.reshape(*x.shape[:-5], side, side, x.shape[-1])

    def regions(shift):
        """Which of the windows' places may see each other."""
        index = (jnp.arange(side) >= side - window).astype(int) + (jnp.arange(side) >= side - shift)
        label = windows((3 * index[:, None] + index[None])[..., None])[..., 0]
        return label[:, :, None] == label[:, None, :]

    def attention(b, x, shift):
        x = jnp.roll(x, (-shift, -shift), (1, 2))
        qkv = (windows(x) @ b["qkv"]).reshape(len(x), 4, window**2, 3, heads, head)
        q, k, v = jnp.moveaxis(qkv, 3, 0)
        scores = jnp.einsum("nwqhd,nwkhd->nwhqk", q, k) / head**0.5 + b["relative"]
        if shift:
            scores = jnp.where(regions(shift)[:, None], scores, -1e9)
        mixed = jnp.einsum("nwhqk,nwkhd->nwqhd", jax.nn.softmax(scores), v)
        x = back(mixed.reshape(len(x), 4, window**2, dim) @ b["out"])
        return jnp.roll(x, (shift, shift), (1, 2))

    def apply(p, x):
        x = x @ p["embed"] + p["embed_bias"]
        for b, shift in zip(p["blocks"], (0, 1), strict=True):
            x = x + attention(b, layer_norm(x, b["norms"][0], b["norms_bias"][0]), shift)
            h = layer_norm(x, b["norms"][1], b["norms_bias"][1])
            x = x + jax.nn.gelu(h @ b["wide"]) @ b["narrow"]
        parts = [x[:, i::2, j::2] for i in (0, 1) for j in (0, 1)]
        return (jnp.concatenate(parts, -1) @ p["merge"]).mean((1, 2)) @ p["head"]

    return Made(apply, p, drawn(2, side, side, 3))


@network("Vision transformer with `q, k, v = qkv`", conserves=False, written_in=False)
def vision_transformer():
    draw, dim, heads = Draw(8), 8, 2
    p = {
        "patch": draw(2, 2, 3, dim),
        "patch_bias": draw.bias(dim),
        "class": draw.bias(1, 1, dim),
        "positions": draw.bias(5, dim),
        "blocks": [
            {
                "norms": [draw.scale(dim), draw.scale(dim)],
                "norms_bias": [draw.bias(dim), draw.bias(dim)],
                "qkv": draw(dim, 3 * dim),
                "qkv_bias": draw.bias(3 * dim),
                "out": draw(dim, dim),
                "wide": draw(dim, 2 * dim),
                "narrow": draw(2 * dim, dim),
            }
            for _ in range(1)
        ],
        "head": draw(dim, 3),
    }

    def attention(b, x):
        qkv = (x @ b["qkv"] + b["qkv_bias"]).reshape(2, 5, 3, heads, dim // heads)
        q, k, v = qkv.transpose(2, 0, 3, 1, 4)
        weights = jax.nn.softmax(q @ k.swapaxes(-1, -2) * (dim // heads) ** -0.5, axis=-1)
        return (weights @ v).transpose(0, 2, 1, 3).reshape(2, 5, dim) @ b["out"]

    def apply(p, x):
        x = conv(x, p["patch"], p["patch_bias"], stride=2).reshape(2, 4, dim)
        x = jnp.concatenate([jnp.tile(p["class"], (2, 1, 1)), x], 1) + p["positions"]
        for b in p["blocks"]:
            x = x + attention(b, layer_norm(x, b["norms"][0], b["norms_bias"][0]))
            h = layer_norm(x, b["norms"][1], b["norms_bias"][1])
            x = x + jax.nn.gelu(h @ b["wide"], approximate=False) @ b["narrow"]
        return x[:, 0] @ p["head"]

    return Made(apply, p, drawn(2, 4, 4, 3))


@network("Capsules: squash and one routing step", conserves=False, written_in=False)
def capsules():
    draw = Draw(9)
    p = {
        "stem": draw(3, 3, 3, 8),
        "stem_bias": draw.bias(8),
        "votes": draw(8, 4, 3, 4) * 2,
    }

    def squash(s):
        square = jnp.sum(s**2, -1, keepdims=True)
        return square / (1 + square) * s / jnp.sqrt(square + 1e-9)

    def apply(p, x):
        x = jax.nn.relu(conv(x, p["stem"], p["stem_bias"], stride=2, padding="VALID"))
        first = squash(x.reshape(2, 8, 4))
        votes = jnp.einsum("nid,idjk->nijk", first, p["votes"])
        digits = squash(votes.mean(1))
        agreement = jnp.einsum("nijk,njk->nij", votes, digits)
        digits = squash(jnp.einsum("nij,nijk->njk", jax.nn.softmax(agreement, -1), votes))
        return jnp.sqrt(jnp.sum(digits**2, -1) + 1e-9)

    return Made(apply, p, drawn(2, 5, 5, 3))


@network("Resize, dilated convolutions, skip by concatenation")
def resize_and_dilate():
    draw = Draw(10)
    p = {
        "first": draw(3, 3, 3, 6),
        "first_bias": draw.bias(6),
        "dilated": draw(3, 3, 6, 6),
        "dilated_bias": draw.bias(6),
        "head": draw(12, 3),
    }

    def apply(p, x):
        x = jax.image.resize(x, (2, 8, 8, 3), "bilinear")
        skip = jax.nn.leaky_relu(conv(x, p["first"], p["first_bias"]))
        x = lax.conv_general_dilated(
            skip,
            p["dilated"],
            (1, 1),
            "SAME",
            rhs_dilation=(2, 2),
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )
        x = jax.nn.elu(x + p["dilated_bias"])
        return jnp.concatenate([x, skip], -1).mean((1, 2)) @ p["head"]

    return Made(apply, p, drawn(2, 5, 5, 3))
