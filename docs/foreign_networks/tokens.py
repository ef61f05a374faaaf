"""Networks on sequences, sets and graphs written by hand; they explain embeddings, not integers."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import lax

from foreign_networks.images import layer_norm
from foreign_networks.registry import Draw, Made, drawn, network


def rms_norm(x, scale):
    return x * lax.rsqrt(jnp.mean(x * x, -1, keepdims=True) + 1e-6) * scale


@network("GPT block: RoPE, RMSNorm, grouped queries, SwiGLU", conserves=False, written_in=False)
def gpt():
    draw, length, dim, heads, groups, size = Draw(11), 5, 8, 4, 2, 4
    p = {
        "blocks": [
            {
                "norms": [draw.scale(dim), draw.scale(dim)],
                "q": draw(dim, heads * size),
                "k": draw(dim, groups * size),
                "v": draw(dim, groups * size),
                "out": draw(heads * size, dim),
                "gate": draw(dim, 12),
                "up": draw(dim, 12),
                "down": draw(12, dim),
            }
            for _ in range(1)
        ],
        "norm": draw.scale(dim),
        "head": draw(dim, 3),
    }

    def rotated(x):
        angles = jnp.arange(length)[:, None] * 100.0 ** (-jnp.arange(0, size, 2) / size)
        sin, cos = jnp.sin(angles)[:, None], jnp.cos(angles)[:, None]
        even, odd = jnp.split(x, 2, -1)
        return jnp.concatenate([even * cos - odd * sin, odd * cos + even * sin], -1)

    def attention(b, x):
        q = rotated((x @ b["q"]).reshape(2, length, heads, size))
        k = rotated((x @ b["k"]).reshape(2, length, groups, size))
        v = (x @ b["v"]).reshape(2, length, groups, size)
        k, v = (jnp.repeat(t, heads // groups, axis=2) for t in (k, v))
        scores = jnp.einsum("bqhd,bkhd->bhqk", q, k) / jnp.sqrt(size)
        causal = jnp.tril(jnp.ones((length, length), bool))
        weights = jax.nn.softmax(jnp.where(causal, scores, jnp.finfo(scores.dtype).min))
        return jnp.einsum("bhqk,bkhd->bqhd", weights, v).reshape(2, length, -1) @ b["out"]

    def apply(p, x):
        for b in p["blocks"]:
            x = x + attention(b, rms_norm(x, b["norms"][0]))
            h = rms_norm(x, b["norms"][1])
            x = x + (jax.nn.silu(h @ b["gate"]) * (h @ b["up"])) @ b["down"]
        return rms_norm(x, p["norm"])[:, -1] @ p["head"]

    return Made(apply, p, drawn(2, length, dim))


def experts(seed):
    draw = Draw(seed)
    return {
        "embed": draw(4, 6),
        "embed_bias": draw.bias(6),
        "router": draw(6, 3),
        "in": jnp.stack([draw(6, 8) for _ in range(3)]),
        "out": jnp.stack([draw(8, 6) for _ in range(3)]),
        "head": draw(6, 3),
    }


@network("Mixture of experts, soft gates", conserves=False, written_in=False)
def soft_experts():
    def apply(p, x):
        x = x @ p["embed"] + p["embed_bias"]
        gates = jax.nn.softmax(x @ p["router"])
        h = jax.nn.gelu(jnp.einsum("btd,edh->bteh", x, p["in"]))
        x = x + jnp.einsum("bteh,ehd,bte->btd", h, p["out"], gates)
        return x.mean(1) @ p["head"]

    return Made(apply, experts(12), drawn(2, 5, 4))


@network("Mixture of experts, top 1 by one-hot dispatch", conserves=False, written_in=False)
def top_experts():
    def apply(p, x):
        x = x @ p["embed"] + p["embed_bias"]
        probabilities = jax.nn.softmax(x @ p["router"])
        chosen = jax.nn.one_hot(jnp.argmax(probabilities, -1), 3, dtype=x.dtype)
        inputs = jnp.einsum("btd,bte->betd", x, chosen)
        outputs = jnp.einsum(
            "beth,ehd->betd",
            jax.nn.relu(jnp.einsum("betd,edh->beth", inputs, p["in"])),
            p["out"],
        )
        gate = jnp.sum(probabilities * chosen, -1, keepdims=True)
        x = x + gate * jnp.einsum("betd,bte->btd", outputs, chosen)
        return x.mean(1) @ p["head"]

    return Made(apply, experts(13), drawn(2, 5, 4))


def recurrence(seed):
    draw = Draw(seed)
    return {
        "in": draw(4, 6),
        "forget": draw(4, 6),
        "forget_bias": draw.bias(6),
        "gate": draw(4, 6),
        "out": draw(6, 6),
        "head": draw(6, 3),
    }


def gated(p, x, states):
    """A Mamba-like layer; `states(a, b)` solves h[t] = a[t] * h[t - 1] + b[t] along axis 1."""
    a = jax.nn.sigmoid(x @ p["forget"] + p["forget_bias"])
    h = states(a, (1 - a) * (x @ p["in"]))
    y = h * jax.nn.silu(x @ p["gate"])
    return (y @ p["out"])[:, -1] @ p["head"]


@network("State space: linear recurrence by associative_scan", conserves=False, written_in=False)
def state_space_associative():
    def states(a, b):
        def join(left, right):
            return left[0] * right[0], right[0] * left[1] + right[1]

        return lax.associative_scan(join, (a, b), axis=1)[1]

    return Made(lambda p, x: gated(p, x, states), recurrence(14), drawn(2, 5, 4))


@network("State space: linear recurrence by scan", conserves=False, written_in=False)
def state_space_scan():
    def states(a, b):
        def step(h, inputs):
            h = inputs[0] * h + inputs[1]
            return h, h

        over_time = (jnp.moveaxis(a, 1, 0), jnp.moveaxis(b, 1, 0))
        return jnp.moveaxis(lax.scan(step, jnp.zeros_like(b[:, 0]), over_time)[1], 0, 1)

    return Made(lambda p, x: gated(p, x, states), recurrence(15), drawn(2, 5, 4))


@network("WaveNet: dilated causal convolutions, gated tanh", written_in=False)
def wavenet():
    draw, channels = Draw(16), 6
    p = {
        "stem": draw(1, 2, channels),
        "stem_bias": draw.bias(channels),
        "layers": [
            {
                "filter": draw(2, channels, channels),
                "filter_bias": draw.bias(channels),
                "gate": draw(2, channels, channels),
                "gate_bias": draw.bias(channels),
                "skip": draw(channels, channels),
                "residual": draw(channels, channels),
            }
            for _ in range(3)
        ],
        "head": draw(channels, 3),
    }

    def causal(x, kernel, dilation=1):
        reach = (kernel.shape[0] - 1) * dilation
        return lax.conv_general_dilated(
            jnp.pad(x, ((0, 0), (reach, 0), (0, 0))),
            kernel,
            (1,),
            "VALID",
            rhs_dilation=(dilation,),
            dimension_numbers=("NWC", "WIO", "NWC"),
        )

    def apply(p, x):
        x, skips = causal(x, p["stem"]) + p["stem_bias"], 0.0
        for number, layer in enumerate(p["layers"]):
            value = jnp.tanh(causal(x, layer["filter"], 2**number) + layer["filter_bias"])
            gate = jax.nn.sigmoid(causal(x, layer["gate"], 2**number) + layer["gate_bias"])
            skips = skips + (value * gate) @ layer["skip"]
            x = x + (value * gate) @ layer["residual"]
        return jax.nn.relu(skips)[:, -1] @ p["head"]

    return Made(apply, p, drawn(2, 10, 2))


@network("FNet: Fourier transforms for attention")
def fnet():
    draw, dim = Draw(17), 6
    p = {
        "embed": draw(4, dim),
        "norms": [draw.scale(dim), draw.scale(dim)],
        "norms_bias": [draw.bias(dim), draw.bias(dim)],
        "wide": draw(dim, 12),
        "wide_bias": draw.bias(12),
        "narrow": draw(12, dim),
        "head": draw(dim, 3),
    }

    def apply(p, x):
        x = x @ p["embed"]
        mixed = jnp.fft.fft(jnp.fft.fft(x, axis=-1), axis=-2).real
        x = layer_norm(x + mixed, p["norms"][0], p["norms_bias"][0])
        h = jax.nn.gelu(x @ p["wide"] + p["wide_bias"]) @ p["narrow"]
        x = layer_norm(x + h, p["norms"][1], p["norms_bias"][1])
        return x[:, 0] @ p["head"]

    return Made(apply, p, drawn(2, 5, 4))


@network(
    "Perceiver: latents read the input by cross attention",
    conserves=False,
    written_in=False,
)
def perceiver():
    draw, dim = Draw(18), 6
    p = {
        "latents": draw.bias(3, dim) * 3,
        "q": draw(dim, dim),
        "k": draw(4, dim),
        "v": draw(4, dim),
        "out": draw(dim, dim),
        "norm": draw.scale(dim),
        "norm_bias": draw.bias(dim),
        "wide": draw(dim, 12),
        "narrow": draw(12, dim),
        "head": draw(dim, 3),
    }

    def read(p, x):
        scores = jnp.einsum("ld,btd->blt", p["latents"] @ p["q"], x @ p["k"]) / dim**0.5
        shifted = jnp.exp(scores - scores.max(-1, keepdims=True))
        weights = shifted / shifted.sum(-1, keepdims=True)
        return p["latents"] + jnp.einsum("blt,btd->bld", weights, x @ p["v"]) @ p["out"]

    def apply(p, x):
        x = read(p, x)
        h = layer_norm(x, p["norm"], p["norm_bias"])
        x = x + jax.nn.gelu(h @ p["wide"]) @ p["narrow"]
        return x.mean(1) @ p["head"]

    return Made(apply, p, drawn(2, 7, 4))


@network("DeepSets: sum and maximum over elements")
def deep_sets():
    draw = Draw(19)
    p = {
        "one": draw(3, 8),
        "one_bias": draw.bias(8),
        "two": draw(8, 6),
        "two_bias": draw.bias(6),
        "three": draw(12, 6),
        "three_bias": draw.bias(6),
        "head": draw(6, 3),
    }

    def element(p, x):
        h = jax.nn.relu(p["one"].T @ x + p["one_bias"])
        return jnp.tanh(p["two"].T @ h + p["two_bias"])

    def one_set(p, x):
        h = jax.vmap(element, (None, 0))(p, x)
        pooled = jnp.concatenate([h.sum(0), h.max(0)])
        return jax.nn.relu(pooled @ p["three"] + p["three_bias"]) @ p["head"]

    return Made(jax.vmap(one_set, (None, 0)), p, drawn(2, 4, 3))


@network("Graph convolution by gather and segment_sum")
def graph_convolution():
    draw = Draw(20)
    p = {
        "layers": [
            {"own": draw(i, o), "neighbours": draw(i, o), "bias": draw.bias(o)}
            for i, o in ((3, 6), (6, 6))
        ],
        "head": draw(6, 3),
    }
    senders = jnp.array([0, 1, 2, 3, 4, 0, 2, 4])
    receivers = jnp.array([1, 2, 3, 4, 0, 2, 0, 1])
    degree = jax.ops.segment_sum(jnp.ones(len(senders)), receivers, 5)

    def one_graph(p, x):
        for layer in p["layers"]:
            received = jax.ops.segment_sum(x[senders], receivers, 5) / degree[:, None]
            x = jax.nn.relu(x @ layer["own"] + received @ layer["neighbours"] + layer["bias"])
        return jnp.mean(x, 0) @ p["head"]

    return Made(jax.vmap(one_graph, (None, 0)), p, drawn(2, 5, 3))


@network("Graph attention by segment_softmax", conserves=False, written_in=False)
def graph_attention():
    draw = Draw(21)
    p = {"embed": draw(3, 6), "from": draw(6, 1), "to": draw(6, 1), "head": draw(6, 3)}
    senders = jnp.array([0, 1, 2, 3, 4, 0, 2, 4])
    receivers = jnp.array([1, 2, 3, 4, 0, 2, 0, 1])

    def one_graph(p, x):
        h = x @ p["embed"]
        scores = jax.nn.leaky_relu((h @ p["from"])[senders] + (h @ p["to"])[receivers], 0.2)
        largest = jax.ops.segment_max(lax.stop_gradient(scores), receivers, 5)
        shifted = jnp.exp(scores - largest[receivers])
        weights = shifted / jax.ops.segment_sum(shifted, receivers, 5)[receivers]
        x = jax.nn.elu(jax.ops.segment_sum(weights * h[senders], receivers, 5))
        return x.mean(0) @ p["head"]

    return Made(jax.vmap(one_graph, (None, 0)), p, drawn(2, 5, 3))


@network("LSTM by hand, one matrix for four gates", written_in=False)
def lstm():
    draw, size = Draw(22), 5
    p = {
        "kernel": draw(3 + size, 4 * size),
        "bias": draw.bias(4 * size),
        "head": draw(size, 3),
    }

    def apply(p, x):
        def step(carry, now):
            h, c = carry
            gates = jnp.concatenate([now, h], -1) @ p["kernel"] + p["bias"]
            i, f, g, o = jnp.split(gates, 4, -1)
            c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
            h = jax.nn.sigmoid(o) * jnp.tanh(c)
            return (h, c), h

        start = (jnp.zeros((2, size)), jnp.zeros((2, size)))
        _, states = lax.scan(step, start, x.swapaxes(0, 1))
        return states.mean(0) @ p["head"]

    return Made(apply, p, drawn(2, 4, 3))
