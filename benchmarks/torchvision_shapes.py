"""Names and shapes of torchvision's state dicts, for tests/models/test_torchvision_shapes.py.

    python benchmarks/torchvision_shapes.py

Writes tests/models/torchvision_shapes.json.gz: network -> entry -> shape. Networks that torchvision
does not have are left out. Weights are not made, only their shapes.
"""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import torch
import torchvision

from isnet_jax import models

OUT = Path(__file__).parents[1] / "tests" / "models" / "torchvision_shapes.json.gz"


def main() -> None:
    shapes: dict[str, dict[str, list[int]]] = {}
    with torch.device("meta"):
        for name in sorted(set(models.list()) & set(torchvision.models.list_models())):
            network = torchvision.models.get_model(name, weights=None)
            shapes[name] = {k: list(v.shape) for k, v in network.state_dict().items()}
    text = json.dumps({"torchvision": torchvision.__version__, "shapes": shapes})
    OUT.write_bytes(gzip.compress(text.encode(), mtime=0))
    print(f"{OUT}: {', '.join(shapes)}; {OUT.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
