"""Our composites against zennit's on torchvision networks with equal weights.

    pip install -e ".[benchmarks]"      (gigabytes: a virtual environment of its own)
    python benchmarks/zennit_agreement.py

For each network and composite: the largest difference of the heatmaps relative to the largest
relevance, in float32 and in float64. Writes benchmarks/results/zennit_agreement.json and .md.
"""

from __future__ import annotations

import dataclasses
import datetime
import json
import platform
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch
import torchvision
import tyro
import zennit.attribution
import zennit.canonizers
import zennit.composites
from flax import nnx
from zennit.torchvision import ResNetCanonizer, VGGCanonizer

from isnet_jax import lrp, models

# name -> zennit's composite for these canonizers, ours.
COMPOSITES: dict[str, tuple[Callable[..., Any], lrp.Composite]] = {
    "EpsilonPlus": (zennit.composites.EpsilonPlus, lrp.EpsilonPlus()),
    "EpsilonPlusFlat": (zennit.composites.EpsilonPlusFlat, lrp.EpsilonPlusFlat()),
    "EpsilonGammaBox": (
        lambda canonizers: zennit.composites.EpsilonGammaBox(0.0, 1.0, canonizers=canonizers),
        lrp.EpsilonGammaBox(0.0, 1.0),
    ),
    "EpsilonAlpha2Beta1": (zennit.composites.EpsilonAlpha2Beta1, lrp.EpsilonAlpha2Beta1()),
    "EpsilonAlpha2Beta1Flat": (
        zennit.composites.EpsilonAlpha2Beta1Flat,
        lrp.EpsilonAlpha2Beta1Flat(),
    ),
    "GuidedBackprop": (zennit.composites.GuidedBackprop, lrp.GuidedBackprop()),
    "ExcitationBackprop": (zennit.composites.ExcitationBackprop, lrp.ExcitationBackprop()),
}
NETWORKS = {"vgg16_bn": VGGCanonizer, "resnet18": ResNetCanonizer}


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Compare heatmaps with zennit's.

    Attributes:
      size: side of the images in pixels.
      batch: number of images.
      out: folder of the results.
    """

    size: int = 224
    batch: int = 1
    out: Path = Path("benchmarks/results")


def main(options: Comparison) -> None:
    rows = []
    for network, canonizer in NETWORKS.items():
        for composite, (theirs, ours) in COMPOSITES.items():
            row: dict[str, Any] = {"network": network, "composite": composite}
            for bits in (32, 64):
                with jax.enable_x64(bits == 64):
                    row[f"float{bits}"] = difference(
                        network, canonizer, theirs, ours, bits, options
                    )
            rows.append(row)
            print(row, flush=True)
    result = {
        "machine": platform.machine(),
        "date": datetime.date.today().isoformat(),
        "versions": {name: metadata.version(name) for name in ("jax", "torch", "zennit")},
        "rows": rows,
    }
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "zennit_agreement.json").write_text(json.dumps(result, indent=2) + "\n")
    lines = ["| network | composite | float32 | float64 |", "|---|---|---|---|"]
    lines += [
        f"| {r['network']} | {r['composite']} | {r['float32']:.1e} | {r['float64']:.1e} |"
        for r in rows
    ]
    (options.out / "zennit_agreement.md").write_text("\n".join(lines) + "\n")


def difference(
    network: str, canonizer: Any, theirs: Any, ours: lrp.Composite, bits: int, options: Comparison
) -> float:
    """The largest difference of the heatmaps, relative to the largest relevance."""
    torch_model, x = made(network, bits, options)
    with torch.no_grad():
        target = torch_model(x).argmax(1)
    seed = torch.nn.functional.one_hot(target, 10).to(x.dtype)
    with zennit.attribution.Gradient(torch_model, theirs(canonizers=[canonizer()])) as attributor:
        _, expected = attributor(x, seed)
    expected = expected.detach().numpy().transpose(0, 2, 3, 1)

    model = models.create(network, num_classes=10, rngs=nnx.Rngs(0))
    models.load_torch(model, made(network, bits, options)[0].state_dict())
    model.eval()
    images = jnp.asarray(x.detach().numpy().transpose(0, 2, 3, 1))
    graph, state = nnx.split(model)
    found = jax.jit(
        lambda state, images, seed: ours_relevance(nnx.merge(graph, state), images, seed, ours)
    )(state, images, jnp.asarray(seed.numpy()))
    return float(np.abs(np.asarray(found) - expected).max() / np.abs(expected).max())


def ours_relevance(model: Any, images: Any, seed: Any, composite: lrp.Composite) -> Any:
    """Relevance, with 1 at the target's logit as zennit has it (gradients: the seed itself)."""
    logits, pullback = lrp.vjp(model, images, rules=composite)
    return pullback(seed / logits if composite.times_input else seed)


def made(network: str, bits: int, options: Comparison) -> tuple[torch.nn.Module, torch.Tensor]:
    """torchvision's network with drawn weights and batch statistics, and images."""
    generator = torch.manual_seed(0)
    model = getattr(torchvision.models, network)(num_classes=10)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.running_var, 0.5, 1.5, generator=generator)
            torch.nn.init.normal_(module.running_mean, 0.0, 0.1, generator=generator)
            torch.nn.init.uniform_(module.weight, 0.5, 1.0, generator=generator)
            torch.nn.init.normal_(module.bias, 0.0, 0.1, generator=generator)
    dtype = torch.float64 if bits == 64 else torch.float32
    shape = (options.batch, 3, options.size, options.size)
    x = torch.rand(shape, generator=generator)
    return model.eval().to(dtype), x.to(dtype)


if __name__ == "__main__":
    main(tyro.cli(Comparison))
