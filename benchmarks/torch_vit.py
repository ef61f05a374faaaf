"""torchvision's vision transformer with the rules of LRP as autograd functions.

While `explaining`, a backward pass takes the scale of layer norms as a constant. With epsilon 0 it
is AttnLRP: half to each factor of a product of two relevant values, y / x at a GELU. Else it is
LRP-Flex: the derivative, at a GELU times x / (x + epsilon * sign x). Otherwise it is the
derivative. It can be differentiated again.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

EPSILON = 1e-2
_epsilons: list[float] = []


def is_explaining() -> bool:
    return bool(_epsilons)


def _is_attn_lrp() -> bool:
    return is_explaining() and _epsilons[-1] == 0


@contextlib.contextmanager
def explaining(epsilon: float = EPSILON) -> Iterator[None]:
    _epsilons.append(epsilon)
    try:
        yield
    finally:
        _epsilons.pop()


class _Half(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.view_as(x)

    @staticmethod
    def backward(ctx, g):  # pyright: ignore[reportIncompatibleMethodOverride]
        return g * 0.5 if _is_attn_lrp() else g


class _FlexGelu(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return F.gelu(x)

    @staticmethod
    def backward(ctx, g):  # pyright: ignore[reportIncompatibleMethodOverride]
        (x,) = ctx.saved_tensors
        if _is_attn_lrp():  # gelu(x) / x
            return g * (0.5 + 0.5 * torch.erf(x * 0.5**0.5))
        derivative = torch.ops.aten.gelu_backward(g, x)
        if not is_explaining():
            return derivative
        return derivative * (x / torch.where(x >= 0, x + _epsilons[-1], x - _epsilons[-1]))


class _Norm(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, weight, bias, epsilon):
        y, mean, scale = torch.native_layer_norm(x, weight.shape, weight, bias, epsilon)
        ctx.save_for_backward(x, weight, bias, mean, scale)
        ctx.epsilon = epsilon
        return y

    @staticmethod
    def backward(ctx, g):  # pyright: ignore[reportIncompatibleMethodOverride]
        x, weight, bias, mean, scale = ctx.saved_tensors
        if is_explaining():
            centred = x - x.mean(-1, keepdim=True)
            scale = torch.rsqrt((centred * centred).mean(-1, keepdim=True) + ctx.epsilon)
            scaled = g * weight * scale
            return scaled - scaled.mean(-1, keepdim=True), None, None, None
        backward = torch.ops.aten.native_layer_norm_backward
        wanted = [True, True, True]
        return *backward(g, x, weight.shape, mean, scale, weight, bias, wanted), None


def _norm(norm: nn.LayerNorm, x: Tensor) -> Tensor:
    with torch.autocast(x.device.type, enabled=False):
        return _Norm.apply(x.float(), norm.weight, norm.bias, norm.eps)


def _attention(attention: nn.MultiheadAttention, x: Tensor) -> Tensor:
    batch, tokens, width = x.shape
    heads = attention.num_heads
    packed = F.linear(x, attention.in_proj_weight, attention.in_proj_bias)
    packed = packed.reshape(batch, tokens, 3, heads, width // heads).permute(2, 0, 3, 1, 4)
    query, key, value = packed.unbind(0)
    query = query * (width // heads) ** -0.5
    scores = (_Half.apply(query) @ _Half.apply(key).transpose(-1, -2)).softmax(-1)
    mixed = _Half.apply(scores.to(value.dtype)) @ _Half.apply(value)
    return attention.out_proj(mixed.transpose(1, 2).reshape(batch, tokens, width))


def forward(model: nn.Module, x: Tensor) -> Tensor:
    """The logits of a torchvision VisionTransformer, ready for LRP."""
    patches = model.conv_proj(x).flatten(2).transpose(1, 2)  # pyright: ignore
    token = model.class_token.expand(len(x), -1, -1)  # pyright: ignore
    x = torch.cat([token.to(patches.dtype), patches], 1)
    encoder = model.encoder
    x = x + encoder.pos_embedding  # pyright: ignore
    for layer in encoder.layers:  # pyright: ignore
        x = x + _attention(layer.self_attention, _norm(layer.ln_1, x))
        hidden = _FlexGelu.apply(layer.mlp[0](_norm(layer.ln_2, x)))
        x = x + layer.mlp[3](hidden)
    return model.heads(_norm(encoder.ln, x)[:, 0])  # pyright: ignore
