"""Explanation distillation: a student learns the heatmaps of a teacher, and nothing else."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from isnet_jax import lrp
from isnet_jax.errors import UserError
from isnet_jax.methods.held import hold, released
from isnet_jax.methods.method import Blueprint, Context, Earlier, LossAndAux, Method
from isnet_jax.methods.teacher import Teacher, segmented
from isnet_jax.models.network import Network, in_mode
from isnet_jax.objective.batch import Batch
from isnet_jax.objective.loss import pure_forward

_FLOOR = 1e-10
Heatmaps = Float[Array, "k batch height width channels"]


class Lesson(nnx.Module):
    """A student, with its teacher's head, and the teacher, which is not trained."""

    def __init__(self, student: nnx.Module, teacher: nnx.Module):
        assert isinstance(student, Network)
        hold(student.head)
        self.student, self.teacher = student, hold(teacher)


@dataclasses.dataclass(frozen=True, kw_only=True)
class TEA(Method):
    """Bassi, Cavalli and Decherchi, arXiv 2407.09788, with a teacher of segmented images.

    The teacher is trained on images without background. The student sees whole images, has the
    teacher's head, which stays, and learns by heatmaps alone: for the teacher's highest logit and
    a random other one, LRP of the student, R, and of the teacher on the segmented image, T, differ
    by `mean |R - T| / sqrt(mean |R| * mean |T|)`, the means over both logits, pixels and channels,
    which leaves the student's scale free. The authors explain one logit. No labels are used.

    Attributes:
      lrp_epsilon: LRP-epsilon's stabiliser, with z^B at the first layer; at least 0.
      teacher_epochs: None: as many as the student's.
    """

    name: ClassVar[str] = "tea"

    lrp_epsilon: float = 1e-2
    teacher_epochs: int | None = None

    def __post_init__(self):
        if not 0 <= self.lrp_epsilon < float("inf"):
            raise UserError(f"tea: lrp_epsilon is {self.lrp_epsilon}; expected finite, at least 0.")
        if self.teacher_epochs is not None and self.teacher_epochs < 1:
            raise UserError(f"tea: teacher_epochs is {self.teacher_epochs}; expected at least 1.")

    @property
    def earlier(self) -> Earlier:
        return Earlier(Teacher(classification=self.classification), self.teacher_epochs)

    def network(self, blueprint: Blueprint) -> nnx.Module:
        return Lesson(blueprint.classifier(), blueprint.classifier())

    def begin(self, model: nnx.Module, earlier: nnx.Module) -> None:
        assert isinstance(model, Lesson)
        assert isinstance(earlier, Network)
        copy = nnx.clone(earlier)
        nnx.update(model.teacher, nnx.state(hold(copy)))
        assert isinstance(copy, Network)
        assert isinstance(model.student, Network)
        nnx.update(model.student.head, nnx.state(copy.head))

    def deployed(self, model: nnx.Module) -> nnx.Module:
        assert isinstance(model, Lesson)
        return released(model.student)

    def loss(self, model: nnx.Module, batch: Batch, context: Context) -> LossAndAux:
        assert isinstance(model, Lesson)
        batch = batch.annotated()
        alone = segmented(batch, context.axis_name).image
        teacher = in_mode(model.teacher, training=False)
        logits, pullback, _ = self._explained(teacher, alone)
        seeds = _seeds(logits, context.key, batch.numbers(context.axis_name))
        taught = jax.vmap(pullback)(seeds)
        logits, pullback, changed = self._explained(model.student, batch.image)
        nnx.update(model.student, changed)
        weights, _ = batch.weighted_masks(context.axis_name)
        apart = weights @ distance(jax.vmap(pullback)(seeds), taught).astype(weights.dtype)
        return apart, {"logits": logits}

    def _explained(self, network: nnx.Module, image: Array):
        box = lrp.ZBox(0.0, 1.0, self.lrp_epsilon)
        rules = lrp.ISNetFlex(self.lrp_epsilon, box, batch_statistics="constant")
        return lrp.vjp(pure_forward(network), image, rules=rules, has_aux=True)


def distance(found: Heatmaps, wanted: Heatmaps) -> Float[Array, " batch"]:
    """Of each sample the mean difference, by the geometric mean of both sizes."""
    over = (0, 2, 3, 4)
    found, wanted = (x.astype(jnp.promote_types(x.dtype, jnp.float32)) for x in (found, wanted))
    size = jnp.sqrt(jnp.abs(found).mean(over) * jnp.abs(wanted).mean(over) + _FLOOR**2) + _FLOOR
    return jnp.abs(found - wanted).mean(over) / size


def _seeds(
    logits: Float[Array, "batch classes"], key: Array, numbers: Array
) -> Float[Array, "2 batch classes"]:
    """The highest logit, and any other."""
    classes = logits.shape[1]
    highest = logits.argmax(1)

    def draw(number: Array) -> Array:
        return jax.random.randint(jax.random.fold_in(key, number), (), 1, max(classes, 2))

    other = (highest + jax.vmap(draw)(numbers)) % classes
    return jax.nn.one_hot(jnp.stack([highest, other]), classes, dtype=logits.dtype)
