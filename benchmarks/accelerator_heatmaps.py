"""One side of a heatmap row of accelerator.py in a process of its own.

    python accelerator_heatmaps.py SIDE NETWORK COMPOSITE PRECISION SETTING

Explains the highest logit of a batch; what a call returns is the sum of the heatmaps' magnitudes.
zennit's networks are prepared as for heatmap_throughput.py; AttnLRP in PyTorch is torch_vit.py's.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
from accelerator_workers import (
    Clock,
    Setting,
    on_torch,
    peak_gb_of,
    prepare_jax,
    torch_peak_gb,
)
from step_workers import Row, data, jax_model, weights
from workers import serve, slot

EPSILON = 1e-6
BATCH = 64


def row_of(network: str, setting: Setting) -> Row:
    return dataclasses.replace(setting.row(network), batch=4 if setting.small else BATCH)


def jax_side(network: str, composite: str, precision: str, setting: Setting) -> None:
    clock = Clock()
    jax = prepare_jax(setting.cache)
    from flax import nnx

    from isnet_jax import lrp
    from isnet_jax.training import compiler_options

    device = jax.devices()[0]
    clock.tick("import")
    rules = {
        "Epsilon": lrp.Composite(layer=lrp.Epsilon(EPSILON), sum=lrp.Norm(), average=lrp.Norm()),
        "EpsilonPlusFlat": lrp.EpsilonPlusFlat(),
        "AttnLRP": lrp.AttnLRP(),
    }[composite]
    row = row_of(network, setting)
    half = precision == "bfloat16"
    model = jax_model(row, {"dtype": jax.numpy.bfloat16} if half else {})
    model.eval()
    graph, state = nnx.split(model)

    def explain(state: Any, images: Any) -> tuple[Any, Any]:
        logits, pullback = lrp.vjp(nnx.merge(graph, state), images, rules=rules)
        heatmaps = pullback(jax.nn.one_hot(logits.argmax(1), logits.shape[1]) / logits)
        return heatmaps, jax.numpy.abs(heatmaps.astype(jax.numpy.float32)).sum()

    images = data(row)[0]
    clock.tick("build")
    lowered = jax.jit(explain, compiler_options=compiler_options()).lower(state, images)
    clock.tick("trace")
    with slot(Path(setting.slots), setting.slot_count):
        clock.tick("wait")
        compiled = lowered.compile()
        clock.tick("compile")
    kept: list[Any] = []

    def call() -> Any:
        if not kept:
            kept.extend(jax.device_put((state, images), device))
        return compiled(*kept)[1]

    serve(call, {**clock.seconds, "images": row.batch}, lambda: peak_gb_of(device))


def torch_network(network: str, row: Row, device: str) -> tuple[Any, Any]:
    """The network with the shared weights, and the images."""
    import torch
    import torch_isnet

    model = torch_isnet.create(
        network, row.classes, explained=network.startswith("vit"), **dict(row.options)
    ).eval()
    drawn = weights({n: tuple(v.shape) for n, v in model.state_dict().items() if v.ndim})
    model.load_state_dict({n: torch.from_numpy(v) for n, v in drawn.items()}, strict=False)
    images = np.ascontiguousarray(data(row)[0].transpose(0, 3, 1, 2))
    return model.to(device), torch.from_numpy(images).to(device)


def torch_side(network: str, composite: str, precision: str, setting: Setting) -> None:
    """AttnLRP."""
    del composite
    clock = Clock()
    import torch
    import torch_vit

    device = on_torch(torch)
    clock.tick("import")
    row = row_of(network, setting)
    model, x = torch_network(network, row, device)
    model.requires_grad_(False)
    x.requires_grad_()
    clock.tick("build")

    def call() -> Any:
        with torch.autocast(device, torch.bfloat16, enabled=precision == "bfloat16"):
            logits = model(x).float()
        highest = logits.max(1).values
        with torch_vit.explaining(0.0):
            (g,) = torch.autograd.grad((highest / highest.detach()).sum(), x)
        return (x * g).detach().abs().sum()

    serve(call, {**clock.seconds, "images": row.batch}, lambda: torch_peak_gb(torch))


def zennit_side(network: str, composite: str, precision: str, setting: Setting) -> None:
    clock = Clock()
    import torch
    import zennit.attribution
    import zennit.composites
    import zennit.rules
    import zennit.types
    from zennit.torchvision import ResNetCanonizer, VGGCanonizer

    device = on_torch(torch)
    clock.tick("import")
    row = row_of(network, setting)
    model, x = torch_network(network, row, device)
    model = model.to(memory_format=torch.channels_last)
    x = x.contiguous(memory_format=torch.channels_last)
    if precision == "bfloat16":
        model, x = model.bfloat16(), x.bfloat16()
    canonizer = VGGCanonizer() if network.startswith("vgg") else ResNetCanonizer()
    if network.startswith("vgg") and row.size == 224:
        model.avgpool = torch.nn.Identity()  # It is one; zennit would divide by its z + 1e-6.
    if composite == "Epsilon":
        base = zennit.composites.layer_map_base()
        rules = [*base, (zennit.types.Linear, zennit.rules.Epsilon(EPSILON))]
        composed = zennit.composites.LayerMapComposite(layer_map=rules, canonizers=[canonizer])
    else:
        composed = zennit.composites.EpsilonPlusFlat(canonizers=[canonizer])
    with torch.no_grad():
        seed = torch.nn.functional.one_hot(model(x).argmax(1), row.classes).to(x.dtype)
    attributor = zennit.attribution.Gradient(model, composed)
    attributor.__enter__()  # Its hooks are registered once, outside of what is timed.
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.eps = 1e-30  # As good as 0, which PyTorch refuses since 2.11.
    clock.tick("build")
    serve(
        lambda: attributor(x, seed)[1].detach().float().abs().sum(),
        {**clock.seconds, "images": row.batch},
        lambda: torch_peak_gb(torch),
    )


SIDES = {"jax": jax_side, "torch": torch_side, "zennit": zennit_side}


def main(side: str, network: str, composite: str, precision: str, setting: str) -> None:
    SIDES[side](network, composite, precision, Setting(**json.loads(setting)))


if __name__ == "__main__":
    main(*sys.argv[1:])
