"""Explanation distillation: its distance, its teacher, and what stays of it."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from tiny_training import ISNET, SMALL, Silent, arrays, split

from isnet_jax.methods import Blueprint, Context
from isnet_jax.methods.tea import TEA, distance
from isnet_jax.objective.batch import Batch
from isnet_jax.training import fit, load_network


def test_distance():
    rng = np.random.default_rng(0)
    found, wanted = rng.normal(size=(2, 2, 5, 4, 4, 3))
    over = (0, 2, 3, 4)
    size = np.sqrt(np.abs(found).mean(over) * np.abs(wanted).mean(over))
    expected = np.abs(found - wanted).mean(over) / size
    np.testing.assert_allclose(distance(*map(jnp.asarray, (found, wanted))), expected, rtol=1e-5)


def test_who_equals_the_teacher_has_nothing_to_learn_where_there_is_no_background():
    rngs = nnx.Rngs(0)
    blueprint = Blueprint(SMALL.num_classes, SMALL.image_shape, rngs, SMALL.create)
    lesson = TEA().network(blueprint)
    lesson.student.eval()
    batch = {k: jnp.asarray(v) for k, v in split(4).batch(slice(None)).items()}
    context = Context(jax.random.key(0))
    whole = Batch.of(batch | {"mask": jnp.ones_like(batch["mask"])})
    assert float(TEA().loss(lesson, whole, context)[0]) < 1e-5
    assert float(TEA().loss(lesson, Batch.of(batch), context)[0]) > 1e-2


def test_the_student_keeps_the_teachers_head(tmp_path: Path):
    training = dataclasses.replace(ISNET, objective=TEA(teacher_epochs=1), epochs=1)
    fit(SMALL, training, split(24), split(10, 1), tmp_path, Silent())
    student, teacher = (arrays(load_network(tmp_path / f)[0]) for f in ("", "earlier"))
    assert student.keys() == teacher.keys()
    for name in teacher:
        same = (student[name] == teacher[name]).all()
        assert same == ("fc" in name), name
