"""Hierarchical attention mining: where a class is seen, something is, and it lies in the mask."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jax import lax
from jaxtyping import Array, Float

from isnet_jax.errors import UserError
from isnet_jax.methods.maps import network_with_maps, resized, stretched
from isnet_jax.methods.method import Blueprint, Context, LossAndAux, Method
from isnet_jax.models.layers import Linear, Maps
from isnet_jax.models.network import Network
from isnet_jax.objective.batch import Batch
from isnet_jax.objective.classification import classified

_STEEPNESS, _MASK_THRESHOLD, _THRESHOLD = 100.0, 0.4, 0.75  # As the authors' settings have them.
_FLOOR = 1e-5


class Hierarchy(nnx.Module):
    """A classifier, and a second head of its features: whether there is anything to be found."""

    def __init__(self, classifier: Network, rngs: nnx.Rngs):
        self.classifier = classifier
        self.anything = Linear(classifier.head.kernel[...].shape[0], 1, rngs=rngs)


@dataclasses.dataclass(frozen=True, kw_only=True)
class HAM(Method):
    """Ouyang et al., IEEE Transactions on Medical Imaging 40:2698, 2021.

    Class attention maps of the last maps M: `A_c = relu(M w_c)` for each class c of the image, and
    `A = relu(M w)` for "anything", with the heads' weights as constants. Beside the classification
    loss and the binary cross-entropy of "anything" (true but for images of `nothing`):

    - bound, the mean over the image's classes of
      `1 - sum min(A_c, A) * s(A_c) / sum A_c`: a class is seen only where anything is;
    - union, `1 - sum min(max_c A_c, A) * s(A) / sum A`: anything only where a class is;
    - mask, the mean over the image's classes of `sum (H_c - mask)^2 / sum (H_c + mask)`, with H_c
      the map at the image's size, stretched from 0 to 1, `sigmoid(100 * (H - 0.4))` of it.

    Sums are over places, and s is `sigmoid(100 * (A - 0.75))`. The losses are means over samples
    (of the mask, over those that have one); images of `nothing` count 0. The network is the user's
    with its mean over places; the authors' has a block of attention more and another pooling.

    Attributes:
      anything_weight, mask_weight, bound_weight, union_weight: at least 0; the authors'.
      nothing: numbers of the classes that mean that there is nothing, such as "normal".
    """

    name: ClassVar[str] = "ham"

    anything_weight: float = 0.01
    mask_weight: float = 0.5
    bound_weight: float = 0.001
    union_weight: float = 0.001
    nothing: tuple[int, ...] = ()

    def __post_init__(self):
        for field in ("anything_weight", "mask_weight", "bound_weight", "union_weight"):
            if not 0 <= getattr(self, field) < float("inf"):
                raise UserError(
                    f"ham: {field} is {getattr(self, field)}; expected finite, at least 0."
                )
        if min(self.nothing, default=0) < 0:
            raise UserError(f"ham: nothing is {self.nothing}; expected numbers of classes.")

    def network(self, blueprint: Blueprint) -> nnx.Module:
        if max(self.nothing, default=0) >= blueprint.num_classes:
            raise UserError(
                f"ham: nothing is {self.nothing}; expected numbers of the "
                f"{blueprint.num_classes} classes, from 0 on."
            )
        classifier = network_with_maps(self.name, blueprint.classifier())
        return Hierarchy(classifier, blueprint.rngs)

    def deployed(self, model: nnx.Module) -> nnx.Module:
        assert isinstance(model, Hierarchy)
        return model.classifier

    def loss(self, model: nnx.Module, batch: Batch, context: Context) -> LossAndAux:
        assert isinstance(model, Hierarchy)
        batch = batch.annotated()
        network = model.classifier
        maps = network.maps(network.prepared(batch.image))
        if maps.shape[-1] != (read := network.head.kernel[...].shape[0]):
            raise UserError(
                f"ham weights the {maps.shape[-1]} last maps by the head, and the head of a "
                f"{type(network).__name__} reads {read} features; expected a network whose "
                "features are the maps' means, such as compact, a ResNet or a DenseNet."
            )
        features = network.pooled(maps)
        logits = network.decided(features)
        there = self._there(batch, logits.shape[1])
        right = classified(logits, batch, self.classification, context.axis_name)
        found = optax.sigmoid_binary_cross_entropy(
            _wide(model.anything(features))[:, 0], there.max(1)
        ).mean()
        classes, anything = (_attention(maps, head) for head in (network.head, model.anything))
        bound, union = (x.mean() for x in ordered(classes, anything[..., 0], there))
        weights, mask = batch.weighted_masks(context.axis_name)
        masked = weights @ apart(classes, mask[..., 0], there).astype(weights.dtype)
        loss = (
            right
            + self.anything_weight * found
            + self.mask_weight * masked
            + self.bound_weight * bound
            + self.union_weight * union
        )
        parts = {"anything": found, "masked": masked, "bound": bound, "union": union}
        return loss, {"logits": logits, "classification": right, **parts}

    def _there(self, batch: Batch, classes: int) -> Float[Array, "batch classes"]:
        """1 for the classes of each image that can be seen in it."""
        label = batch.label
        there = label > 0.5 if label.ndim == 2 else jax.nn.one_hot(label, classes)
        seen = jnp.array([number not in self.nothing for number in range(classes)])
        return (there * seen).astype(float)


Attentions = Float[Array, "batch rows columns classes"]


def ordered(
    classes: Attentions,
    anything: Float[Array, "batch rows columns"],
    there: Float[Array, "batch classes"],
) -> tuple[Float[Array, " batch"], Float[Array, " batch"]]:
    """Of each sample the bound loss and the union loss, 0 where nothing is."""
    seen = classes * there[:, None, None]
    bounds = 1 - _share(jnp.minimum(seen, anything[..., None]) * _decisive(seen), seen)
    any_class = lax.top_k(seen, 1)[0]
    inside = jnp.minimum(any_class, anything[..., None]) * _decisive(anything[..., None])
    union = 1 - _share(inside, anything[..., None])[:, 0]
    return _mean_of(bounds, there), union * there.max(1)


def apart(
    classes: Attentions,
    mask: Float[Array, "batch height width"],
    there: Float[Array, "batch classes"],
) -> Float[Array, " batch"]:
    """Of each sample the mask loss, 0 where nothing is."""

    def of_class(attention: Float[Array, "batch rows columns"]) -> Float[Array, " batch"]:
        whole = stretched(resized(attention, mask.shape[1:]))
        drawn = jax.nn.sigmoid(_STEEPNESS * (whole - _MASK_THRESHOLD))
        total = (drawn + mask).sum((1, 2))
        return ((drawn - mask) ** 2).sum((1, 2)) / jnp.maximum(total, _FLOOR)

    return _mean_of(jax.vmap(of_class, 3, 1)(classes), there)


def _attention(maps: Maps, head: Linear) -> Attentions:
    return _wide(nnx.relu(maps @ lax.stop_gradient(head.kernel[...]).astype(maps.dtype)))


def _decisive(attention: Array) -> Array:
    return jax.nn.sigmoid(_STEEPNESS * (attention - _THRESHOLD))


def _share(part: Attentions, whole: Attentions) -> Float[Array, "batch classes"]:
    return part.sum((1, 2)) / jnp.maximum(whole.sum((1, 2)), _FLOOR)


def _mean_of(
    values: Float[Array, "batch classes"], there: Float[Array, "batch classes"]
) -> Float[Array, " batch"]:
    """Over the classes of each sample."""
    return (values * there).sum(1) / jnp.maximum(there.sum(1), 1)


def _wide(x: Array) -> Array:
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))
