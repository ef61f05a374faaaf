"""The objective: its gradient against finite differences and a written-out copy, and its errors."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import chex
import explicit_isnet
import golden_values
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from helpers import directional_errors, of_parameters, relative_error
from small_isnet import (
    BASE,
    CLASSES,
    Tapped,
    batch_of,
    small,
    stepper,
    without_aux,
)

from isnet_jax import ISNetConfig, UserError, isnet_loss, models, plain_loss
from isnet_jax.lrp.run import cotangents
from isnet_jax.objective import losses
from isnet_jax.objective.loss import supervised_places
from isnet_jax.objective.seeds import explained

pytestmark = pytest.mark.usefixtures("x64")


def traced(model: nnx.Module, batch: dict[str, jax.Array], config: ISNetConfig) -> None:
    """For errors: isnet_loss, traced only."""
    jax.eval_shape(lambda: isnet_loss(nnx.clone(model), batch, config))


@pytest.mark.parametrize("train", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize(
    "changes",
    [
        {"batch_stats": "gradient", "foreground_loss": "hybrid"},
        {"batch_stats": "constant", "foreground_loss": "l2"},
        {"variant": "stochastic", "batch_stats": "constant", "foreground_loss": "hybrid"},
    ],
    ids=lambda changes: "-".join(changes.values()),
)
def test_the_gradient_is_that_of_central_differences(changes, train):
    step, parameters = stepper(dataclasses.replace(BASE, **changes), train)
    errors = directional_errors(without_aux(step), parameters)
    assert max(errors.values()) < 1e-6, errors


def test_the_gradient_of_every_logits_heatmap():
    step, parameters = stepper(dataclasses.replace(BASE, variant="original"), train=True)
    errors = directional_errors(without_aux(step), parameters)
    assert max(errors.values()) < 1e-6, errors


def in_our_layout(model: nnx.Module) -> dict[str, jax.Array]:
    return {name: variable[...] for name, variable in models.torch_names(model).items()}


@functools.cache
def written_out(train: bool, box: bool, batch_stats: str, epsilon: float = 1e-2):
    """isnet_loss's step and the written-out one, both as torch names -> values."""
    with jax.enable_x64(True):
        config = dataclasses.replace(
            BASE,
            box_rule=box,
            batch_stats=batch_stats,
            foreground_loss="hybrid",
            lrp_epsilon=epsilon,
        )
        step, parameters = stepper(config, train)
        (value, aux), gradient = step(parameters)
        model, batch = small(train), batch_of()
        arrays = in_our_layout(model)
        explicit = functools.partial(explicit_isnet.loss, batch=batch, config=config, train=train)
        run = jax.jit(jax.value_and_grad(explicit, has_aux=True))
        (expected, expected_aux), expected_gradient = run(arrays, arrays)
        nnx.update(model, gradient)
        found = {name: in_our_layout(model)[name] for name in arrays if "running" not in name}
    return (value, aux, found), (expected, expected_aux, expected_gradient), (run, arrays)


@pytest.mark.parametrize("box", [True, False], ids=["z^B", "no-z^B"])
@pytest.mark.parametrize(
    ("train", "batch_stats"), [(True, "gradient"), (True, "constant"), (False, "gradient")]
)
def test_a_written_out_copy_agrees(train, box, batch_stats):
    """With z^B the true derivative is not the method's; the written-out copy freezes the same."""
    compare(*written_out(train, box, batch_stats)[:2])


def test_the_stabiliser_is_that_of_the_box_rule_too():
    compare(*written_out(True, True, "constant", 0.1)[:2])


def compare(ours: Any, explicit: Any) -> None:
    (value, aux, found), (expected, expected_aux, gradient) = ours, explicit
    assert float(value) == pytest.approx(float(expected), rel=1e-9)
    assert relative_error(aux["logits"], expected_aux["logits"]) < 1e-12
    assert relative_error(aux["heatmaps"][:, 0], expected_aux["heatmap"]) < 1e-10
    size = max(float(jnp.abs(g).max()) for g in gradient.values())
    for name, array in found.items():
        scale = max(float(jnp.abs(gradient[name]).max()), 1e-6 * size)
        assert float(jnp.abs(array - gradient[name]).max()) < 1e-8 * scale, name


def test_the_gradient_with_box_rule_against_differences_with_its_constants_frozen():
    (_, _, found), _, (run, arrays) = written_out(True, True, "gradient")
    parameters = {name: value for name, value in arrays.items() if name in found}

    def frozen(parameters):
        (value, _), _ = run(arrays | parameters, arrays)
        return value, found

    errors = directional_errors(frozen, parameters)
    assert max(errors.values()) < 1e-6, errors


def test_with_box_rule_the_total_derivative_is_another():
    """Else the freezing in the tests above would prove nothing."""
    (_, _, found), _, (run, arrays) = written_out(True, True, "gradient")
    parameters = {name: value for name, value in arrays.items() if name in found}

    def unfrozen(parameters):
        moved = arrays | parameters
        return run(moved, moved)[0][0], found

    assert max(directional_errors(unfrozen, parameters).values()) > 1e-4


# The modified ReLU derivative must not leak into the outer pass


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def leaking(pullback, token, value, routes, residuals):
    return value


def leaking_forward(pullback, token, value, routes, residuals):
    # The leak: the primal comes from the modified function itself, so that the outer pass, too,
    # goes back through the modified rule.
    return leaking(pullback, token, value, routes, residuals), residuals


def leaking_backward(pullback, residuals, g):
    return None, None, pullback(residuals, g), None


leaking.defvjp(leaking_forward, leaking_backward)

LEAK = dataclasses.replace(BASE, batch_stats="constant")


def test_the_gradient_check_finds_a_leak_of_the_modified_derivative(monkeypatch):
    step, parameters = stepper(LEAK, train=False)
    (value, aux), _ = step(parameters)
    assert max(directional_errors(without_aux(step), parameters).values()) < 1e-6

    monkeypatch.setattr(cotangents, "_attach", leaking)
    leaky, _ = stepper(LEAK, train=False)
    (leaky_value, leaky_aux), _ = leaky(parameters)
    assert float(leaky_value) == pytest.approx(float(value), rel=1e-12)
    assert relative_error(leaky_aux["heatmaps"], aux["heatmaps"]) < 1e-12
    assert max(directional_errors(without_aux(leaky), parameters).values()) > 1e-3


def test_the_gradient_check_finds_stop_gradient_in_place_of_detach(monkeypatch):
    step, parameters = stepper(LEAK, train=True)
    (value, aux), _ = step(parameters)
    assert max(directional_errors(without_aux(step), parameters).values()) < 1e-6

    monkeypatch.setattr(
        cotangents.Attach, "detached", lambda self, value: jax.lax.stop_gradient(value)
    )
    stopped, _ = stepper(LEAK, train=True)
    (stopped_value, stopped_aux), _ = stopped(parameters)
    assert float(stopped_value) == pytest.approx(float(value), rel=1e-12)
    assert relative_error(stopped_aux["heatmaps"], aux["heatmaps"]) < 1e-12
    assert max(directional_errors(without_aux(stopped), parameters).values()) > 1e-3


def test_cross_entropys_gradient_is_the_plain_one(monkeypatch):
    model, batch = small(train=True), batch_of()
    config = ISNetConfig(heatmap_weight=0.0, variant="selective", batch_stats="gradient")

    def gradient(loss):
        f, parameters = of_parameters(model, lambda model: loss(model)[0])
        return jax.tree.leaves(jax.jit(jax.grad(f))(parameters))

    plain = gradient(lambda model: plain_loss(model, batch))
    ours = gradient(lambda model: isnet_loss(model, batch, config))
    size = max(float(jnp.abs(g).max()) for g in plain)
    assert max(float(jnp.abs(a - b).max()) for a, b in zip(plain, ours, strict=True)) < 1e-14 * size

    monkeypatch.setattr(cotangents, "_attach", leaking)
    leaky = gradient(lambda model: isnet_loss(model, batch, config))
    assert max(float(jnp.abs(a - b).max()) for a, b in zip(plain, leaky, strict=True)) > 1e-4


# The step as a whole


def test_the_stochastic_draw_depends_on_the_key_only():
    config = ISNetConfig(variant="stochastic", box_rule=False, batch_stats="gradient")
    model, batch = small(train=False), batch_of()

    @jax.jit
    def run(key):
        copy = nnx.clone(model)
        return isnet_loss(copy, batch, config, rng=key)[1]["heatmaps"]

    first, again = run(jax.random.key(1)), run(jax.random.key(1))
    np.testing.assert_array_equal(first, again)
    assert any((run(jax.random.key(n)) != first).any() for n in range(2, 6))


def test_aux_and_the_weights_of_the_loss():
    model, batch = small(train=False), batch_of()
    config = ISNetConfig(
        heatmap_weight=0.3,
        background_weight=2.0,
        foreground_weight=0.5,
        variant="selective",
        batch_stats="gradient",
    )
    loss, aux = jax.jit(lambda: isnet_loss(nnx.clone(model), batch, config))()
    relevance = aux["heatmaps"]

    @jax.jit
    def expected_loss(relevance):
        background = losses.background_loss(relevance, batch["mask"], decay=0.9, scale=1.0)
        foreground = losses.foreground_loss(relevance, batch["mask"], bounds=(1.0, 25.0))
        return 2.0 * background + 0.5 * foreground

    expected = expected_loss(relevance)
    assert float(aux["heatmap"]) == pytest.approx(float(expected.mean()), rel=1e-12)
    assert float(loss) == pytest.approx(
        float(0.7 * aux["classification"] + 0.3 * aux["heatmap"]), rel=1e-12
    )
    assert relevance.shape == (3, 1, 8, 8, 3)
    assert aux["logits"].shape == (3, CLASSES)
    assert int(aux["nonfinite"]) == 0
    plain, plain_aux = jax.jit(lambda: plain_loss(nnx.clone(model), batch))()
    assert float(aux["classification"]) == pytest.approx(float(plain), rel=1e-12)
    np.testing.assert_allclose(aux["logits"], plain_aux["logits"], rtol=1e-12)


def test_batch_statistics_are_updated_as_by_a_plain_call():
    model, batch = small(train=True), batch_of()

    def state_after(call):
        copy = nnx.clone(model)
        call(copy)
        return nnx.to_pure_dict(nnx.state(copy))

    config = ISNetConfig(box_rule=False, variant="selective", batch_stats="gradient")
    ours = jax.jit(lambda: state_after(lambda model: isnet_loss(model, batch, config)))()
    plain = jax.jit(lambda: state_after(lambda model: model(batch["image"])))()
    chex.assert_trees_all_close(ours, plain, rtol=1e-12)
    assert (ours["bn1"]["var"] != model.bn1.var[...]).all()


def test_nonfinite_relevance_is_counted():
    model, batch = small(train=False), batch_of()
    batch["image"] = batch["image"].at[0, 0, 0, 0].set(jnp.nan)
    config = ISNetConfig(box_rule=False, variant="selective", batch_stats="gradient")
    _, aux = jax.jit(lambda: isnet_loss(nnx.clone(model), batch, config))()
    assert int(aux["nonfinite"]) >= 1


def test_one_trace_for_many_batches():
    model = small(train=True)
    graph, parameters, rest = nnx.split(model, nnx.Param, ...)

    @jax.jit
    @chex.assert_max_traces(1)
    def step(parameters, batch, key):
        model = nnx.merge(graph, parameters, rest, copy=True)
        return isnet_loss(
            model, batch, ISNetConfig(variant="stochastic", batch_stats="gradient"), rng=key
        )[0]

    values = [
        float(step(parameters, golden_values.drawn_batch(n, 3, 8, CLASSES), jax.random.key(n)))
        for n in range(3)
    ]
    assert len(set(values)) == 3


@pytest.mark.parametrize("places", [True, ("middle", "end")])
def test_deep_supervision(places):
    """Value by hand from the relevances in aux; gradient against central differences."""
    names = ("middle",) if places is True else places
    ranges = ((0.3, 0.4), (0.1, 0.2), (0.01, 0.3))[: len(names) + 1]
    config = dataclasses.replace(BASE, deep_supervision=places, foreground_range=ranges)
    model, batch = Tapped(nnx.Rngs(0)), batch_of()
    f, parameters = of_parameters(model, lambda model: isnet_loss(model, batch, config))
    step = jax.jit(jax.value_and_grad(f, has_aux=True))
    (_, aux), _ = step(parameters)

    def at_one_place(relevance, bounds):
        mask = losses.shrink_mask(batch["mask"], relevance.shape[2:4])
        background = losses.background_loss(relevance, mask, decay=0.95, scale=1.0)
        return background + losses.foreground_loss(relevance, mask, bounds=bounds)

    maps = [aux["heatmaps"], *(aux[f"relevance/{name}"] for name in names)]
    layers = jax.jit(lambda maps: list(map(at_one_place, maps, ranges)))(maps)
    ordered = np.sort(np.stack(layers, -1), -1)[:, ::-1]
    weights = 0.8 ** np.arange(len(layers))
    expected = ((ordered * weights).sum(-1) / weights.sum()).mean()
    assert float(aux["heatmap"]) == pytest.approx(expected, rel=1e-9)
    errors = directional_errors(without_aux(step), parameters)
    assert max(errors.values()) < 1e-6, errors


# Errors


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda b: b.pop("mask"), "the batch lacks mask; expected image"),
        (lambda b: [b.pop("label"), b.pop("image")], "the batch lacks image, label"),
        (
            lambda b: b.update(mask=b["mask"][:, :4]),
            r"mask \(3, 4, 8, 1\), .*; expected image \(B, H, W, C\), mask \(B, H, W, 1\)",
        ),
        (lambda b: b.update(image=b["image"][0]), r"image \(8, 8, 3\)"),
        (lambda b: b.update(label=b["label"][:2]), r"label \(2,\)"),
        (
            lambda b: b.update(image=(b["image"] * 255).astype(jnp.uint8)),
            r"the images are uint8; expected floating point in \[0, 1\]: divide by 255",
        ),
        (
            lambda b: b.update(label=b["label"].astype(jnp.float32)),
            r"the labels are float32; expected class numbers \(ints\)",
        ),
        (
            lambda b: b.update(label=jnp.zeros((3, CLASSES))),
            r"labels of shape \(3, 4\); expected \(3,\). For several",
        ),
        (lambda b: b.update(has_mask=jnp.ones(2)), r"has_mask \(2,\); expected \(3,\)"),
        (lambda b: b.update(has_mask=jnp.ones((3, 1))), r"has_mask \(3, 1\); expected \(3,\)"),
    ],
)
def test_batches_that_do_not_fit(change, message):
    batch = batch_of()
    change(batch)
    with pytest.raises(UserError, match=message):
        traced(small(train=False), batch, ISNetConfig(variant="selective", batch_stats="gradient"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda b: b.update(mask=b["mask"] * 255),
            r"float64 values from 0 to 255; expected 0 and 1",
        ),
        (lambda b: b.update(mask=b["mask"] - 1), "from -1 to 0; expected 0 and 1"),
        (lambda b: b.update(mask=b["mask"] * jnp.nan), "from nan to nan"),
        (
            lambda b: b.update(mask=np.arange(192, dtype=np.uint8).reshape(3, 8, 8, 1) % 3),
            "several uint8 values from 0 to 2",
        ),
        (lambda b: b.update(mask=b["mask"] * 1j), "the mask is complex128; expected 0 and 1"),
        (lambda b: b.update(label=jnp.array([1, 2, CLASSES])), "labels from 1 to 4 for 4 classes"),
        (lambda b: b.update(label=jnp.array([0, -1, 1])), "labels from -1 to 1 for 4 classes"),
    ],
)
def test_values_that_do_not_fit(change, message):
    """Of arrays whose values are known; see the next test for traced ones."""
    batch = batch_of()
    change(batch)
    config = ISNetConfig(variant="selective", heatmap_weight=0.0)
    with pytest.raises(UserError, match=message):
        jax.eval_shape(lambda: isnet_loss(small(train=False), batch, config))


def test_masks_of_files_and_traced_values():
    batch, model = batch_of(), small(train=False)

    @jax.jit
    def value(mask: jax.Array, label: jax.Array) -> jax.Array:
        given = batch | {"mask": mask, "label": label}
        return isnet_loss(nnx.clone(model), given, ISNetConfig(variant="selective"))[0]

    expected = value(batch["mask"], batch["label"])
    for mask in (batch["mask"] > 0, (batch["mask"] * 255).astype(jnp.uint8)):
        assert float(value(mask, batch["label"])) == pytest.approx(float(expected), rel=1e-9)
    assert jnp.isnan(value(batch["mask"], jnp.array([0, 1, CLASSES])))
    assert jnp.isnan(value(batch["mask"], jnp.array([0, 1, -1])))


def test_stochastic_without_a_key_or_a_second_class():
    config = ISNetConfig(variant="stochastic", batch_stats="gradient")
    with pytest.raises(UserError, match="needs rng=, a JAX key"):
        traced(small(train=False), batch_of(), config)
    with pytest.raises(UserError, match="needs two classes or more; the model has 1"):
        explained(jnp.zeros((2, 1)), config, jax.random.key(0))
    with pytest.raises(UserError, match='"selective" variant needs two classes or more'):
        explained(jnp.zeros((2, 1)), ISNetConfig(variant="selective"))


def test_deep_supervision_of_a_model_without_places():
    config = ISNetConfig(deep_supervision=True, variant="selective", batch_stats="gradient")
    with pytest.raises(UserError, match=r"Small names no supervised_places. Mark places with"):
        supervised_places(small(train=False), config)
    with pytest.raises(UserError, match="no relevance reaches a place named 'midle'"):
        traced(
            Tapped(nnx.Rngs(0)), batch_of(), dataclasses.replace(BASE, deep_supervision=("midle",))
        )
