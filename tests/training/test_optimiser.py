"""Optimisers: schedule, clipping, rules, options out of range."""

import jax.numpy as jnp
import numpy as np
import optax
import pytest

from isnet_jax import UserError
from isnet_jax.training import OptimiserConfig


def updates(config: OptimiserConfig, gradients: list[float], steps: int) -> np.ndarray:
    """The updates of one parameter, 1 at first and moved by nothing."""
    optimiser = config.make(steps)
    parameter = jnp.ones(())
    state = optimiser.init(parameter)
    found = []
    for gradient in gradients:
        update, state = optimiser.update(jnp.asarray(gradient), state, parameter)
        found.append(float(jnp.asarray(update)))
    return np.array(found)


def test_the_schedule_rises_to_the_peak_and_ends_at_the_final_fraction():
    config = OptimiserConfig(
        name="sgd", learning_rate=2, final_fraction=0.1, warmup_fraction=0.2, momentum=0
    )
    rates = -updates(config, [1.0] * 12, steps=10)
    np.testing.assert_allclose(rates[:3], [0, 1, 2])
    assert (np.diff(rates[2:11]) < 0).all()
    np.testing.assert_allclose(rates[10:], 0.2, rtol=1e-6)
    without = OptimiserConfig(name="sgd", learning_rate=2, warmup_fraction=0, momentum=0)
    assert updates(without, [1.0], steps=10) == -2


@pytest.mark.parametrize("steps", [1, 2, 3])
def test_short_trainings_have_a_schedule(steps: int):
    assert np.isfinite(updates(OptimiserConfig(), [1.0] * steps, steps)).all()


def test_clipping():
    plain = {"name": "sgd", "learning_rate": 1, "warmup_fraction": 0, "momentum": 0}
    np.testing.assert_allclose(updates(OptimiserConfig(**plain, clip_norm=2), [10.0], 9), -2)
    np.testing.assert_allclose(updates(OptimiserConfig(**plain, clip_norm=2), [1.5], 9), -1.5)
    np.testing.assert_allclose(updates(OptimiserConfig(**plain, clip_norm=0), [10.0], 9), -10)


def test_momentum_and_weight_decay_of_sgd():
    options = {"name": "sgd", "learning_rate": 1, "warmup_fraction": 0, "final_fraction": 1}
    found = updates(OptimiserConfig(**options, momentum=0.5), [1.0, 0.0], 9)
    np.testing.assert_allclose(found, [-1, -0.5])
    found = updates(OptimiserConfig(**options, momentum=0, weight_decay=0.25), [0.0], 9)
    np.testing.assert_allclose(found, [-0.25])


def test_momentum_does_not_see_the_weight_decay():
    """SGDW: with L2 through momentum the second update would be -0.875."""
    options = {"name": "sgd", "learning_rate": 1, "warmup_fraction": 0, "final_fraction": 1}
    config = OptimiserConfig(**options, momentum=0.5, weight_decay=0.25, clip_norm=0)
    np.testing.assert_allclose(updates(config, [1.0, 0.0], 9), [-1.25, -0.75])


def test_adam_is_optax_adamw():
    config = OptimiserConfig(
        learning_rate=0.1, warmup_fraction=0, final_fraction=1, weight_decay=0.3, clip_norm=0
    )
    gradients = [1.0, -2.0, 0.5]
    reference = optax.adamw(0.1, weight_decay=0.3)
    parameter, state = jnp.ones(()), reference.init(jnp.ones(()))
    expected = []
    for gradient in gradients:
        update, state = reference.update(jnp.asarray(gradient), state, parameter)
        expected.append(update)
    np.testing.assert_allclose(updates(config, gradients, 9), expected, rtol=1e-6)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("learning_rate", 0.0),
        ("learning_rate", float("nan")),
        ("final_fraction", 1.5),
        ("warmup_fraction", 1.0),
        ("momentum", 1.0),
        ("weight_decay", -0.1),
        ("clip_norm", -1.0),
    ],
)
def test_options_out_of_range(field: str, value: float):
    with pytest.raises(UserError, match=f"optimiser: {field} is {value}; expected"):
        OptimiserConfig(**{field: value})


def test_an_unknown_name_is_met_with_the_nearest():
    with pytest.raises(UserError, match="did you mean 'adam'"):
        OptimiserConfig(name="adm")  # pyright: ignore[reportArgumentType]
