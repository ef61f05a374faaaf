"""Methods without masks against small computations: group DRO, JTT, DFR."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import one_layer as line
import pytest
from flax import nnx
from tiny_training import PLAIN, SMALL, Silent, arrays, split

from isnet_jax import Classification, UserError
from isnet_jax.methods.dfr import DFR, _balanced, _halves
from isnet_jax.methods.group_dro import GroupDRO, GroupWeights
from isnet_jax.methods.jtt import JTT
from isnet_jax.objective.batch import Whole
from isnet_jax.training import fit, load_network

GROUP = np.array([0, 2, 0, 2, 2])


def test_group_dro():
    """Two steps; group 1 is in no batch."""
    method = GroupDRO(step_size=0.5, adjustment=2.0, sizes=(4, 1, 9))
    model = line.Line()
    model.group_weights = GroupWeights(jnp.full(3, 1 / 3, float))
    own = line.cross_entropies()
    losses = np.array([own[GROUP == 0].mean(), 0, own[GROUP == 2].mean()])
    q = np.full(3, 1 / 3)
    for _ in range(2):
        q = q * np.exp(0.5 * np.array([losses[0] + 2 / 2, 0, losses[2] + 2 / 3]))
        q /= q.sum()
        value, aux = method.loss(model, line.batch(group=jnp.asarray(GROUP)), line.CONTEXT)
        assert float(value) == pytest.approx(q @ losses, rel=1e-5)
        assert float(aux["worst_group"]) == pytest.approx(losses.max(), rel=1e-5)
        np.testing.assert_allclose(model.group_weights[...], q, rtol=1e-5)


def test_validation_of_group_dro_is_the_same_in_parts():
    method = GroupDRO(sizes=(4, 1, 9))
    own = line.cross_entropies()
    expected = (own[GROUP == 0].mean() + own[GROUP == 2].mean()) / 2
    batch = line.batch(group=jnp.asarray(GROUP))
    whole = Whole(batch.label, None, batch.group)
    total = 0.0
    for rows in (slice(0, 2), slice(2, 5)):
        part = type(batch)(
            batch.image[rows], batch.label[rows], group=batch.group[rows], whole=whole
        )
        value, _ = method.validated(line.Line(), part, line.CONTEXT)
        total += float(value) * len(part) / len(batch)
    assert total == pytest.approx(expected, rel=1e-5)


def test_jtt():
    wrong = np.array([1, 0, 0, 1, 0])
    own = line.cross_entropies()
    weights = 1 + 4 * wrong
    method = JTT(upweight=5, mean_weight=2.0)
    value, _ = method.loss(line.Line(), line.batch(group=jnp.asarray(wrong)), line.CONTEXT)
    assert float(value) == pytest.approx((weights * own).mean() / 2, rel=1e-5)


def test_jtt_weighs_the_first_networks_mistakes():
    class Always(nnx.Module):
        def __call__(self, x):
            return jnp.zeros((len(x), 3)).at[:, 1].set(1)

    data = split(9)
    setup = JTT(upweight=4).setup(data, split(6, 1), Always())
    np.testing.assert_array_equal(setup.train.groups, data.labels != 1)
    assert isinstance(setup.method, JTT)
    assert setup.method.mean_weight == pytest.approx(3)  # two thirds with weight 4
    assert setup.validation.groups is None


def test_dfr_takes_half_of_the_held_out_data_balanced():
    groups = np.array([0, 1, 0, 0, 1, 0, 0])
    refit, judge = _halves(groups)
    assert (refit.tolist(), judge.tolist()) == ([0, 1, 3, 6], [2, 4, 5])
    balanced = _balanced(groups, refit)
    assert balanced.tolist() == [0, 1, 1, 1, 3, 6]


def test_dfr_moves_the_last_layer_alone(tmp_path: Path):
    validation = dataclasses.replace(split(40, 1), groups=split(40, 1).labels)
    training = dataclasses.replace(PLAIN, objective=DFR(), epochs=1)
    fit(SMALL, training, split(24), validation, tmp_path, Silent())
    refit, first = (arrays(load_network(tmp_path / f)[0]) for f in ("", "earlier"))
    assert refit.keys() == first.keys()
    moved = {name for name in first if (first[name] != refit[name]).any()}
    assert moved == {name for name in first if "fc" in name}


@pytest.mark.parametrize("method", [GroupDRO(), DFR()])
def test_data_without_groups(method, tmp_path: Path):
    training = dataclasses.replace(PLAIN, objective=method)
    with pytest.raises(UserError, match="which samples share"):
        fit(SMALL, training, split(24), split(10, 1), tmp_path, Silent())


def test_options_out_of_range():
    for make in (
        lambda: GroupDRO(step_size=0),
        lambda: GroupDRO(adjustment=-1),
        lambda: GroupDRO(classification=Classification(class_weights=(1.0, 2.0))),
        lambda: JTT(first_epochs=0),
        lambda: JTT(upweight=0.5),
        lambda: JTT(classification=Classification(task="multilabel")),
        lambda: DFR(l1=-1),
    ):
        with pytest.raises(UserError, match="expected"):
            make()
