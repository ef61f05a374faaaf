"""The U-Net: a logit for each pixel, at any size that its levels can halve."""

from __future__ import annotations

import jax.numpy as jnp
import pytest
from flax import nnx

from isnet_jax import UserError, models


@pytest.mark.parametrize("size", [(16, 16), (13, 11)])
def test_a_logit_for_each_pixel(size: tuple[int, int]):
    model = models.create("unet", num_classes=1, widths=(4, 6, 8), rngs=nnx.Rngs(0))
    model.eval()
    logits = nnx.eval_shape(lambda: model(jnp.zeros((2, *size, 3))))
    assert logits.shape == (2, *size, 1)


def test_it_is_no_classifier():
    assert "unet" not in models.list()
    model = models.create("unet", num_classes=1, rngs=nnx.Rngs(0))
    with pytest.raises(UserError, match="expected at least 8x8"):
        model(jnp.zeros((1, 4, 4, 3)))
    names = [".".join(map(str, p)) for p, _ in nnx.to_flat_state(nnx.state(model, nnx.Param))]
    assert {model.stage_of(name) for name in names} == set(range(8))
