"""ISNet in PyTorch, written for speed: the other side of the benchmarks.

The same method as `isnet_jax` with `ISNetConfig(batch_stats="gradient")`: LRP-Flex as a ReLU whose
backward pass is y / (y + epsilon) while the heatmap is made and the true derivative after, z^B at
the first layer, the same losses. Networks are torchvision's, or `Compact`; torch_vit.py has what
a transformer needs. Devices and autocast are the caller's.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
import torch_vit
import torchvision
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

EPSILON = torch_vit.EPSILON


class _FlexRelu(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        y = x.clamp(min=0)
        ctx.save_for_backward(y)
        return y

    @staticmethod
    def backward(ctx, g):  # pyright: ignore[reportIncompatibleMethodOverride]
        (y,) = ctx.saved_tensors
        return g * (y / (y + EPSILON)) if torch_vit.is_explaining() else g * (y > 0)


class FlexRelu(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return _FlexRelu.apply(x)


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


def create(
    name: str,
    classes: int,
    *,
    explained: bool = True,
    transition_relu: bool = False,
    **options: Any,
) -> nn.Module:
    """A network in train mode.

    Args:
      explained: its activations are ready for LRP; otherwise it is torchvision's own.
      transition_relu: the papers' DenseNet, see `isnet_jax.models`.
      options: of torchvision's.
    """
    if name == "compact":
        made = Compact(classes)
    else:
        made = getattr(torchvision.models, name)(num_classes=classes, **options)
    if transition_relu:
        for number in (1, 2, 3):
            transition = getattr(made.features, f"transition{number}")
            pool = transition.pool
            del transition.pool
            transition.relu2, transition.pool = nn.ReLU(inplace=True), pool
    if not explained:
        return made.train()
    for module in made.modules():
        for child_name, child in module.named_children():
            if isinstance(child, nn.ReLU):
                setattr(module, child_name, FlexRelu())
    if name.startswith("densenet"):
        last = FlexRelu()  # torchvision's forward has a functional one here.
        made.forward = lambda x: made.classifier(last(made.features(x)).mean((2, 3)))
    if name.startswith("vit"):
        made.forward = lambda x: torch_vit.forward(made, x)
    return made.train()


def first_layers(model: nn.Module) -> tuple[nn.Conv2d, nn.BatchNorm2d | None, nn.Module]:
    """The first convolution, its norm if it has one, and whose output relevance is taken at."""
    if isinstance(model, Compact):
        return model.convs[0], model.norms[0], model.relus[0]  # pyright: ignore
    if hasattr(model, "conv_proj"):
        return model.conv_proj, None, model.conv_proj  # pyright: ignore
    if hasattr(model, "conv1"):
        return model.conv1, model.bn1, model.relu  # pyright: ignore
    features = model.features
    if hasattr(features, "conv0"):
        return features.conv0, features.norm0, features.relu0  # pyright: ignore
    return features[0], None, features[1]  # pyright: ignore


def z_box(
    conv: nn.Conv2d, norm: nn.BatchNorm2d | None, x: Tensor, z0: Tensor, relevance: Tensor
) -> Tensor:
    """z^B for inputs in [0, 1]: with l = 0 only the upper bound's term is left."""
    if norm is None:
        assert conv.bias is not None
        weight, bias = conv.weight, conv.bias.detach()
    else:
        wide = z0.float() if z0.dtype == torch.bfloat16 else z0
        mean = wide.mean((0, 2, 3)).detach()
        variance = wide.var((0, 2, 3), unbiased=False).detach()
        factor = norm.weight / torch.sqrt(variance + norm.eps)
        weight = conv.weight * factor[:, None, None, None]
        bias = norm.bias.detach() - (mean * factor.detach())
    negative, options = weight.clamp(max=0), (None, conv.stride, conv.padding)
    z = F.conv2d(x, weight, *options) + bias[:, None, None]
    high = torch.ones_like(x[:1])
    z = z - F.conv2d(high, negative, *options) - bias.clamp(max=0)[:, None, None]
    z = torch.where(z >= 0, z + EPSILON, z - EPSILON)
    s = (relevance / z).to(z0.dtype)

    def back(weight: Tensor) -> Tensor:
        return torch.nn.grad.conv2d_input(
            x.shape, weight.to(z0.dtype), s, conv.stride, conv.padding
        )

    return x * back(weight) - back(negative)


def heatmap_loss(relevance: Tensor, mask: Tensor, *, decay=0.9, low=1.0, high=25.0) -> Tensor:
    """w1 * background + w2 * foreground, mean over heatmaps (B, K, C, H, W) and the batch."""
    magnitude, inside = relevance.abs(), mask[:, None]
    magnitude = magnitude.float() if magnitude.dtype == torch.bfloat16 else magnitude
    area = inside.sum((2, 3, 4)) * relevance.shape[2]
    mean = (magnitude * inside).sum((2, 3, 4)) / (area + 1e-10)
    outside = magnitude / (mean + 1e-10)[:, :, None, None, None] * (1 - inside)
    flat = outside.flatten(3)
    ranks = min(flat.shape[-1], math.ceil(math.log(1e-9) / math.log(decay)))
    weights = decay ** torch.arange(ranks, dtype=flat.dtype, device=flat.device)
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


def stochastic(logits: Tensor) -> Tensor:
    """The highest logit of a sample or, as often, a random other one."""
    count, classes = logits.shape
    highest = logits.argmax(1)
    shift = torch.randint(1, classes, (count,), device=logits.device)
    takes_other = torch.randint(0, 2, (count,), device=logits.device)
    return logits.gather(1, ((highest + shift * takes_other) % classes)[:, None]).sum()


def loss(model: nn.Module, mode: str, x: Tensor, mask: Tensor, y: Tensor, weight=0.7) -> Tensor:
    """The loss of a step.

    Args:
      mode: plain, selective, stochastic, original, or quarter: selective for a quarter of the
        batch, evenly spread.
    """
    if mode == "plain":
        return F.cross_entropy(model(x).float(), y)
    if mode == "quarter":
        return _of_a_quarter(model, x, mask, y, weight)
    logits, heatmap = _explained(model, mode, x, mask)
    return (1 - weight) * F.cross_entropy(logits, y) + weight * heatmap


def _of_a_quarter(model: nn.Module, x: Tensor, mask: Tensor, y: Tensor, weight: float) -> Tensor:
    chosen = torch.zeros(len(x), dtype=torch.bool, device=x.device)
    chosen[:: min(4, len(x))] = True
    explained, others = chosen.nonzero()[:, 0], (~chosen).nonzero()[:, 0]
    logits, heatmap = _explained(model, "selective", x[explained], mask[explained])
    logits = torch.cat([logits, model(x[others]).float()])
    y = torch.cat([y[explained], y[others]])
    return (1 - weight) * F.cross_entropy(logits, y) + weight * heatmap


def _explained(model: nn.Module, mode: str, x: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Logits and the heatmap loss."""
    conv, norm, place = first_layers(model)
    kept: dict[str, Tensor] = {}

    def keep(name: str) -> Callable[..., None]:
        return lambda module, inputs, output: kept.update({name: output})

    hooks = [conv.register_forward_hook(keep("z0")), place.register_forward_hook(keep("y0"))]
    logits = model(x).float()
    for hook in hooks:
        hook.remove()
    if mode == "original":
        quantities = list(logits.sum(0))
    else:
        quantities = [selective(logits) if mode == "selective" else stochastic(logits)]
    maps = []
    for quantity in quantities:
        with torch_vit.explaining():
            (g,) = torch.autograd.grad(quantity, kept["y0"], create_graph=True)
        maps.append(z_box(conv, norm, x, kept["z0"], kept["y0"] * g))
    return logits, heatmap_loss(torch.stack(maps, 1), mask)
