"""What the variants explain, and the ways to explain less or a little at a time."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from helpers import directional_errors, of_parameters, relative_error
from small_isnet import BASE, CLASSES, Tapped, batch_of, compiled, small, stepper, without_aux

from isnet_jax import Classification, ISNetConfig, UserError, isnet_loss, lrp
from isnet_jax.objective import losses
from isnet_jax.objective.loss import heatmap_loss
from isnet_jax.objective.seeds import explained

pytestmark = pytest.mark.usefixtures("x64")


def test_the_selective_seed_is_the_gradient_of_the_lowest_logits_log_odds():
    logits = jnp.array([[1.0, -2.0, 0.5], [0.3, 0.2, 3.0]])
    s = 1e-2

    def eta(logits, sample, c):
        p = jax.nn.softmax(logits)[sample, c]
        return jnp.log(p + s) - jnp.log(1 - p + s)

    (seed,) = explained(logits, ISNetConfig(variant="selective"), None)
    for sample, lowest in ((0, 1), (1, 1)):
        expected = jax.grad(eta)(logits, sample, lowest)[sample]
        np.testing.assert_allclose(seed[sample], expected, rtol=1e-12)


def test_without_its_epsilon_the_selective_seed_never_saturates():
    logits = jnp.array([[1.0, 2.0, -1.0], [0.3, 0.1, 4.0]])
    exact = ISNetConfig(variant="selective", softmax_epsilon=0.0)
    near = ISNetConfig(variant="selective", softmax_epsilon=1e-13)
    (found,), (limit,) = (explained(logits, config, None) for config in (exact, near))
    np.testing.assert_allclose(found, limit, atol=1e-10)
    (sure,) = explained(1000 * logits, exact, None)
    np.testing.assert_allclose(sure, [[0, -1, 1], [0, 1, -1]], atol=1e-6)


def test_the_original_variant_explains_each_logit():
    logits = jnp.zeros((5, 3))
    seeds = explained(logits, ISNetConfig(variant="original"), None)
    np.testing.assert_array_equal(seeds, jnp.eye(3)[:, None].repeat(5, 1))


def test_the_stochastic_variant_draws_the_highest_half_of_the_time_and_the_others_alike():
    logits = jnp.tile(jnp.array([0.0, 3.0, 1.0, 2.0]), (40_000, 1))
    (seed,) = explained(logits, ISNetConfig(variant="stochastic"), jax.random.key(0))
    np.testing.assert_array_equal(seed.sum(1), 1)
    np.testing.assert_allclose(seed.mean(0), [1 / 6, 1 / 2, 1 / 6, 1 / 6], atol=0.01)


def test_the_softmax_ablation_explains_the_highest_probability():
    logits = jnp.array([[1.0, -2.0, 0.5], [0.3, 0.2, 3.0]])
    (seed,) = explained(logits, ISNetConfig(variant="softmax_gradient_input"))
    p = np.asarray(jax.nn.softmax(logits))
    for sample, highest in ((0, 0), (1, 2)):
        one_hot = np.eye(3)[highest]
        expected = p[sample, highest] * (one_hot - p[sample])
        np.testing.assert_allclose(seed[sample], expected, rtol=1e-9, atol=1e-12)


def test_a_samples_draw_depends_on_its_number_in_the_global_batch():
    config = ISNetConfig(variant="stochastic", batch_stats="gradient")
    logits = jax.random.normal(jax.random.key(1), (16, 5))
    (whole,) = explained(logits, config, jax.random.key(0))
    (part,) = explained(logits[6:9], config, jax.random.key(0), jnp.arange(6, 9))
    np.testing.assert_array_equal(part, whole[6:9])


def gradient_times_input(model: nnx.Module, image: jax.Array, quantity: Any) -> jax.Array:
    graph, state = nnx.split(model)

    @jax.jit
    @jax.grad
    def gradient(image):
        return quantity(nnx.merge(graph, state, copy=True)(image)).sum()

    return image * gradient(image)


def test_the_ablations_are_input_times_gradient():
    model, batch = small(train=True), batch_of()
    quantities = {
        "gradient_input": [lambda y, c=c: y[:, c] for c in range(CLASSES)],
        "softmax_gradient_input": [lambda y: jax.nn.softmax(y).max(1)],
    }
    for variant, of in quantities.items():
        config = ISNetConfig(variant=variant, batch_stats="gradient")
        _, aux = jax.jit(lambda c=config: isnet_loss(nnx.clone(model), batch, c))()
        assert aux["heatmaps"].shape[1] == len(of)
        for k, quantity in enumerate(of):
            expected = gradient_times_input(model, batch["image"], quantity)
            assert relative_error(aux["heatmaps"][:, k], expected) < 1e-10


def test_dual_explains_all_logits_at_once_by_both_rules():
    model, batch = small(train=False), batch_of()
    config = ISNetConfig(
        variant="dual", foreground_range=((0.1, 2.0), (0.5, 3.0)), batch_stats="gradient"
    )
    _, aux = jax.jit(lambda: isnet_loss(nnx.clone(model), batch, config))()
    assert aux["heatmaps"].shape == (3, 2, 8, 8, 3)
    for k, composite in enumerate(config.composites()):
        logits, pullback = lrp.vjp(model, batch["image"], rules=composite)
        expected = pullback(jnp.ones_like(logits))
        assert relative_error(aux["heatmaps"][:, k], expected) < 1e-12
    foreground = [
        losses.foreground_loss(aux["heatmaps"][:, k : k + 1], batch["mask"], bounds=bounds)
        for k, bounds in enumerate(config.foreground_range)
    ]
    background = losses.background_loss(aux["heatmaps"], batch["mask"], decay=0.9, scale=1.0)
    expected = background.mean() + (foreground[0] + foreground[1]).mean() / 2
    assert float(aux["heatmap"]) == pytest.approx(float(expected), rel=1e-12)


@pytest.mark.parametrize(
    "changes",
    [
        {"variant": "dual", "foreground_range": ((0.3, 0.4), (0.2, 0.5))},
        {"variant": "gradient_input"},
        {"variant": "softmax_gradient_input"},
        {"variant": "original", "heatmap_chunk": 2},
        {"variant": "selective", "lrp_epsilon": 0.0},
        {"variant": "selective", "background_norm": "signed"},
        {"variant": "stochastic", "heatmap_fraction": 0.5, "background_norm": "none"},
    ],
    ids=lambda changes: "-".join(map(str, changes.values())),
)
def test_the_gradient_is_that_of_central_differences(changes):
    step, parameters = stepper(dataclasses.replace(BASE, **changes), train=True)
    errors = directional_errors(without_aux(step), parameters)
    assert max(errors.values()) < 1e-6, errors


@pytest.mark.parametrize("epsilon", [1e-2, 0.0])
def test_the_gradient_of_the_block(epsilon):
    """Without biases, which the block takes as constants of the outer gradient."""
    config = dataclasses.replace(BASE, engine="block", lrp_epsilon=epsilon)
    model, batch = Tapped(nnx.Rngs(0), use_bias=False), batch_of()
    f, parameters = of_parameters(model, lambda model: isnet_loss(model, batch, config)[0])
    errors = directional_errors(jax.jit(jax.value_and_grad(f)), parameters)
    assert max(errors.values()) < 1e-6, errors


def test_flex_and_block_are_one_without_a_stabiliser():
    batch = batch_of()
    maps = {}
    for engine in ("flex", "block"):
        config = dataclasses.replace(BASE, engine=engine, lrp_epsilon=0.0)
        run = jax.jit(lambda c=config: isnet_loss(small(train=False), batch, c)[1]["heatmaps"])
        maps[engine] = run()
    assert relative_error(maps["block"], maps["flex"]) < 1e-12


@functools.cache
def original(chunk: int):
    with jax.enable_x64(True):
        config = dataclasses.replace(BASE, variant="original", heatmap_chunk=chunk, box_rule=True)
        step, parameters = stepper(config, train=True)
        return step(parameters)


@pytest.mark.parametrize("chunk", [1, 2, 3, 99])
def test_chunks_change_nothing(chunk):
    (value, aux), gradient = original(chunk)
    (expected, expected_aux), expected_gradient = original(0)
    assert float(value) == pytest.approx(float(expected), rel=1e-12)
    assert relative_error(aux["heatmaps"], expected_aux["heatmaps"]) < 1e-12
    size = max(float(jnp.abs(g).max()) for g in jax.tree.leaves(expected_gradient))
    for ours, theirs in zip(
        jax.tree.leaves(gradient), jax.tree.leaves(expected_gradient), strict=True
    ):
        assert float(jnp.abs(ours - theirs).max()) < 1e-11 * size


# Samples that are not explained


def value_and_gradient(model: nnx.Module, config: ISNetConfig, batch: dict[str, jax.Array]) -> Any:
    def loss(parameters, key):
        copy = nnx.merge(graph, parameters, rest, copy=True)
        return isnet_loss(copy, batch, config, rng=key)[0]

    graph, parameters, rest = nnx.split(model, nnx.Param, ...)
    run = jax.jit(jax.value_and_grad(loss))
    return lambda key: jax.flatten_util.ravel_pytree(run(parameters, key))[0]


@pytest.mark.parametrize(("fraction", "starts"), [(1 / 2, 2), (1 / 3, 3), (2 / 3, 3)])
def test_a_fraction_of_the_batch_has_the_same_loss_and_gradient_in_expectation(fraction, starts):
    """Exactly so: each random start is as likely, and their mean is the whole batch's value."""
    model = small(train=False)
    batch = {name: jnp.concatenate([value, 1 - value]) for name, value in batch_of().items()}
    batch["label"] = jnp.arange(6) % CLASSES
    config = dataclasses.replace(BASE, heatmap_fraction=fraction)
    whole = value_and_gradient(model, BASE, batch)(jax.random.key(0))
    run = value_and_gradient(model, config, batch)
    found = {float(v[0]): v for v in (run(jax.random.key(n)) for n in range(24))}
    assert len(found) == starts
    mean = jnp.stack(list(found.values())).mean(0)
    assert float(jnp.abs(mean - whole).max() / jnp.abs(whole).max()) < 1e-10


def test_the_explained_samples_are_named_and_the_logits_keep_their_order():
    model, batch = small(train=False), batch_of()
    config = ISNetConfig(heatmap_fraction=0.67, variant="selective", batch_stats="gradient")
    _, aux = compiled(isnet_loss)(nnx.clone(model), batch, config, rng=jax.random.key(3))
    _, whole = compiled(isnet_loss)(
        nnx.clone(model), batch, ISNetConfig(variant="selective", batch_stats="gradient")
    )
    assert aux["heatmaps"].shape == (2, 1, 8, 8, 3)
    np.testing.assert_allclose(aux["heatmaps"], whole["heatmaps"][aux["explained"]], rtol=1e-9)
    np.testing.assert_allclose(aux["logits"], whole["logits"], rtol=1e-12)
    with pytest.raises(UserError, match="heatmap_fraction needs rng=, a JAX key"):
        isnet_loss(nnx.clone(model), batch, config)


def test_samples_without_a_mask_are_only_classified():
    model, batch = small(train=False), batch_of()
    has_mask = jnp.array([True, False, True])
    empty = batch["mask"].at[1].set(0)
    _, aux = compiled(isnet_loss)(
        nnx.clone(model),
        batch | {"mask": empty, "has_mask": has_mask},
        ISNetConfig(variant="selective", batch_stats="gradient"),
    )
    _, whole = compiled(isnet_loss)(
        nnx.clone(model), batch, ISNetConfig(variant="selective", batch_stats="gradient")
    )
    each = heatmap_loss(
        [whole["heatmaps"]], batch["mask"], ISNetConfig(variant="selective", batch_stats="gradient")
    )
    assert float(aux["heatmap"]) == pytest.approx(float(each[has_mask].mean()), rel=1e-10)
    assert float(aux["classification"]) == pytest.approx(float(whole["classification"]), rel=1e-12)


def test_a_batch_without_any_mask_has_no_heatmap_loss_and_a_finite_gradient():
    batch = batch_of()
    batch |= {"mask": jnp.zeros_like(batch["mask"]), "has_mask": jnp.zeros(3, bool)}
    config = ISNetConfig(heatmap_weight=0.5, variant="selective", batch_stats="gradient")
    found = value_and_gradient(small(train=False), config, batch)(jax.random.key(0))
    plain = value_and_gradient(
        small(train=False), dataclasses.replace(config, heatmap_weight=0.0), batch
    )(jax.random.key(0))
    np.testing.assert_allclose(found, plain / 2, rtol=1e-9, atol=1e-12)


def test_a_multilabel_head():
    """Dual explains all logits, whatever the labels are; the labels are 0 or 1 for each class."""
    classification = Classification(task="multilabel")
    config = ISNetConfig(variant="dual", classification=classification, batch_stats="gradient")
    batch = batch_of() | {"label": jnp.eye(CLASSES)[:3]}
    _, aux = compiled(isnet_loss)(small(train=False), batch, config)
    logits = np.asarray(aux["logits"])
    expected = np.log1p(np.exp(np.where(batch["label"] > 0, -logits, logits))).mean()
    assert float(aux["classification"]) == pytest.approx(expected, rel=1e-9)


def test_p_follows_its_schedule_in_training_and_is_constant_else():
    config = ISNetConfig(
        heatmap_weight=0.9,
        heatmap_schedule=((0, 0.0), (10, 0.5)),
        variant="selective",
        batch_stats="gradient",
    )
    run = jax.jit(lambda step: isnet_loss(small(train=False), batch_of(), config, step=step))
    for step, weight in ((0, 0.0), (5, 0.25), (30, 0.5), (None, 0.9)):
        loss, aux = run(step)
        expected = (1 - weight) * aux["classification"] + weight * aux["heatmap"]
        assert float(loss) == pytest.approx(float(expected), rel=1e-6)
