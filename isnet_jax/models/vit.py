"""Vision transformers (Dosovitskiy et al., ICLR 2021, table 1), with torchvision's names."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from isnet_jax.errors import UserError
from isnet_jax.models.layers import Conv, Identity, Images, LayerNorm, Linear
from isnet_jax.models.network import Network, Stages, rematerialised

Tokens = Float[Array, "batch tokens width"]


class Attention(nnx.Module):
    """Multi-head self-attention; one kernel (width, 3 * width) for queries, keys and values."""

    def __init__(self, width: int, heads: int, *, rngs: nnx.Rngs):
        self.heads = heads
        init = nnx.initializers.xavier_uniform()
        self.kernel = nnx.Param(init(rngs.params(), (width, 3 * width)))
        self.bias = nnx.Param(jnp.zeros(3 * width))
        self.out_proj = Linear(width, width, rngs=rngs)

    def __call__(self, x: Tokens) -> Tokens:
        batch, tokens, width = x.shape
        projected = x @ self.kernel[...].astype(x.dtype) + self.bias[...].astype(x.dtype)
        split = projected.reshape(batch, tokens, 3, self.heads, width // self.heads)
        q, k, v = (split[:, :, part] for part in range(3))
        scores = jnp.einsum("bqhd,bkhd->bhqk", q, k) / (width // self.heads) ** 0.5
        wide = scores.astype(jnp.promote_types(scores.dtype, jnp.float32))
        mixed = jnp.einsum("bhqk,bkhd->bqhd", jax.nn.softmax(wide).astype(x.dtype), v)
        return self.out_proj(mixed.reshape(batch, tokens, width))


class Gelu(nnx.Module):
    """The exact GELU, holding its place in torchvision's numbering."""

    def __call__(self, x: Array) -> Array:
        return nnx.gelu(x, approximate=False)


class EncoderLayer(nnx.Module):
    """Attention and a two-layer perceptron, each behind a layer norm and beside a shortcut."""

    def __init__(self, width: int, heads: int, hidden: int, *, rngs: nnx.Rngs):
        self.ln_1 = LayerNorm(width, rngs=rngs)
        self.self_attention = Attention(width, heads, rngs=rngs)
        self.ln_2 = LayerNorm(width, rngs=rngs)
        self.mlp = nnx.List(
            [
                Linear(width, hidden, rngs=rngs),
                Gelu(),
                Identity(),
                Linear(hidden, width, rngs=rngs),
            ]
        )

    def __call__(self, x: Tokens) -> Tokens:
        x = x + self.self_attention(self.ln_1(x))
        y = self.ln_2(x)
        for layer in self.mlp:
            y = layer(y)
        return x + y


class _Layers(nnx.Module):
    def __init__(
        self, depth: int, width: int, heads: int, hidden: int, *, remat: bool, rngs: nnx.Rngs
    ):
        self.depth, self.remat = depth, remat
        for number in range(depth):
            layer = EncoderLayer(width, heads, hidden, rngs=rngs)
            setattr(self, f"encoder_layer_{number}", layer)

    def __call__(self, x: Tokens) -> Tokens:
        for number in range(self.depth):
            layer = getattr(self, f"encoder_layer_{number}")
            x = rematerialised(EncoderLayer.__call__, layer, x) if self.remat else layer(x)
        return x


class Encoder(nnx.Module):
    """Position embedding, layers, a last norm."""

    def __init__(
        self,
        tokens: int,
        depth: int,
        width: int,
        heads: int,
        hidden: int,
        *,
        remat: bool,
        rngs: nnx.Rngs,
    ):
        position = 0.02 * jax.random.normal(rngs.params(), (1, tokens, width))
        self.pos_embedding = nnx.Param(position)
        self.layers = _Layers(depth, width, heads, hidden, remat=remat, rngs=rngs)
        self.ln = LayerNorm(width, rngs=rngs)

    def __call__(self, x: Tokens) -> Tokens:
        return self.ln(self.layers(x + self.pos_embedding[...].astype(x.dtype)))


class _Heads(nnx.Module):
    def __init__(self, width: int, num_classes: int, *, rngs: nnx.Rngs):
        self.head = Linear(width, num_classes, rngs=rngs)


class VisionTransformer(Network):
    """Patches as tokens, a class token, an encoder, a dense head on the class token.

    Args:
      image_size: side of the images in pixels, a multiple of the patch; the position embedding
        fits no other size.
      remat: keep only each layer's products with weights for the gradient: less memory.
      shared: options of every `Network`.
    """

    def __init__(
        self,
        num_classes: int,
        *,
        width: int,
        depth: int,
        heads: int,
        patch: int = 16,
        image_size: int = 224,
        remat: bool = False,
        rngs: nnx.Rngs,
        **shared: Any,
    ):
        super().__init__(rngs=rngs, **shared)
        if image_size % patch:
            raise UserError(
                f"VisionTransformer: image_size is {image_size}; expected a multiple of the patch, "
                f"{patch}."
            )
        self.image_size = image_size
        self.conv_proj = Conv(
            self.in_channels, width, patch, stride=patch, padding=0, use_bias=True, rngs=rngs
        )
        self.class_token = nnx.Param(jnp.zeros((1, 1, width)))
        tokens = (image_size // patch) ** 2 + 1
        self.encoder = Encoder(tokens, depth, width, heads, 4 * width, remat=remat, rngs=rngs)
        self.heads = _Heads(width, num_classes, rngs=rngs)

    @property
    def head(self) -> Linear:
        return self.heads.head

    @property
    def stages(self) -> Stages:
        """The embedding, then each layer of the encoder, the last with the norm after it."""
        names = [f"encoder.layers.encoder_layer_{n}" for n in range(self.encoder.layers.depth)]
        embedding = ("conv_proj", "class_token", "encoder.pos_embedding")
        return (embedding, *((name,) for name in names[:-1]), (names[-1], "encoder.ln"))

    def embed(self, x: Images) -> Float[Array, "batch features"]:
        if x.shape[1:3] != (self.image_size, self.image_size):
            raise UserError(
                f"VisionTransformer: images are {x.shape[1]}x{x.shape[2]}; expected "
                f"{self.image_size}x{self.image_size}. Create the model with that image_size."
            )
        x = self.conv_proj(x)
        batch, rows, columns, width = x.shape
        x = x.reshape(batch, rows * columns, width)
        token = jnp.broadcast_to(self.class_token[...], (batch, 1, width)).astype(x.dtype)
        return self.encoder(jnp.concatenate([token, x], 1))[:, 0]
