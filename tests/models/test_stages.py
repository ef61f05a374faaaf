"""Stages of a network: every parameter lies in one, and they follow each other to the head."""

from __future__ import annotations

import pytest
from flax import nnx

from isnet_jax import models
from isnet_jax.models.layers import Linear
from isnet_jax.models.network import Network

COUNTS = {"small": 3, "compact": 4, "resnet": 5, "vgg": 7, "densenet": 5, "vit_": 13, "vit_l": 25}


@pytest.mark.parametrize("name", ["small", "compact", "resnet18", "resnet50", "vgg11_bn",
                                  "densenet121", "vit_s_16", "vit_l_16"])  # fmt: skip
def test_every_parameter_lies_in_a_stage(name: str):
    model = nnx.eval_shape(lambda: models.create(name, num_classes=3, rngs=nnx.Rngs(0)))
    expected = [count for family, count in COUNTS.items() if name.startswith(family)][-1]
    assert len(model.stages) == expected
    paths = [".".join(map(str, p)) for p, _ in nnx.to_flat_state(nnx.state(model, nnx.Param))]
    numbers = [model.stage_of(path) for path in paths]
    assert set(numbers) == set(range(expected + 1))
    assert sum(number == expected for number in numbers) == 2


def test_a_network_that_says_nothing_has_one_stage():
    class Tiny(Network):
        def __init__(self, rngs: nnx.Rngs):
            super().__init__(rngs=rngs)
            self.body = Linear(2, 2, rngs=rngs)
            self.fc = Linear(2, 2, rngs=rngs)

        @property
        def head(self):
            return self.fc

    tiny = Tiny(nnx.Rngs(0))
    assert (tiny.stage_of("body.kernel"), tiny.stage_of("fc.kernel")) == (0, 1)
