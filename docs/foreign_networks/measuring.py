"""What is measured of a foreign network: a row of docs/foreign-models.md."""

from __future__ import annotations

import contextlib
import datetime
import re
import time
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

import flax.linen
import flax.nnx
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from foreign_networks.registry import Made, Network, without_biases
from isnet_jax import UserError, lrp

RULES: dict[str, lrp.Rule | lrp.Composite] = {
    "Epsilon(0.01)": lrp.Epsilon(1e-2),
    "EpsilonPlus": lrp.EpsilonPlus(),
    "AttnLRP": lrp.AttnLRP(),
    # z^B's bias would be a constant of the outer gradient, which central differences are not.
    "ISNetFlex": lrp.ISNetFlex(first=lrp.ZBox(-1.0, 1.0, zero_bias=True)),
}
# Column -> the largest relative error that is a tick, and where the network computes in float32.
LIMITS = {
    "logits": (1e-12, 1e-6),
    "gradient": (1e-9, 1e-5),
    "second order": (1e-5, 1e-5),
    "heatmap": (1e-9, 1e-5),
    "conservation": (1e-9, 1e-5),
    "x * gradient": (1e-9, 1e-5),
}
STEPS = (1e-5, 1e-6, 1e-7, 1e-8)  # of the central differences; the best one counts.


def distance(found: Any, expected: Any) -> float:
    """The largest difference relative to the largest expected value, over a pytree."""
    pairs = list(zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True))
    largest = max(float(jnp.abs(e).max(initial=0)) for _, e in pairs)
    apart = [float(jnp.abs(f - e).max(initial=0)) for f, e in pairs]
    return float(np.max([*apart, 0.0])) / largest  # NaN stays NaN.


def explained(made: Made, rules: lrp.Rule | lrp.Composite) -> Callable[..., tuple[Any, Any]]:
    """(parameters, x) -> logits, relevance of the second logit."""

    def run(parameters, x):
        logits, pullback = lrp.vjp(lambda x: made.apply(parameters, x), x, rules=rules)
        seed = jnp.zeros_like(logits).at[:, 1].set(1.0)
        return logits, pullback(seed)

    return run


def in_float32(made: Made) -> bool:
    """Whether some part of the network computes in float32, whatever it is given."""
    return "f32[" in str(jax.make_jaxpr(made.apply)(made.parameters, made.x))


def loss(logits: jax.Array) -> jax.Array:
    """Some function of the logits."""
    return jnp.sum(jnp.sin(logits + jnp.arange(logits.size).reshape(logits.shape)))


def with_gradient(run: Callable[..., Any], output: Callable[[Any], jax.Array]):
    """`run`'s outputs, and the gradient of a loss on the logits by parameters and input."""

    def both(parameters, x):
        gradient = jax.grad(lambda *arguments: loss(output(run(*arguments))), (0, 1))
        return run(parameters, x), gradient(parameters, x)

    return jax.jit(both)


def measure_rule(made: Made, name: str, expected: tuple[Any, Any]) -> dict[str, float]:
    """One rule's numbers for the columns of `LIMITS`, but the last.

    Args:
      made: the network.
      name: of the rule.
      expected: the plain function's logits and the gradient of their loss.
    """
    run = explained(made, RULES[name])
    values = with_gradient(run, lambda result: result[0])
    (logits, relevance), gradient = values(made.parameters, made.x)
    expected_logits, expected_gradient = expected
    (bare_logits, bare), _ = values(without_biases(made.parameters), made.x)
    sums, explained_logits = bare.reshape(2, -1).sum(1), bare_logits[:, 1]
    fractions = sums / explained_logits
    numbers = {}
    if not in_float32(made):  # Central differences would be rounding.
        numbers["second order"] = second_order(run, made, float(jnp.abs(relevance).max()))
    return numbers | {
        "logits": distance(logits, expected_logits),
        "gradient": distance(gradient, expected_gradient),
        "conservation": distance(sums, explained_logits),
        "lowest fraction": float(fractions.min()),
        "highest fraction": float(fractions.max()),
    }


def second_order(run: Callable[..., Any], made: Made, size: float) -> float:
    """The error of a heatmap loss's derivative along a random direction of all parameters.

    Args:
      run: of `explained`.
      made: the network.
      size: of its relevance, which the loss scales to 1.
    """
    rng = np.random.default_rng(0)
    direction = jax.tree.map(lambda p: jnp.asarray(rng.normal(size=p.shape) * 0.3), made.parameters)

    @jax.jit
    @jax.value_and_grad
    def heatmap_loss(step):
        moved = jax.tree.map(lambda p, d: p + step * d, made.parameters, direction)
        return jnp.sum(jnp.sin(3 * run(moved, made.x)[1] / size))

    derivative = heatmap_loss(0.0)[1]
    errors = []
    for step in STEPS:
        numeric = (heatmap_loss(step)[0] - heatmap_loss(-step)[0]) / (2 * step)
        errors.append(float(abs(derivative - numeric) / abs(numeric)))
    return float(np.min(errors))


def frozen(f: Callable[..., jax.Array]) -> Callable[..., jax.Array]:
    """`f`, a constant of the gradient."""
    return lambda x, *rest, **options: lax.stop_gradient(f(x, *rest, **options))


def passing(f: Callable[..., jax.Array]) -> Callable[..., jax.Array]:
    """`f`, through which x times the gradient passes unchanged."""
    return lambda x, *rest, **options: x * lax.stop_gradient(f(x, *rest, **options) / x)


@contextlib.contextmanager
def attnlrp_written_in() -> Iterator[None]:
    """Within, networks are traced so that x times their gradient is AttnLRP (`written_in`)."""
    with contextlib.ExitStack() as stack:
        for module in (lax, jnp):
            for name in ("rsqrt", "sqrt"):
                if hasattr(module, name):
                    f = frozen(getattr(module, name))
                    stack.enter_context(mock.patch.object(module, name, f))
        for module in (jax.nn, flax.nnx, flax.linen):
            for name in ("gelu", "silu", "swish", "elu", "softplus", "tanh"):
                f = passing(getattr(module, name))
                stack.enter_context(mock.patch.object(module, name, f))
        stack.enter_context(mock.patch.object(jnp, "tanh", passing(jnp.tanh)))
        yield


def heatmap(made: Made) -> dict[str, float]:
    """AttnLRP of the unchanged network against its rules written into the network."""
    _, relevance = jax.jit(explained(made, RULES["AttnLRP"]))(made.parameters, made.x)
    with attnlrp_written_in():
        gradient = jax.jit(jax.grad(lambda x: made.apply(made.parameters, x)[:, 1].sum()))(made.x)
    return {"heatmap": distance(relevance, made.x * gradient)}


def times_gradient(made: Made) -> dict[str, float]:
    """Epsilon(0.0) against x times the plain gradient."""
    _, relevance = jax.jit(explained(made, lrp.Epsilon(0.0)))(made.parameters, made.x)
    gradient = jax.jit(jax.grad(lambda x: made.apply(made.parameters, x)[:, 1].sum()))(made.x)
    return {"x * gradient": distance(relevance, made.x * gradient)}


def measure(network: Network) -> dict[str, Any]:
    """A row: numbers by rule, what was refused or raised, seconds; or why it was not made."""
    started, row = time.perf_counter(), {"date": datetime.date.today().isoformat()}
    try:
        made = network.make()
    except ImportError:
        return {**row, "missing": network.library}
    expected = with_gradient(made.apply, lambda logits: logits)(made.parameters, made.x)
    checks = {name: lambda name=name: measure_rule(made, name, expected) for name in RULES}
    checks["Epsilon(0.0)"] = lambda: times_gradient(made)
    if network.written_in:
        checks["AttnLRP written in"] = lambda: heatmap(made)
    row["float32"], numbers, errors = in_float32(made), {}, {}
    for name, check in checks.items():
        try:
            numbers[name] = check()
        except Exception as error:  # What a foreign network raises is what the page reports.
            kind = "" if isinstance(error, UserError) else f"{type(error).__name__}: "
            errors[name] = kind + first_line(str(error))
    seconds = round(time.perf_counter() - started, 1)
    return {**row, "numbers": numbers, "errors": errors, "seconds": seconds}


def first_line(message: str) -> str:
    """Without the folders of this machine."""
    line = (message.splitlines() or [""])[0]
    return re.sub(r"/\S*/(?=(site-packages|docs|isnet_jax)/)", "", line)


def judged(network: Network, row: dict[str, Any]) -> dict[str, list[str]]:
    """Column -> the rules that fail it, those that raise first under "runs"."""
    failed: dict[str, list[str]] = {"runs": list(row["errors"])}
    for column, limits in LIMITS.items():
        limit = limits[row["float32"]]
        rules = ["AttnLRP"] if column == "conservation" else list(row["numbers"])
        judge = column != "conservation" or network.conserves
        failed[column] = [
            rule
            for rule in rules
            if judge and not row["numbers"].get(rule, {}).get(column, 0.0) <= limit
        ]
    return failed
