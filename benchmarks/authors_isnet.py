"""The authors' own code as a side of accelerator.py, from a folder that is given.

Their repository is https://github.com/PedroRASB/FasterISNet; nothing of it is here. It computes in
float32 only.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from step_workers import CLIP, LEARNING_RATE, MOMENTUM, Row, data, weights

NETWORKS = ("resnet18", "resnet50", "densenet121")
MODES = {
    "plain": {"selective": True},
    "selective": {"selective": True},
    "stochastic": {"randomLogit": True, "multiple": False},
    "original": {"multiple": True},
}
HEATMAP_WEIGHT = 0.7
_LOSS = {"d": 0.9, "cutFlex": 1.0, "cut2Flex": 25.0, "alternativeForeground": "L2"}


def training(folder: Path, row: Row, mode: str, device: str) -> Callable[[], Any]:
    """Their step on the shared weights and data; it returns its loss, a tensor on the device."""
    found = sorted(folder.rglob("ISNetFlexTorch.py"))
    if not found:
        raise SystemExit(f"{folder} has no ISNetFlexTorch.py, the authors' code.")
    sys.path.insert(0, str(found[0].parent))
    theirs = importlib.import_module("ISNetFlexTorch")
    options = {"multiple": False} | MODES[mode]
    net = theirs.ISNetFlex(
        architecture=row.network, classes=row.classes, selectiveEps=1e-2, e=1e-2, **options
    )
    drawn = weights({n: tuple(v.shape) for n, v in net.model.state_dict().items() if v.ndim})
    net.model.load_state_dict({n: torch.from_numpy(v) for n, v in drawn.items()}, strict=False)
    net = net.to(device).train()
    images, mask, labels = data(row)
    x = torch.from_numpy(images.transpose(0, 3, 1, 2).copy()).to(device)
    m = torch.from_numpy(mask.transpose(0, 3, 1, 2).copy()).to(device)
    y = torch.from_numpy(labels).to(device)
    parameters = list(net.model.parameters())
    optimiser = torch.optim.SGD(parameters, LEARNING_RATE, momentum=MOMENTUM)

    def step() -> torch.Tensor:
        optimiser.zero_grad()
        out = net(x, runLRPFlex=mode != "plain")
        parts = theirs.CompoundLoss(out, y, masks=m, norm="absRoIMean", **_LOSS)
        loss = parts["classification"]
        if mode != "plain":
            loss = (1 - HEATMAP_WEIGHT) * loss + HEATMAP_WEIGHT * parts["LRPFlex"].mean()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, CLIP)
        optimiser.step()
        return loss.detach()

    return step
