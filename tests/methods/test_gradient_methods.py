"""RRR and R4 against their formulas, written down for a network of one layer."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import one_layer as line
import pytest
from flax import nnx

from isnet_jax import ISNetConfig, UserError
from isnet_jax.methods.gradient_input import GradientInput
from isnet_jax.methods.r4 import R4
from isnet_jax.methods.rrr import RRR

pytestmark = pytest.mark.usefixtures("x64")
DIRECTION = np.random.default_rng(1).normal(size=line.KERNEL.shape)
STEP = 1e-6


def rrr(kernel: np.ndarray, image: np.ndarray = line.IMAGE) -> float:
    chances = line.probabilities(kernel, image)
    gradient = (1 - line.CLASSES * chances) @ kernel.T
    reasons = ((line.outside() * gradient) ** 2).sum(1).mean()
    return line.cross_entropies(kernel).mean() + 0.7 * reasons


def test_rrr():
    value, slope = line.loss_and_slope(RRR(weight=0.7), DIRECTION)
    assert value == pytest.approx(rrr(line.KERNEL), rel=1e-9)
    ahead, behind = (rrr(line.KERNEL + s * STEP * DIRECTION) for s in (1, -1))
    assert slope == pytest.approx((ahead - behind) / (2 * STEP), rel=1e-6)


def test_the_weight_of_rrr_does_not_depend_on_the_batch():
    once, _ = line.loss_and_slope(RRR(), DIRECTION)
    doubled = jax.tree.map(lambda a: jnp.concatenate([a, a]), line.batch())
    value, _ = RRR().loss(line.Line(), doubled, line.CONTEXT)
    assert float(value) == pytest.approx(once, rel=1e-9)


def test_samples_without_a_mask_are_only_classified_by_rrr():
    has_mask = np.arange(line.SAMPLES) < 2
    _, aux = RRR().loss(line.Line(), line.batch(has_mask=jnp.asarray(has_mask)), line.CONTEXT)
    gradient = (1 - line.CLASSES * line.probabilities()) @ line.KERNEL.T
    reasons = ((line.outside() * gradient) ** 2).sum(1)[:2].mean()
    assert float(aux["reasons"]) == pytest.approx(reasons, rel=1e-9)


def loss_gradient(kernel: np.ndarray, image: np.ndarray) -> np.ndarray:
    """Of each sample's cross-entropy by the background."""
    return line.outside() * (
        (line.probabilities(kernel, image) - np.eye(line.CLASSES)[line.LABEL]) @ kernel.T
    )


def attacked(steps: int, radius: float) -> np.ndarray:
    image, kernel = line.IMAGE, line.KERNEL
    for _ in range(steps):
        chances = line.probabilities(kernel, image)
        spread = chances[:, :, None] * (np.eye(line.CLASSES) - chances[:, None])
        rise = 2 * loss_gradient(kernel, image) @ kernel @ np.eye(line.CLASSES)
        rise = np.einsum("nk,nkj,dj->nd", rise, spread, kernel) * line.outside()
        moved = image + radius * np.sign(rise).reshape(image.shape)
        image = np.clip(np.clip(moved, line.IMAGE - radius, line.IMAGE + radius), 0, 1)
    return image


@pytest.mark.parametrize("norm", ["sum", "max"])
def test_r4(norm: str):
    image = attacked(steps=2, radius=0.2)
    assert (np.abs(image - line.IMAGE) * line.MASK).max() == 0

    def r4(kernel: np.ndarray) -> float:
        size = np.abs(loss_gradient(kernel, image))
        reasons = (size.sum(1) if norm == "sum" else size.max(1)).mean()
        return line.cross_entropies(kernel).mean() + 0.7 * reasons

    method = R4(weight=0.7, radius=0.2, steps=2, norm=norm)  # pyright: ignore
    value, slope = line.loss_and_slope(method, DIRECTION)
    assert value == pytest.approx(r4(line.KERNEL), rel=1e-9)
    ahead, behind = (r4(line.KERNEL + s * STEP * DIRECTION) for s in (1, -1))
    assert slope == pytest.approx((ahead - behind) / (2 * STEP), rel=1e-6)


def test_gradient_input_is_an_isnets_loss():
    config = ISNetConfig(variant="gradient_input", heatmap_weight=0.5, foreground_range=(0.1, 0.2))
    _, aux = GradientInput(objective=config).loss(line.Line(), line.batch(), line.CONTEXT)
    expected = np.moveaxis(line.IMAGE[..., None] * line.KERNEL.reshape(4, 4, 3, -1), -1, 1)
    np.testing.assert_allclose(aux["heatmaps"], expected)
    with pytest.raises(UserError, match="gradient_input"):
        GradientInput(objective=ISNetConfig())


@pytest.mark.parametrize(
    ("method", "wrong"),
    [(RRR, {"weight": -1}), (R4, {"radius": 0}), (R4, {"steps": 0}), (R4, {"norm": "mean"})],
)
def test_options_out_of_range(method: type, wrong: dict):
    with pytest.raises(UserError, match=next(iter(wrong))):
        method(**wrong)


def test_the_state_of_a_model_is_updated_once():
    """By the images as they are: an attack leaves no trace in running statistics."""

    class Counting(line.Line):
        def __init__(self):
            super().__init__()
            self.total = nnx.BatchStat(jnp.zeros(3, float))

        def __call__(self, x):
            self.total.set_value(self.total.get_value() + x.mean((0, 1, 2)))
            return super().__call__(x)

    for method in (RRR(), R4()):
        model = Counting()
        method.loss(model, line.batch(), line.CONTEXT)
        np.testing.assert_allclose(model.total.get_value(), line.IMAGE.mean((0, 1, 2)))
