"""Methods with a segmenter against small computations: masks that are cut out, masks beside."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import one_layer as line
import pytest
from flax import nnx
from helpers import of_parameters

from isnet_jax import UserError, models
from isnet_jax.evaluation import highest_logit_relevance
from isnet_jax.methods import Blueprint
from isnet_jax.methods.multitask import Multitask, TwoTasks
from isnet_jax.methods.segmentation import Masking, SegmentThenClassify
from isnet_jax.models.unet import UNet
from isnet_jax.objective.segmentation import Segmentation

pytestmark = pytest.mark.usefixtures("x64")
WEIGHTS = np.array([1.0, -2.0, 0.7])
IMAGE, MASK = line.IMAGE.astype(np.float64), line.MASK


class Sees(nnx.Module):
    """A segmenter of one weight for each channel."""

    def __init__(self):
        self.weights = nnx.Param(jnp.asarray(WEIGHTS))

    def __call__(self, x):
        return (x * self.weights[...]).sum(-1, keepdims=True)


def blueprint() -> Blueprint:
    rngs = nnx.Rngs(0)

    def classifier():
        return models.create("compact", num_classes=3, widths=(4,), rngs=rngs)

    return Blueprint(line.CLASSES, IMAGE.shape[1:], rngs, classifier)


def soft_overlap_loss(logits: np.ndarray) -> float:
    """One minus the soft Dice coefficient, the mean over the samples."""
    share = 1 / (1 + np.exp(-logits))
    over = (1, 2, 3)
    both = 2 * (share * MASK).sum(over) + 1
    return (1 - both / (share.sum(over) + MASK.sum(over) + 1)).mean()


def test_the_classifier_sees_the_mask_times_the_image():
    model = Masking(Sees(), line.Line())
    found = IMAGE @ WEIGHTS > 0
    assert 0.2 < found.mean() < 0.8
    powers = np.exp((IMAGE * found[..., None]).reshape(line.SAMPLES, -1) @ line.KERNEL)
    right = powers[np.arange(line.SAMPLES), line.LABEL] / powers.sum(1)
    value, _ = SegmentThenClassify().loss(model, line.batch(), line.CONTEXT)
    assert float(value) == pytest.approx(-np.log(right).mean(), rel=1e-9)


def test_the_segmenter_comes_first():
    method = SegmentThenClassify(pixels=Segmentation(dice_weight=1.0), segmenter_epochs=2)
    assert method.earlier is not None
    first, epochs = method.earlier
    assert (epochs, first.earlier) == (2, None)
    value, _ = first.loss(Masking(Sees(), line.Line()), line.batch(), line.CONTEXT)
    expected = soft_overlap_loss((IMAGE @ WEIGHTS)[..., None])
    assert float(value) == pytest.approx(expected, rel=1e-9)


def test_each_stage_trains_its_part_and_the_second_takes_over():
    method = SegmentThenClassify(widths=(2, 3))
    assert method.earlier is not None
    first = method.earlier.method
    before, after = first.network(blueprint()), method.network(blueprint())
    for model, part in ((before, "segmenter"), (after, "classifier")):
        trained = nnx.to_flat_state(nnx.state(model, nnx.Param))
        assert {path[0] for path, _ in trained} == {part}
    assert isinstance(before, Masking)
    assert isinstance(after, Masking)
    assert isinstance(before.segmenter, UNet)
    before.segmenter.head.bias.set_value(jnp.array([-0.1]))
    method.begin(after, first.deployed(before))
    deployed = method.deployed(after)
    assert isinstance(deployed, Masking)
    assert isinstance(deployed.segmenter, UNet)
    assert deployed.segmenter.head.bias[...] == -0.1
    assert nnx.to_flat_state(nnx.state(deployed.segmenter, nnx.Param))


def test_what_is_cut_out_has_no_relevance():
    model = Masking(Sees(), line.Line())
    outside = np.broadcast_to(IMAGE @ WEIGHTS <= 0, IMAGE.shape[:-1])
    relevance = highest_logit_relevance(model, IMAGE)
    assert np.abs(relevance[outside]).max() == 0 < np.abs(relevance[~outside]).min()


def test_multitask_is_the_sum_of_both_losses():
    method = Multitask(weight=0.3, widths=(2, 3), pixels=Segmentation(dice_weight=1.0))
    model = method.network(blueprint())
    assert isinstance(model, TwoTasks)
    model.eval()
    loss, parameters = of_parameters(
        model, lambda model: method.loss(model, line.batch(), line.CONTEXT)
    )
    value, aux = loss(parameters)
    logits, pixels = map(np.asarray, model(jnp.asarray(IMAGE)))
    powers = np.exp(logits)
    right = powers[np.arange(line.SAMPLES), line.LABEL] / powers.sum(1)
    expected = -np.log(right).mean() + 0.3 * soft_overlap_loss(pixels)
    assert float(value) == pytest.approx(expected, rel=1e-9)
    np.testing.assert_allclose(method.deployed(model)(jnp.asarray(IMAGE)), aux["logits"])


def test_the_shared_levels_are_those_of_a_unet():
    """Both heads read them, and at run time the way up is not there."""
    method = Multitask(widths=(2, 3))
    model = method.network(blueprint())
    paths = {path for path, _ in nnx.to_flat_state(nnx.state(model, nnx.Param))}
    assert {path[:2] for path in paths} >= {("encoder", "down"), ("encoder", "fc"), ("up", 0)}
    deployed = nnx.to_flat_state(nnx.state(method.deployed(model), nnx.Param))
    assert {path[0] for path, _ in deployed} == {"down", "fc"}


def test_options_out_of_range():
    for make in (
        lambda: SegmentThenClassify(widths=(4,)),
        lambda: SegmentThenClassify(segmenter_epochs=0),
        lambda: SegmentThenClassify(stage="mask"),  # pyright: ignore[reportArgumentType]
        lambda: Multitask(weight=-1),
        lambda: Multitask(widths=(4, 0)),
    ):
        with pytest.raises(UserError, match=r"expected|Did you mean|Known"):
            make()
