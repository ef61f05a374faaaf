"""ISNet in PyTorch, written for speed: the other side of the benchmarks.

The same method as `isnet_jax` with `ISNetConfig(batch_stats="gradient")`: LRP-Flex as a ReLU whose
backward pass is y / (y + epsilon) while the heatmap is made and the true derivative after, z^B at
the first layer, the same losses. Networks are torchvision's, or `Compact`.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator

import torch
import torchvision
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

EPSILON = 1e-2


class _FlexRelu(torch.autograd.Function):
    explaining = False

    @staticmethod
    def forward(ctx, x):
        y = x.clamp(min=0)
        ctx.save_for_backward(y)
        return y

    @staticmethod
    def backward(ctx, g):  # pyright: ignore[reportIncompatibleMethodOverride]
        (y,) = ctx.saved_tensors
        return g * (y / (y + EPSILON)) if _FlexRelu.explaining else g * (y > 0)


class FlexRelu(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return _FlexRelu.apply(x)


@contextlib.contextmanager
def explaining() -> Iterator[None]:
    _FlexRelu.explaining = True
    try:
        yield
    finally:
        _FlexRelu.explaining = False


class Compact(nn.Module):
    """`isnet_jax.models`' compact CNN."""

    def __init__(self, classes: int, widths: tuple[int, ...] = (16, 32, 64, 64)):
        super().__init__()
        channels = (3, *widths)
        self.convs = nn.ModuleList(
            nn.Conv2d(a, b, 3, padding=1, bias=False)
            for a, b in zip(channels, widths, strict=False)
        )
        self.norms = nn.ModuleList(nn.BatchNorm2d(width) for width in widths)
        self.relus = nn.ModuleList(nn.ReLU() for _ in widths)
        self.fc = nn.Linear(widths[-1], classes)

    def forward(self, x: Tensor) -> Tensor:
        layers = zip(self.convs, self.norms, self.relus, strict=True)
        for number, (conv, norm, relu) in enumerate(layers):
            x = relu(norm(conv(F.max_pool2d(x, 2) if number else x)))
        return self.fc(x.mean((2, 3)))


def create(name: str, classes: int) -> nn.Module:
    """A network in train mode, its ReLUs ready for LRP."""
    made = (
        Compact(classes)
        if name == "compact"
        else getattr(torchvision.models, name)(num_classes=classes)
    )
    for module in made.modules():
        for child_name, child in module.named_children():
            if isinstance(child, nn.ReLU):
                setattr(module, child_name, FlexRelu())
    if name.startswith("densenet"):
        last = FlexRelu()  # torchvision's forward has a functional one here.
        made.forward = lambda x: made.classifier(last(made.features(x)).mean((2, 3)))
    return made.train()


def first_layers(model: nn.Module) -> tuple[nn.Conv2d, nn.BatchNorm2d, nn.Module]:
    """The first convolution, its norm and its ReLU."""
    if isinstance(model, Compact):
        return model.convs[0], model.norms[0], model.relus[0]  # pyright: ignore
    if hasattr(model, "features"):
        features = model.features
        return features.conv0, features.norm0, features.relu0  # pyright: ignore
    return model.conv1, model.bn1, model.relu  # pyright: ignore


def z_box(
    conv: nn.Conv2d, norm: nn.BatchNorm2d, x: Tensor, z0: Tensor, relevance: Tensor
) -> Tensor:
    """z^B for inputs in [0, 1]: with l = 0 only the upper bound's term is left."""
    mean = z0.mean((0, 2, 3)).detach()
    variance = z0.var((0, 2, 3), unbiased=False).detach()
    factor = norm.weight / torch.sqrt(variance + norm.eps)
    weight = conv.weight * factor[:, None, None, None]
    bias = norm.bias.detach() - (mean * factor.detach())
    negative, options = weight.clamp(max=0), (None, conv.stride, conv.padding)
    z = F.conv2d(x, weight, *options) + bias[:, None, None]
    high = torch.ones_like(x[:1])
    z = z - F.conv2d(high, negative, *options) - bias.clamp(max=0)[:, None, None]
    z = torch.where(z >= 0, z + EPSILON, z - EPSILON)
    s = relevance / z

    def back(weight: Tensor) -> Tensor:
        return torch.nn.grad.conv2d_input(x.shape, weight, s, conv.stride, conv.padding)

    return x * back(weight) - back(negative)


def heatmap_loss(relevance: Tensor, mask: Tensor, *, decay=0.9, low=1.0, high=25.0) -> Tensor:
    """w1 * background + w2 * foreground, mean over heatmaps (B, K, C, H, W) and the batch."""
    magnitude, inside = relevance.abs(), mask[:, None]
    area = inside.sum((2, 3, 4)) * relevance.shape[2]
    mean = (magnitude * inside).sum((2, 3, 4)) / (area + 1e-10)
    outside = magnitude / (mean + 1e-10)[:, :, None, None, None] * (1 - inside)
    flat = outside.flatten(3)
    ranks = min(flat.shape[-1], math.ceil(math.log(1e-9) / math.log(decay)))
    weights = decay ** torch.arange(ranks, dtype=flat.dtype)
    total = (1 - decay ** flat.shape[-1]) / (1 - decay)
    pooled = (flat.topk(ranks).values * weights).sum(-1) / total
    background = -torch.log1p(-(pooled / (pooled + 1)).clamp(max=1 - 1e-7)).mean((1, 2))
    sums = (magnitude * inside).sum((2, 3, 4))
    left = ((sums / low).clamp(max=1) - 1) ** 2
    foreground = (left + ((sums - high).clamp(min=0) / low) ** 2).mean(1)
    return (background + foreground).mean()


def selective(logits: Tensor, softmax_epsilon: float = 1e-2) -> Tensor:
    p = logits.softmax(1).gather(1, logits.argmin(1, keepdim=True))
    return (torch.log(p + softmax_epsilon) - torch.log(1 - p + softmax_epsilon)).sum()


def loss(model: nn.Module, mode: str, x: Tensor, mask: Tensor, y: Tensor, weight=0.7) -> Tensor:
    """The loss of a step; mode: plain, selective or original."""
    if mode == "plain":
        return F.cross_entropy(model(x), y)
    conv, norm, relu = first_layers(model)
    kept: dict[str, Tensor] = {}

    def keep(name: str) -> Callable[..., None]:
        return lambda module, inputs, output: kept.update({name: output})

    hooks = [conv.register_forward_hook(keep("z0")), relu.register_forward_hook(keep("y0"))]
    logits = model(x)
    for hook in hooks:
        hook.remove()
    quantities = [selective(logits)] if mode == "selective" else list(logits.sum(0))
    maps = []
    for quantity in quantities:
        with explaining():
            (g,) = torch.autograd.grad(quantity, kept["y0"], create_graph=True)
        maps.append(z_box(conv, norm, x, kept["z0"], kept["y0"] * g))
    heatmap = heatmap_loss(torch.stack(maps, 1), mask)
    return (1 - weight) * F.cross_entropy(logits, y) + weight * heatmap
