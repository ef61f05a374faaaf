"""Our composites against zennit's on torchvision networks with equal weights.

    pip install -e ".[benchmarks]"  (gigabytes: a virtual environment of its own)
    python benchmarks/zennit_agreement.py

For each network and composite: the largest difference of the heatmaps relative to the largest
relevance, in float32 and in float64. Writes benchmarks/results/zennit_agreement.json and .md.

zennit 1.0 or newer (Python 3.12): before it, a merged batch norm kept its `eps`, and what zennit
explained was not quite the user's network. Where float64 agrees and float32 does not, it is
rounding: the last two columns compare each library with itself.
"""

from __future__ import annotations

import dataclasses
import datetime
import functools
import itertools
import json
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
from isnet_jax.training.provenance import machine

# name -> zennit's composite, ours.
COMPOSITES: dict[str, tuple[Callable[..., Any], lrp.Composite]] = {
    "EpsilonPlus": (zennit.composites.EpsilonPlus, lrp.EpsilonPlus()),
    "EpsilonPlusFlat": (zennit.composites.EpsilonPlusFlat, lrp.EpsilonPlusFlat()),
    "EpsilonGammaBox": (
        functools.partial(zennit.composites.EpsilonGammaBox, 0.0, 1.0),
        lrp.EpsilonGammaBox(0.0, 1.0),
    ),
    "EpsilonAlpha2Beta1": (zennit.composites.EpsilonAlpha2Beta1, lrp.EpsilonAlpha2Beta1()),
    "EpsilonAlpha2Beta1Flat": (
        zennit.composites.EpsilonAlpha2Beta1Flat,
        lrp.EpsilonAlpha2Beta1Flat(),
    ),
    "GuidedBackprop": (zennit.composites.GuidedBackprop, lrp.GuidedBackprop()),
    "Deconvnet": (zennit.composites.DeconvNet, lrp.Deconvnet()),
    # Its paper has no biases; zennit's default keeps them.
    "ExcitationBackprop": (
        functools.partial(zennit.composites.ExcitationBackprop, zero_params=["bias"]),
        lrp.ExcitationBackprop(),
    ),
}
NETWORKS = {"vgg16_bn": VGGCanonizer, "resnet18": ResNetCanonizer}


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Compare heatmaps with zennit's.

    Attributes:
      size: side of the images in pixels.
      batch: number of images.
      networks, composites: which rows to measure; others that were measured with the same sizes,
        versions and machine are kept.
      out: folder of the results.
    """

    size: int = 224
    batch: int = 1
    networks: tuple[str, ...] = tuple(NETWORKS)
    composites: tuple[str, ...] = tuple(COMPOSITES)
    out: Path = Path("benchmarks/results")


def main(options: Comparison) -> None:
    libraries = ("jax", "torch", "torchvision", "zennit")
    setting = {
        "size": options.size,
        "batch": options.batch,
        "machine": machine(),
        "versions": {name: metadata.version(name) for name in libraries},
    }
    file = options.out / "zennit_agreement.json"
    known = json.loads(file.read_text()) if file.exists() else {}
    same = all(known.get(name) == value for name, value in setting.items())
    rows = {(r["network"], r["composite"]): r for r in known["rows"]} if same else {}
    options.out.mkdir(parents=True, exist_ok=True)
    for network in options.networks:
        for composite in options.composites:
            row = {
                "network": network,
                "composite": composite,
                "date": datetime.date.today().isoformat(),
                "differences": differences(network, composite, options),
            }
            print(row, flush=True)
            rows[network, composite] = row
            ordered = [rows[key] for key in itertools.product(NETWORKS, COMPOSITES) if key in rows]
            file.write_text(json.dumps({**setting, "rows": ordered}, indent=2) + "\n")
            file.with_suffix(".md").write_text(table(setting, ordered))


def table(setting: dict[str, Any], rows: list[dict[str, Any]]) -> str:
    columns = list(rows[0]["differences"])
    lines = [
        f"| network | composite | {' | '.join(columns)} |",
        f"|---|---|{'---|' * len(columns)}",
    ]
    for row in rows:
        numbers = (f"{row['differences'][column]:.0e}" for column in columns)
        lines.append(f"| {row['network']} | {row['composite']} | {' | '.join(numbers)} |")
    versions = ", ".join(f"{name} {version}" for name, version in setting["versions"].items())
    days = " to ".join(sorted({row["date"] for row in rows}))
    return "\n".join(
        [
            *lines,
            "",
            f"Batch {setting['batch']}, {setting['size']}x{setting['size']}; {setting['machine']}; "
            f"{versions}; {days}.",
            "",
        ]
    )


def differences(network: str, composite: str, options: Comparison) -> dict[str, float]:
    """One row of the table: its columns."""
    theirs, ours = COMPOSITES[composite]
    sizes = {"batch": options.batch, "size": options.size}
    zennits, own = {}, {}
    for bits in (32, 64):
        with jax.enable_x64(bits == 64):
            torch_model, x = made(network, bits, **sizes)
            seed = top_class(torch_model, x)
            own[bits] = our_heatmap(network, torch_model, x, seed, ours)
            composed = theirs(canonizers=[NETWORKS[network]()])
            zennits[bits] = zennit_heatmap(torch_model, x, seed, composed)
    return {
        "float32": difference(own[32], zennits[32]),
        "float64": difference(own[64], zennits[64]),
        "zennit's float32 and float64": difference(zennits[32], zennits[64]),
        "our float32 and float64": difference(own[32], own[64]),
    }


def difference(one: np.ndarray, other: np.ndarray) -> float:
    """The largest difference, relative to the largest relevance."""
    return float(np.abs(one - other).max() / np.abs(other).max())


def top_class(torch_model: torch.nn.Module, x: torch.Tensor) -> torch.Tensor:
    """One at the largest logit of each image."""
    with torch.no_grad():
        target = torch_model(x).argmax(1)
    return torch.nn.functional.one_hot(target, 10).to(x.dtype)


def zennit_heatmap(
    torch_model: torch.nn.Module, x: torch.Tensor, seed: torch.Tensor, composite: Any
) -> np.ndarray:
    """Relevance (B, H, W, 3)."""
    with zennit.attribution.Gradient(torch_model, composite) as attributor:
        _, relevance = attributor(x, seed)
    return relevance.detach().numpy().transpose(0, 2, 3, 1)


def our_heatmap(
    network: str,
    torch_model: torch.nn.Module,
    x: torch.Tensor,
    seed: torch.Tensor,
    composite: lrp.Composite,
) -> np.ndarray:
    """Relevance (B, H, W, 3), with 1 at the class as zennit has it (gradients: the seed itself)."""
    model = models.create(network, num_classes=10, rngs=nnx.Rngs(0))
    models.load_torch(model, torch_model.state_dict())
    model.eval()
    graph, state = nnx.split(model)

    @jax.jit
    def explain(state: Any, images: jax.Array, seed: jax.Array) -> jax.Array:
        logits, pullback = lrp.vjp(nnx.merge(graph, state), images, rules=composite)
        return pullback(seed / logits if composite.times_input else seed)

    images = jnp.asarray(x.numpy().transpose(0, 2, 3, 1))
    return np.asarray(explain(state, images, jnp.asarray(seed.numpy())))


def made(network: str, bits: int, *, batch: int, size: int) -> tuple[torch.nn.Module, torch.Tensor]:
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
    shape = (batch, 3, size, size)
    x = torch.rand(shape, generator=generator)
    return model.eval().to(dtype), x.to(dtype)


if __name__ == "__main__":
    main(tyro.cli(Comparison))
