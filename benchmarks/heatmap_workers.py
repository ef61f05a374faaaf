"""One library in a process of its own, for heatmap_throughput.py.

    python heatmap_workers.py LIBRARY NETWORK COMPOSITE BATCH SIZE BITS FILE

Explains the highest logit of the same images with the same weights; the first heatmaps
(B, H, W, 3) go to FILE (.npy).
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch
import zennit.attribution
import zennit.composites
import zennit.rules
import zennit.types
from flax import nnx
from workers import one_heap_that_is_kept, serve
from zennit.torchvision import ResNetCanonizer, VGGCanonizer
from zennit_agreement import made, top_class

from isnet_jax import lrp, models
from isnet_jax.memory import keep_freed_memory
from isnet_jax.training import compiler_options

EPSILON = 1e-6


def epsilon_everywhere(**options: Any) -> zennit.composites.LayerMapComposite:
    """zennit's epsilon rule at every layer."""
    return zennit.composites.LayerMapComposite(
        layer_map=[
            *zennit.composites.layer_map_base(),
            (zennit.types.Linear, zennit.rules.Epsilon(EPSILON)),
        ],
        **options,
    )


# name -> zennit's composite, ours.
COMPOSITES: dict[str, tuple[Callable[..., Any], lrp.Composite]] = {
    "Epsilon": (
        epsilon_everywhere,
        lrp.Composite(layer=lrp.Epsilon(EPSILON), sum=lrp.Norm(), average=lrp.Norm()),
    ),
    "EpsilonPlusFlat": (zennit.composites.EpsilonPlusFlat, lrp.EpsilonPlusFlat()),
}
NETWORKS = {"vgg16": VGGCanonizer, "resnet50": ResNetCanonizer}


# Each library's call that explains `x` (B, 3, H, W) and returns heatmaps (B, H, W, 3).


def ours(model: torch.nn.Module, network: str, x: torch.Tensor, composite: str):
    rules = COMPOSITES[composite][1]
    copy = models.create(network, num_classes=10, rngs=nnx.Rngs(0))
    models.load_torch(copy, model.state_dict())
    copy.eval()
    graph, state = nnx.split(copy)

    def explain(state: Any, images: jax.Array) -> jax.Array:
        logits, pullback = lrp.vjp(nnx.merge(graph, state), images, rules=rules)
        highest = jax.nn.one_hot(logits.argmax(1), logits.shape[1])
        return pullback(highest / logits)

    run = jax.jit(explain, compiler_options=compiler_options())
    images = jnp.asarray(x.numpy().transpose(0, 2, 3, 1))
    return lambda: np.asarray(run(state, images))


def zennits(model: torch.nn.Module, network: str, x: torch.Tensor, composite: str):
    seed = top_class(model, x)
    composed = COMPOSITES[composite][0](canonizers=[NETWORKS[network]()])

    if network.startswith("vgg") and x.shape[-1] == 224:
        model.avgpool = torch.nn.Identity()  # It is one; zennit would divide by its z + 1e-6.
    attributor = zennit.attribution.Gradient(model, composed)
    attributor.__enter__()  # Its hooks are registered once, outside of what is timed.

    def run() -> np.ndarray:
        _, relevance = attributor(x, seed)
        return relevance.detach().numpy().transpose(0, 2, 3, 1)

    return run


def captums(model: torch.nn.Module, network: str, x: torch.Tensor, composite: str):
    import captum.attr
    import captum.attr._utils.lrp_rules as captum_rules

    del network, composite
    target = model(x).argmax(1)
    for module in model.modules():
        if isinstance(module, torch.nn.ReLU):
            module.inplace = False
    layers = (torch.nn.Conv2d, torch.nn.Linear, torch.nn.MaxPool2d, torch.nn.AdaptiveAvgPool2d)

    def run() -> np.ndarray:
        for module in model.modules():
            if isinstance(module, layers):
                module.rule = captum_rules.EpsilonRule(EPSILON)
        relevance = captum.attr.LRP(model).attribute(x, target=target)
        # captum's relevance is that of the logit, the others' that of 1.
        logit = model(x).gather(1, target[:, None])[:, :, None, None]
        return (relevance / logit).detach().numpy().transpose(0, 2, 3, 1)

    return run


LIBRARIES = {"isnet_jax": ours, "zennit": zennits, "captum": captums}


def libraries(network: str, composite: str) -> list[str]:
    """Those that know the rules: captum has neither batch norms' nor residual sums'."""
    with_captum = network.startswith("vgg") and composite == "Epsilon"
    return list(LIBRARIES) if with_captum else ["isnet_jax", "zennit"]


def main(
    library: str, network: str, composite: str, batch: int, size: int, bits: int, file: str
) -> None:
    if library == "isnet_jax":
        keep_freed_memory()
    else:
        one_heap_that_is_kept()
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    with jax.enable_x64(bits == 64):
        model, x = made(network, bits, batch=batch, size=size)
        explain = LIBRARIES[library](model, network, x, composite)
        np.save(file, explain())
        serve(lambda: float(explain().sum()), {})


if __name__ == "__main__":
    main(*sys.argv[1:4], *map(int, sys.argv[4:7]), sys.argv[7])
