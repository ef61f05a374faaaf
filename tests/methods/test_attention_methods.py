"""GAIN, HAM and attention gates against their formulas in NumPy, and finite differences."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import one_layer as line
import pytest
from flax import nnx
from helpers import of_parameters

from isnet_jax import Classification, UserError
from isnet_jax.methods import Blueprint, Method
from isnet_jax.methods.attention_gated import AttentionGated, Gate, Supervised
from isnet_jax.methods.gain import GAIN
from isnet_jax.methods.ham import HAM, Hierarchy
from isnet_jax.models.layers import Linear, average_pool
from isnet_jax.models.network import Network
from isnet_jax.models.unet import UNet

pytestmark = pytest.mark.usefixtures("x64")
RNG = np.random.default_rng(2)
MAPS, HEAD, ANYTHING = RNG.normal(size=(3, 5)), RNG.normal(size=(5, 3)), RNG.normal(size=(5, 1))
MOVED = [RNG.normal(size=array.shape) for array in (MAPS, HEAD, ANYTHING)]
IMAGE, MASK, LABEL = line.IMAGE, line.MASK[..., 0], line.LABEL
SAMPLES = np.arange(line.SAMPLES)
LARGER = np.array([[1, 0], [0.75, 0.25], [0.25, 0.75], [0, 1]])  # Bilinear, 2 to 4.


class Mapped(Network):
    """Means of 2x2 pixels, a dense layer at each place, ReLU."""

    def __init__(self):
        super().__init__(rngs=nnx.Rngs(0))
        self.kernel = nnx.Param(jnp.asarray(MAPS))
        self.fc = Linear(5, 3, rngs=nnx.Rngs(0))
        self.fc.kernel.set_value(jnp.asarray(HEAD))

    @property
    def head(self):
        return self.fc

    def maps(self, x):
        return nnx.relu(average_pool(x, 2) @ self.kernel[...])


def maps_of(image: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    return np.maximum(image.reshape(-1, 2, 2, 2, 2, 3).mean((2, 4)) @ kernel, 0)


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def true_class(logits: np.ndarray) -> np.ndarray:
    powers = np.exp(logits)
    return powers[SAMPLES, LABEL] / powers.sum(1)


def enlarged(attention: np.ndarray) -> np.ndarray:
    """At the images' size, from 0 to 1."""
    large = np.einsum("ih,bhw,jw->bij", LARGER, attention, LARGER)
    lowest, highest = (f((1, 2), keepdims=True) for f in (large.min, large.max))
    return (large - lowest) / np.where(highest > lowest, highest - lowest, 1)


def gain(kernel: np.ndarray, head: np.ndarray, channels: np.ndarray) -> float:
    maps = maps_of(IMAGE, kernel)
    attention = np.einsum("bhwf,fb->bhw", maps, channels[:, LABEL] / 4)
    attention = enlarged(np.maximum(attention, 0))
    erased = IMAGE * (1 - sigmoid(10 * (attention - 0.5)))[..., None]
    mined = true_class(maps_of(erased, kernel).mean((1, 2)) @ head)
    right = -np.log(true_class(maps.mean((1, 2)) @ head))
    guided = ((attention - MASK) ** 2).mean((1, 2))
    return (right + 0.5 * mined + 10 * guided).mean()


def value_and_slopes(method: Method, model: nnx.Module) -> tuple[float, float]:
    """The loss, and its derivative along MOVED."""
    loss, parameters = of_parameters(
        model, lambda model: method.loss(model, line.batch(), line.CONTEXT)[0]
    )
    value, gradient = jax.jit(jax.value_and_grad(loss))(parameters)
    by_shape = {leaf.shape: leaf for leaf in jax.tree.leaves(gradient)}
    shared = [(by_shape[move.shape] * move).sum() for move in MOVED if move.shape in by_shape]
    return float(value), float(sum(shared))


def slope(function, step: float = 1e-6) -> float:
    ahead, behind = (function(*(step * sign * move for move in MOVED)) for sign in (1, -1))
    return (ahead - behind) / (2 * step)


@pytest.mark.parametrize("constant", [True, False])
def test_gain(constant: bool):
    method = GAIN(mining_weight=0.5, constant_weights=constant)
    value, found = value_and_slopes(method, Mapped())
    assert value == pytest.approx(gain(MAPS, HEAD, HEAD), rel=1e-7)

    def moved(kernel, head, _):
        return gain(MAPS + kernel, HEAD + head, HEAD if constant else HEAD + head)

    assert found == pytest.approx(slope(moved), rel=1e-5)


def ham(kernel: np.ndarray, head: np.ndarray, anything: np.ndarray) -> float:
    maps = maps_of(IMAGE, kernel)
    features = maps.mean((1, 2))
    present = LABEL != 2  # Class 2 is that of nothing.
    chance = sigmoid(features @ anything)[:, 0]
    found = -np.log(np.where(present, chance, 1 - chance))
    # Of the heads, attention has the values before they are moved.
    seen = np.maximum(maps @ HEAD, 0)[SAMPLES, :, :, LABEL]
    whole = np.maximum(maps @ ANYTHING, 0)[..., 0]

    def missing(attention: np.ndarray) -> np.ndarray:
        inside = np.minimum(seen, whole) * sigmoid(100 * (attention - 0.75))
        return 1 - inside.sum((1, 2)) / np.maximum(attention.sum((1, 2)), 1e-5)

    drawn = sigmoid(100 * (enlarged(seen) - 0.4))
    masked = ((drawn - MASK) ** 2).sum((1, 2)) / (drawn + MASK).sum((1, 2))
    attended = 0.5 * masked + 0.2 * missing(seen) + 0.1 * missing(whole)
    return (-np.log(true_class(features @ head)) + 0.3 * found + present * attended).mean()


def test_ham():
    model = Hierarchy(Mapped(), nnx.Rngs(0))
    model.anything.kernel.set_value(jnp.asarray(ANYTHING))
    method = HAM(anything_weight=0.3, bound_weight=0.2, union_weight=0.1, nothing=(2,))
    value, found = value_and_slopes(method, model)
    assert value == pytest.approx(ham(MAPS, HEAD, ANYTHING), rel=1e-7)

    def moved(kernel, head, anything):
        return ham(MAPS + kernel, HEAD + head, ANYTHING + anything)

    assert found == pytest.approx(slope(moved), rel=1e-5)


def test_samples_without_a_mask_are_not_compared_with_one():
    some = line.batch(has_mask=jnp.asarray(SAMPLES < 2))
    _, aux = GAIN().loss(Mapped(), some, line.CONTEXT)
    attention = np.einsum("bhwf,fb->bhw", maps_of(IMAGE, MAPS), HEAD[:, LABEL])
    guided = ((enlarged(np.maximum(attention, 0)) - MASK) ** 2).mean((1, 2))[:2].mean()
    assert float(aux["guided"]) == pytest.approx(guided, rel=1e-6)


def test_a_gate():
    gate = Gate(2, 3, rngs=nnx.Rngs(0))
    convolutions = (gate.theta, gate.phi, gate.psi)
    theta, phi, psi = (np.asarray(part.kernel[...])[0, 0] for part in convolutions)
    maps, signal = RNG.normal(size=(4, 4, 4, 2)), RNG.normal(size=(4, 2, 2, 3))
    coarse = np.kron(signal @ phi, np.ones((1, 2, 2, 1)))
    q = (np.maximum(maps @ theta + coarse, 0) @ psi)[..., 0]
    above = q - q.min((1, 2), keepdims=True)
    weights = above / above.sum((1, 2), keepdims=True)
    found = jax.jit(lambda *given: gate(*given))(maps, signal)
    np.testing.assert_allclose(found, np.einsum("bhwf,bhw->bf", maps, weights), rtol=1e-6)


def test_heads_of_parts_are_supervised_beside_that_of_all():
    method = AttentionGated(widths=(2, 3, 4), head_weight=0.2)
    model = method.network(Blueprint(3, IMAGE.shape[1:], nnx.Rngs(0), Mapped))
    assert isinstance(model, Supervised)
    model.eval()

    def found(model):
        images = jnp.asarray(IMAGE)
        loss, aux = method.loss(model, line.batch(), line.CONTEXT)
        return loss, aux["logits"], method.deployed(model)(images), model.network.embed(images)

    run, parameters = of_parameters(model, found)
    value, logits, deployed, features = jax.jit(run)(parameters)
    parts = np.split(np.asarray(features), np.cumsum(model.network.widths)[:-1], 1)
    every = [(model.network.fc, features), *zip(model.heads, parts, strict=True)]
    losses = [
        -np.log(true_class(part @ np.asarray(head.kernel[...]) + np.asarray(head.bias[...])))
        for head, part in every
    ]
    weights = (1, 0.2, 0.2, 0.2)
    expected = sum(w * own.mean() for w, own in zip(weights, losses, strict=True))
    assert float(value) == pytest.approx(expected, rel=1e-6)
    np.testing.assert_array_equal(deployed, logits)


def test_networks_that_do_not_fit():
    with pytest.raises(UserError, match="has no maps"):
        UNet(1, widths=(2, 2), rngs=nnx.Rngs(0)).maps(jnp.zeros((1, 4, 4, 3)))

    class Pooled(Mapped):
        def pooled(self, maps):
            return maps[:, 0, 0, :4]

    other = Pooled()
    other.fc = Linear(4, 3, rngs=nnx.Rngs(0))
    with pytest.raises(UserError, match="reads 4 features"):
        HAM().loss(Hierarchy(other, nnx.Rngs(0)), line.batch(), line.CONTEXT)
    with pytest.raises(UserError, match="does not say"):
        GAIN().loss(line.Line(), line.batch(), line.CONTEXT)


def test_options_out_of_range():
    for make in (
        lambda: GAIN(mask_weight=-1),
        lambda: GAIN(classification=Classification(task="multilabel")),
        lambda: HAM(bound_weight=float("inf")),
        lambda: HAM(nothing=(-1,)),
        lambda: HAM(nothing=(3,)).network(Blueprint(3, IMAGE.shape[1:], nnx.Rngs(0), Mapped)),
        lambda: AttentionGated(widths=(4, 4)),
        lambda: AttentionGated(head_weight=-1),
    ):
        with pytest.raises(UserError, match="expected"):
            make()
