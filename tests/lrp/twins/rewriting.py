"""Wrappers around parts of a program, identities between them, and ways to hand things over."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.ad_checkpoint import checkpoint_name

from isnet_jax import lrp


@dataclasses.dataclass(frozen=True)
class Wrap:
    """`apply(run, parameters, h)` is `run(parameters, h)`, a value and auxiliary ones.

    same_shape: the value's shape must not change in it. separable: samples must not meet in it.
    no_aux: auxiliary values do not come out.
    """

    apply: Callable[..., Any]
    same_shape: bool = False
    separable: bool = False
    no_aux: bool = False


def _first(tree):
    return jax.tree.map(lambda a: a[0], tree)


def _added(tree):
    return jax.tree.map(lambda a: a[None], tree)


def _doubled(run):
    return lambda p, h: jax.tree.map(lambda a: 2 * a, run(p, h))


def _any(p, h):
    """A number that no branch is taken for."""
    leaves = jax.tree.leaves(p)
    return leaves[0].ravel()[0] if leaves else jnp.zeros(())


def _sample(run, p):
    return lambda s: _first(run(p, s[None]))


WRAPS = {
    "jit": Wrap(lambda run, p, h: jax.jit(run)(p, h)),
    "jit, inline": Wrap(lambda run, p, h: jax.jit(run, inline=True)(p, h)),
    "jit, closure": Wrap(lambda run, p, h: jax.jit(lambda h: run(p, h))(h)),
    "remat": Wrap(lambda run, p, h: jax.checkpoint(run)(p, h)),
    "remat, closure": Wrap(lambda run, p, h: jax.checkpoint(lambda h: run(p, h))(h)),
    "remat, policy": Wrap(
        lambda run, p, h: jax.checkpoint(run, policy=jax.checkpoint_policies.dots_saveable)(p, h)
    ),
    "remat of jit": Wrap(lambda run, p, h: jax.checkpoint(jax.jit(run))(p, h)),
    "cond, equal branches": Wrap(
        lambda run, p, h: lax.cond(_any(p, h) < 9, run, lambda p, h: run(p, h), p, h)
    ),
    "cond, constant": Wrap(lambda run, p, h: lax.cond(True, run, _doubled(run), p, h)),
    "cond by parameters": Wrap(
        lambda run, p, h: lax.cond(_any(p, h) < 99, run, _doubled(run), p, h)
    ),
    "cond by input": Wrap(lambda run, p, h: lax.cond(h.ravel()[0] < 1e9, run, _doubled(run), p, h)),
    "cond, closure": Wrap(
        lambda run, p, h: lax.cond(True, lambda: run(p, h), lambda: _doubled(run)(p, h))
    ),
    "switch": Wrap(lambda run, p, h: lax.switch(1, [_doubled(run), run, run], p, h)),
    "scan over h": Wrap(
        lambda run, p, h: _first(lax.scan(lambda c, h: (c, run(p, h)), None, h[None])[1])
    ),
    "scan around h": Wrap(
        lambda run, p, h: _first(lax.scan(lambda c, _: (c, run(p, h)), None, None, length=1)[1])
    ),
    "scan, h carried": Wrap(
        lambda run, p, h: (lambda c, ys: (c, _first(ys)))(
            *lax.scan(lambda h, _: run(p, h), h, None, length=1)
        ),
        same_shape=True,
    ),
    "scan over parameters": Wrap(
        lambda run, p, h: (lambda c, ys: (c, _first(ys)))(
            *lax.scan(lambda h, p: run(p, h), h, _added(p), length=1)
        ),
        same_shape=True,
    ),
    "scan, all carried": Wrap(
        lambda run, p, h: (lambda c, ys: (c[0], _first(ys)))(
            *lax.scan(lambda c, _: _carried(run(c[1], c[0]), c[1]), (h, p), None, length=1)
        ),
        same_shape=True,
    ),
    "fori_loop": Wrap(
        lambda run, p, h: (lax.fori_loop(0, 1, lambda _, h: run(p, h)[0], h), {}),
        same_shape=True,
        no_aux=True,
    ),
    "lax.map": Wrap(lambda run, p, h: _first(lax.map(lambda h: run(p, h), h[None]))),
    "vmap over samples": Wrap(lambda run, p, h: jax.vmap(_sample(run, p))(h), separable=True),
    "vmap, last axis": Wrap(
        lambda run, p, h: jax.vmap(_sample(run, p), -1)(jnp.moveaxis(h, 0, -1)),
        separable=True,
    ),
    "lax.map over samples": Wrap(lambda run, p, h: lax.map(_sample(run, p), h), separable=True),
    "vmap of one": Wrap(lambda run, p, h: _first(jax.vmap(functools.partial(run, p))(h[None]))),
    "named_scope": Wrap(lambda run, p, h: jax.named_scope("scope")(run)(p, h)),
    "vjp's primal": Wrap(lambda run, p, h: jax.vjp(run, p, h)[0]),
    "jaxpr": Wrap(lambda run, p, h: _through_jaxpr(run, p, h)),
}


def _carried(result, p):
    h, aux = result
    return (h, p), aux


def _through_jaxpr(run, p, h):
    closed, shapes = jax.make_jaxpr(run, return_shape=True)(p, h)
    out = jax.extend.core.jaxpr_as_fun(closed)(*jax.tree.leaves((p, h)))
    return jax.tree.unflatten(jax.tree.structure(shapes), out)


@dataclasses.dataclass(frozen=True)
class Mark:
    """`apply(h, parameters)` returns both unchanged.

    moves: it takes values apart and together again, so that no layer is folded through it.
    hides: what is behind it no longer reads the input.
    """

    apply: Callable[..., Any]
    moves: bool = False
    hides: bool = False


def _on_value(f, **facts):
    return Mark(lambda h, p: (f(h), p), **facts)


def _together(f):
    return Mark(lambda h, p: f((h, p)))


def _same(pair):
    return pair


def _halves(h):
    half = h.shape[-1] // 2
    return jnp.concatenate([h[..., :half], h[..., half:]], -1)


MARKS = {
    "tap": _on_value(lambda h: lrp.tap(h, "a place")),
    "checkpoint_name": _on_value(lambda h: checkpoint_name(h, "a place")),
    "named batch_statistics": _on_value(lambda h: checkpoint_name(h, "batch_statistics")),
    "tap on all": _together(lambda pair: jax.tree.map(lambda a: lrp.tap(a, "all"), pair)),
    "barrier": _on_value(lax.optimization_barrier),
    "barrier on all": _together(lax.optimization_barrier),
    "device_put": _on_value(jax.device_put),
    "device_put of all": _together(jax.device_put),
    "copy": _on_value(jnp.copy),
    "reduce_precision": _on_value(lambda h: lax.reduce_precision(h, 11, 52)),
    "jit of all": _together(jax.jit(_same)),
    "remat of all": _together(jax.checkpoint(_same)),
    "cond of all": _together(lambda pair: lax.cond(True, _same, _same, pair)),
    "cond of all, doubled": _together(
        lambda pair: lax.cond(
            pair[0].ravel()[0] < 1e9, _same, lambda pair: (2 * pair[0], pair[1]), pair
        )
    ),
    "scan of all": _together(
        lambda pair: lax.scan(lambda c, _: (c, None), pair, None, length=1)[0]
    ),
    "scan over all": _together(
        lambda pair: _first(lax.scan(lambda c, a: (c, a), None, _added(pair))[1])
    ),
    "fori_loop of all": _together(lambda pair: lax.fori_loop(0, 1, lambda _, c: c, pair)),
    "transposed twice": _on_value(lambda h: h.T.T),
    "reshaped twice": _on_value(lambda h: h.reshape(-1).reshape(h.shape)),
    "flipped twice": _on_value(lambda h: h[..., ::-1][..., ::-1], moves=True),
    "samples flipped": _on_value(lambda h: h[::-1][::-1], moves=True),
    "halves": _on_value(_halves, moves=True),
    "unstacked": _on_value(lambda h: jnp.stack([*h]), moves=True),
    "padded": _on_value(lambda h: jnp.pad(h, [(0, 1)] * h.ndim)[(slice(-1),) * h.ndim], moves=True),
    "gathered": _on_value(lambda h: h[..., jnp.arange(h.shape[-1])], moves=True),
    "taken": _on_value(lambda h: jnp.take(h, jnp.arange(h.shape[0]), 0), moves=True),
    "rolled": _on_value(lambda h: jnp.roll(jnp.roll(h, 1, -1), -1, -1), moves=True),
    "written": _on_value(lambda h: jnp.zeros_like(h).at[:].set(h), moves=True, hides=True),
    "complex": _on_value(lambda h: lax.complex(h, jnp.zeros_like(h)).real, moves=True, hides=True),
    "where(True)": _on_value(
        lambda h: jnp.where(jnp.ones(h.shape, bool), h, 0), moves=True, hides=True
    ),
    "h * 1": _on_value(lambda h: h * 1.0),
    "h + 0": _on_value(lambda h: h + 0.0),
    "-(-h)": _on_value(lambda h: jnp.negative(-h), moves=True, hides=True),
    "h @ eye": _on_value(lambda h: h @ jnp.eye(h.shape[-1]), moves=True, hides=True),
}

PARAMETERS: dict[str, Callable[[Any], Any]] = {
    "tap": lambda w: lrp.tap(w, "a parameter"),
    "checkpoint_name": lambda w: checkpoint_name(w, "a parameter"),
    "named batch_statistics": lambda w: checkpoint_name(w, "batch_statistics"),
    "barrier": lax.optimization_barrier,
    "device_put": jax.device_put,
    "copy": jnp.copy,
    "reduce_precision": lambda w: lax.reduce_precision(w, 11, 52),
    "stacked": lambda w: jnp.stack([w, w])[0],
    "flat": lambda w: jnp.concatenate([w.ravel(), w.ravel()])[: w.size].reshape(w.shape),
    "transposed twice": lambda w: w.T.T,
    "jit": lambda w: jax.jit(lambda w: w * 1.0)(w),
    "remat": jax.checkpoint(lambda w: 2 * (w / 2)),
    "scan": lambda w: lax.scan(lambda c, w: (c, w), None, w[None])[1][0],
    "cond": lambda w: lax.cond(w.ravel()[0] < 99, lambda w: w, lambda w: 2 * w, w),
    "exp(log) of its size": lambda w: jnp.sign(w) * jnp.exp(jnp.log(jnp.abs(w))),
    "weight norm": lambda w: (
        w / jnp.sqrt((w * w).sum(0, keepdims=True)) * jnp.sqrt((w * w).sum(0, keepdims=True))
    ),
    "centred and back": lambda w: (w - w.mean(0)) + w.mean(0),
}


GIVE: dict[str, tuple[Callable[[Any], tuple[Any, ...]], Callable[..., Any]]] = {
    "plain": (lambda x: (x,), lambda x: x),
    "parameters closed over": (lambda x: (x,), lambda x: x),
    "dict": (
        lambda x: ({"left": x[..., :2], "right": x[..., 2:]},),
        lambda x: jnp.concatenate([x["left"], x["right"]], -1),
    ),
    "two primals": (
        lambda x: (x[..., :2], x[..., 2:]),
        lambda a, b: jnp.concatenate([a, b], -1),
    ),
    "list of samples": (lambda x: (list(x),), lambda x: jnp.stack(x)),
    "transposed": (lambda x: (x.T,), lambda x: x.T),
    "channels first": (
        lambda x: (jnp.moveaxis(x, -1, 1),),
        lambda x: jnp.moveaxis(x, 1, -1),
    ),
}
