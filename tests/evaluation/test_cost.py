"""What a network costs: of one dense layer by hand, and with a segmenter before it."""

from __future__ import annotations

import one_layer as line
import pytest
from flax import nnx

from isnet_jax.evaluation.cost import run_time
from isnet_jax.methods.segmentation import Masking
from isnet_jax.models.layers import Linear

SHAPE = (line.SIDE, line.SIDE, 3)


def test_a_dense_layer():
    found = run_time(line.Line(), SHAPE)
    assert found.parameters == line.KERNEL.size
    assert found.flop == pytest.approx(2 * line.KERNEL.size)


def test_a_segmenter_counts():
    found = run_time(Masking(Linear(3, 1, rngs=nnx.Rngs(0)), line.Line()), SHAPE)
    assert found.parameters == line.KERNEL.size + 3 + 1
    assert found.flop is not None
    assert found.flop >= 2 * line.KERNEL.size + 2 * 3 * line.SIDE**2
