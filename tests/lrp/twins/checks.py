"""Whether a twin is explained as its plain program is: heatmap, gradients, second order."""

from __future__ import annotations

import dataclasses
import functools
import warnings
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from isnet_jax import lrp
from isnet_jax.errors import UserError
from twins.evaluating import Traced
from twins.program import CLASSES, INPUTS, Program, Rewrite
from twins.rewriting import GIVE

# Largest errors, relative to the largest true value.
LIMITS = {"heatmap": 1e-9, "gradient": 1e-9, "second order": 1e-7, "differences": 1e-5}
STEPS = (1e-6, 1e-7, 1e-8)


@dataclasses.dataclass(frozen=True)
class Recipe:
    """Rules, and what is true of them: which spellings mean the same.

    "plain layers", "plain sums": the plain VJP there, with whatever is folded. "first": a rule of
    its own for layers that read the input; "flat": that counts the inputs of a layer. "guided":
    ReLUs only. "constants": biases are constants of the outer gradient.
    """

    rules: Any
    traits: frozenset[str]


def _recipe(rules, *traits):
    return Recipe(rules, frozenset(traits))


RECIPES = {
    "Epsilon": _recipe(lrp.Epsilon(1e-2), "plain layers", "plain sums"),
    "Gradient": _recipe(lrp.Epsilon(0.0), "plain layers", "plain sums"),
    "ZPlus": _recipe(lrp.ZPlus(), "plain sums"),
    "Gamma": _recipe(lrp.Gamma(0.25), "plain sums"),
    "AlphaBeta": _recipe(lrp.AlphaBeta(2.0, 1.0), "plain sums"),
    "ISNetFlex": _recipe(lrp.ISNetFlex(), "plain layers", "plain sums"),
    "ISNetFlex, z^B": _recipe(
        lrp.ISNetFlex(first=lrp.ZBox(0.0, 1.0)), "plain sums", "first", "constants"
    ),
    "ISNetBlock": _recipe(lrp.ISNetBlock(), "constants"),
    "EpsilonPlus": _recipe(lrp.EpsilonPlus()),
    "EpsilonPlusFlat": _recipe(lrp.EpsilonPlusFlat(), "first", "flat"),
    "EpsilonGammaBox": _recipe(lrp.EpsilonGammaBox(0.0, 1.0), "first", "constants"),
    "AttnLRP": _recipe(lrp.AttnLRP(), "plain layers", "plain sums"),
    "GuidedBackprop": _recipe(lrp.GuidedBackprop(), "plain layers", "plain sums", "guided"),
    "ExcitationBackprop": _recipe(lrp.ExcitationBackprop()),
}


@dataclasses.dataclass(frozen=True)
class Verdict:
    """status: "right", "wrong", "refused", "crashed"; the last three of the plain one: "plain ...".

    errors: by the names of `LIMITS`, relative to the largest true value.
    """

    status: str
    errors: dict[str, float] = dataclasses.field(default_factory=dict)
    message: str = ""

    def __str__(self) -> str:
        shown = (f"{name} {error:.1e}" for name, error in self.errors.items())
        return f"{self.status}: {self.message or ', '.join(shown)}"


def explain(program: Program, rewrites: tuple[Rewrite, ...], recipe: Recipe):
    """A function of parameters, x and seed: relevance like x, and logits."""
    names = [r.name for r in rewrites if r.kind == "give"]
    take_apart, join = GIVE[names[0] if names else "plain"]
    has_aux = any(r.kind in ("aux", "moments") for r in rewrites)

    def explained(parameters, x, seed):
        def f(*primals):
            logits, aux = program(parameters, join(*primals), rewrites)
            return (logits, aux) if has_aux else logits

        primals = take_apart(x)
        logits, pullback = lrp.vjp(f, *primals, rules=recipe.rules, has_aux=has_aux)[:2]
        relevance = pullback(seed)
        return join(*relevance) if len(primals) > 1 else join(relevance), logits

    return explained


def measure(program: Program, rewrites: tuple[Rewrite, ...], recipe: Recipe) -> dict[str, Any]:
    """Relevance, and by parameters and x the gradients of the logits and of the relevance."""
    arguments = program.draw()
    seed, weights, direction = _directions(program)
    explained = explain(program, rewrites, recipe)
    closed = parameters_are_closed(rewrites)

    def both(arguments):
        parameters = program.draw()[0] if closed else arguments[0]
        relevance, logits = explained(parameters, arguments[1], seed)
        return ((relevance * direction).sum(), (logits * weights).sum()), relevance

    def measured(arguments):
        (value, total), pull, relevance = jax.vjp(both, arguments, has_aux=True)
        zero, one = jnp.zeros_like(value), jnp.ones_like(total)
        return {
            "heatmap": relevance,
            "gradient": pull((zero, one))[0],
            "second order": pull((one, zero))[0],
            "value": value,
        }

    traced = Traced(measured, arguments)
    found = traced(arguments)
    stopped = any(piece.option == "stopped" for _, piece, _, _ in program.numbered())
    if "constants" not in recipe.traits and not stopped:
        found["differences"] = _differences(traced, arguments, found["second order"])
    return found


def _directions(program):
    draw = np.random.default_rng(program.seed + 1)
    shape = INPUTS[program.family]
    logits = (shape[0], CLASSES)
    return draw.standard_normal(logits), draw.standard_normal(logits), draw.standard_normal(shape)


def _differences(traced, arguments, gradient) -> float:
    """How far central differences along a random direction are, where no kink lies between."""
    draw = np.random.default_rng(0)
    way = jax.tree.map(lambda a: draw.standard_normal(a.shape), arguments)
    products = jax.tree.map(np.vdot, gradient, way)
    slope = sum(map(float, jax.tree.leaves(products)))
    size = np.sqrt(sum(float(np.vdot(g, g)) for g in jax.tree.leaves(gradient))) + 1e-12

    alone = traced.only("value")

    def value(step):
        return float(alone(jax.tree.map(lambda a, w: a + step * w, arguments, way)))

    return min(abs((value(h) - value(-h)) / (2 * h) - slope) / size for h in STEPS)


def truth(program: Program) -> Any:
    """The gradient of the weighted logits of the plain program, by plain JAX."""
    arguments = program.draw()
    _, weights, _ = _directions(program)
    gradient = jax.grad(lambda arguments: (program(*arguments)[0] * weights).sum())
    return Traced(gradient, arguments)(arguments)


def check(program: Program, rewrites: tuple[Rewrite, ...], rule: str) -> Verdict:
    """The twin's explanation beside the plain one's; `rule` is one of `RECIPES`."""
    recipe = RECIPES[rule]
    with jax.enable_x64(True), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        plain, gradient = plain_one(program, rule)
        if isinstance(plain, Verdict):
            return dataclasses.replace(plain, status=f"plain {plain.status}")
        twin = _attempt(program, rewrites, recipe)
        if isinstance(twin, Verdict):
            return twin
        return compare(plain, twin, gradient, closed=parameters_are_closed(rewrites))


@functools.lru_cache(maxsize=16)
def plain_one(program: Program, rule: str) -> tuple[Any, Any]:
    """What the plain program gives, or what is wrong; and the true gradient of its logits."""
    found, gradient = _attempt(program, (), RECIPES[rule]), truth(program)
    if isinstance(found, Verdict):
        return found, gradient
    verdict = compare(found, found, gradient)
    return (found if verdict.status == "right" else verdict), gradient


def _attempt(program, rewrites, recipe) -> dict[str, Any] | Verdict:
    try:
        return measure(program, rewrites, recipe)
    except UserError as error:
        return Verdict("refused", message=str(error))
    except Exception as error:  # a crash of the engine is a finding, whatever its type
        return Verdict("crashed", message=f"{type(error).__name__}: {error}")


def parameters_are_closed(rewrites: tuple[Rewrite, ...]) -> bool:
    """Whether the twin has its parameters as constants, which have no gradient."""
    return any(r.name == "parameters closed over" for r in rewrites)


def compare(plain, twin, gradient, *, closed: bool = False) -> Verdict:
    """A verdict on the twin; where parameters are closed over, by the gradients by x only."""

    def moved(gradients):
        return gradients[1] if closed else gradients

    errors = {
        "heatmap": _error(twin["heatmap"], plain["heatmap"]),
        "gradient": _error(moved(twin["gradient"]), moved(gradient)),
        "second order": _error(moved(twin["second order"]), moved(plain["second order"])),
    }
    if "differences" in twin:
        errors["differences"] = float(twin["differences"])
    good = all(error <= LIMITS[name] for name, error in errors.items())
    return Verdict("right" if good else "wrong", errors)


def _error(found: Any, expected: Any) -> float:
    """The largest deviation over all leaves, relative to the largest expected value."""
    pairs = list(zip(*map(jax.tree.leaves, (found, expected)), strict=True))
    scale = max(float(np.abs(e).max()) for _, e in pairs) + 1e-12
    deviations = [float(np.abs(f - e).max()) for f, e in pairs]
    return float("inf") if not np.isfinite(deviations).all() else max(deviations) / scale
