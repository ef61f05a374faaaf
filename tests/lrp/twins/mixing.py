"""Where relevant values meet: gates, attention, sums, concatenations, recurrences."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import lax, nn

from twins.layers import Spelling, only

# Gates: one layer of twice the width, half of it through a tanh, half through a sigmoid


def _gate(halves, product):
    def apply(p, x):
        a, b = halves(x @ p["w"] + p["b"])
        return product(jnp.tanh(a), nn.sigmoid(b))

    return apply


def _slices(y):
    half = y.shape[-1] // 2
    return y[..., :half], y[..., half:]


def _two_layers(p, x):
    half = p["b"].shape[0] // 2
    a = x @ p["w"][:, :half] + p["b"][:half]
    b = x @ p["w"][:, half:] + p["b"][half:]
    return jnp.tanh(a) * nn.sigmoid(b)


def _multiply(a, b):
    return a * b


def _unstacked(y):
    a, b = jnp.moveaxis(y.reshape(*y.shape[:-1], 2, -1), -2, 0)
    return a, b


GATE = {
    "plain": Spelling(_gate(_slices, _multiply)),
    "b * a": Spelling(_gate(_slices, lambda a, b: b * a)),
    "einsum": Spelling(_gate(_slices, lambda a, b: jnp.einsum("...i,...i->...i", a, b))),
    "jnp.split": Spelling(_gate(lambda y: jnp.split(y, 2, -1), _multiply)),
    "unstack": Spelling(_gate(_unstacked, _multiply)),
    "two layers": Spelling(_two_layers),
    "remat, both outputs": Spelling(
        _gate(_slices, lambda a, b: _multiply(*jax.checkpoint(lambda a, b: (a, b))(a, b)))
    ),
    "vmap": Spelling(_gate(_slices, jax.vmap(_multiply))),
}

PARAMETER_GATE = {
    "plain": Spelling(lambda p, x: x * jnp.tanh(p["g"])),
    "einsum": Spelling(lambda p, x: jnp.einsum("...i,i->...i", x, jnp.tanh(p["g"]))),
    "remat of (x, g)": Spelling(
        lambda p, x: _multiply(*jax.checkpoint(lambda x, g: (x, jnp.tanh(g)))(x, p["g"]))
    ),
    "jit of (x, g)": Spelling(
        lambda p, x: _multiply(*jax.jit(lambda x, g: (x, jnp.tanh(g)))(x, p["g"]))
    ),
    "cond of (x, g)": Spelling(
        lambda p, x: _multiply(
            *lax.cond(
                p["g"][0] < 99, lambda x, g: (x, g), lambda x, g: (2 * x, g), x, jnp.tanh(p["g"])
            )
        )
    ),
    "scan of (x, g)": Spelling(
        lambda p, x: _multiply(
            *lax.scan(lambda c, _: ((c[0], jnp.tanh(c[1])), None), (x, p["g"]), None, length=1)[0]
        )
    ),
    "vmap": Spelling(lambda p, x: jax.vmap(_multiply, (0, None))(x, jnp.tanh(p["g"]))),
}


def _excite(product):
    def apply(p, x):
        squeezed = nn.relu(x.mean((1, 2)) @ p["w"] + p["b"])
        return product(x, nn.sigmoid(squeezed @ p["u"] + p["c"]))

    return apply


EXCITE = {
    "plain": Spelling(_excite(lambda x, s: x * s[:, None, None, :])),
    "einsum": Spelling(_excite(lambda x, s: jnp.einsum("bhwc,bc->bhwc", x, s))),
    "vmap": Spelling(_excite(jax.vmap(_multiply))),
    "reshape": Spelling(_excite(lambda x, s: s.reshape(s.shape[0], 1, 1, -1) * x)),
}


# Attention over (B, T, C), two heads; causal where the option says so


def _exponentials(s):
    return jnp.exp(s - lax.stop_gradient(s.max(-1, keepdims=True)))


def _total(e):
    return e.sum(-1, keepdims=True)


SOFTMAX = {
    "plain": nn.softmax,
    "exp / sum": lambda s: jnp.exp(s) / _total(jnp.exp(s)),
    "shifted": lambda s: _exponentials(s) / _total(_exponentials(s)),
    "exp(log_softmax)": lambda s: jnp.exp(nn.log_softmax(s)),
    "exp(s - logsumexp)": lambda s: jnp.exp(s - nn.logsumexp(s, -1, keepdims=True)),
    "exp(s - log(sum))": lambda s: jnp.exp(s - jnp.log(_total(jnp.exp(s)))),
    "e * (1 / sum)": lambda s: (lambda e: e * (1 / _total(e)))(jnp.exp(s)),
    "e / einsum": lambda s: (lambda e: e / jnp.einsum("...j->...", e)[..., None])(jnp.exp(s)),
    "e / (e @ 1)": lambda s: (lambda e: e / (e @ jnp.ones((e.shape[-1], 1))))(jnp.exp(s)),
    "where=True": lambda s: nn.softmax(s, where=jnp.ones(s.shape, bool)),
    "in jit": jax.jit(lambda s: jnp.exp(s) / _total(jnp.exp(s))),
    "sum in remat": lambda s: (lambda e: e / jax.checkpoint(_total)(e))(jnp.exp(s)),
    "e in remat": lambda s: (lambda e: e / _total(e))(jax.checkpoint(jnp.exp)(s)),
    "barrier on e": lambda s: (lambda e: e / _total(e))(lax.optimization_barrier(jnp.exp(s))),
    "vmap": jax.vmap(nn.softmax),
    "transposed": lambda s: nn.softmax(s.swapaxes(-1, -2), axis=-2).swapaxes(-1, -2),
}


def _kept(s):
    return jnp.tril(jnp.ones(s.shape[-2:], bool))


MASKED_SOFTMAX = {
    "plain": lambda s: nn.softmax(jnp.where(_kept(s), s, -1e9)),
    "-inf": lambda s: nn.softmax(jnp.where(_kept(s), s, -jnp.inf)),
    "finfo.min": lambda s: nn.softmax(jnp.where(_kept(s), s, jnp.finfo(s.dtype).min)),
    "added": lambda s: nn.softmax(s + jnp.where(_kept(s), 0, -1e9)),
    "added -inf": lambda s: nn.softmax(s + jnp.where(_kept(s), 0, -jnp.inf)),
    "where=": lambda s: nn.softmax(s, where=_kept(s)),
    "e * mask / sum": lambda s: (lambda e: e / _total(e))(jnp.exp(s) * _kept(s)),
    "where(e) / sum": lambda s: (lambda e: e / _total(e))(jnp.where(_kept(s), jnp.exp(s), 0)),
}


def _heads(y):
    return y.reshape(*y.shape[:-1], 2, -1)


def _attention(softmax, qkv=None, product=None):
    def apply(p, x):
        q, k, v = (qkv or _three_slices)(x, p)
        if product is not None:
            return product(q, k, v, softmax)
        scores = jnp.einsum("bthd,bshd->bhts", q, k) / jnp.sqrt(q.shape[-1])
        mixed = jnp.einsum("bhts,bshd->bthd", softmax(scores), v)
        return mixed.reshape(x.shape[0], x.shape[1], -1)

    return apply


def _three_slices(x, p):
    y = x @ p["w"] + p["b"]
    size = y.shape[-1] // 3
    return tuple(_heads(y[..., i * size : (i + 1) * size]) for i in range(3))


def _three_layers(x, p):
    w, b = jnp.split(p["w"], 3, -1), jnp.split(p["b"], 3)
    return tuple(_heads(x @ w + b) for w, b in zip(w, b, strict=True))


def _split(x, p):
    return tuple(map(_heads, jnp.split(x @ p["w"] + p["b"], 3, -1)))


def _unpacked(x, p):
    y = (x @ p["w"] + p["b"]).reshape(*x.shape[:2], 3, 2, -1)
    q, k, v = jnp.moveaxis(y, 2, 0)
    return q, k, v


def _kernel_of_heads(x, p):
    w = p["w"].reshape(p["w"].shape[0], 6, -1)
    y = jnp.einsum("bti,ihd->bthd", x, w) + p["b"].reshape(6, -1)
    return y[:, :, :2], y[:, :, 2:4], y[:, :, 4:]


def _matmuls(q, k, v, softmax):
    q, k, v = (a.transpose(0, 2, 1, 3) for a in (q, k, v))
    mixed = softmax(q @ k.swapaxes(-1, -2) / jnp.sqrt(q.shape[-1])) @ v
    return mixed.transpose(0, 2, 1, 3).reshape(q.shape[0], q.shape[2], -1)


def _one_head_after_the_other(q, k, v, softmax):
    heads = []
    for h in range(q.shape[2]):
        scores = q[:, :, h] @ k[:, :, h].swapaxes(1, 2) / jnp.sqrt(q.shape[-1])
        heads.append(softmax(scores) @ v[:, :, h])
    return jnp.concatenate(heads, -1)


def _vmapped_heads(q, k, v, softmax):
    def head(q, k, v):
        return softmax((q @ k.T / jnp.sqrt(q.shape[-1]))[None])[0] @ v

    y = jax.vmap(jax.vmap(head, 1, 1))(q, k, v)
    return y.reshape(*y.shape[:2], -1)


def _scaled_query(q, k, v, softmax):
    scores = jnp.einsum("bthd,bshd->bhts", q / jnp.sqrt(q.shape[-1]), k)
    return jnp.einsum("bhts,bshd->bthd", softmax(scores), v).reshape(*q.shape[:2], -1)


def attention(softmaxes):
    plain = softmaxes["plain"]
    return {
        **{name: Spelling(_attention(softmax)) for name, softmax in softmaxes.items()},
        "three layers": Spelling(_attention(plain, _three_layers)),
        "jnp.split": Spelling(_attention(plain, _split)),
        "q, k, v = qkv": Spelling(_attention(plain, _unpacked)),
        "kernel of heads": Spelling(_attention(plain, _kernel_of_heads)),
        "matmul": Spelling(_attention(plain, product=_matmuls)),
        "head by head": Spelling(_attention(plain, product=_one_head_after_the_other)),
        "heads by vmap": Spelling(_attention(plain, product=_vmapped_heads)),
        "scaled query": only(_attention(plain, product=_scaled_query), "plain layers"),
    }


ATTENTION = attention(SOFTMAX)
CAUSAL_ATTENTION = attention(MASKED_SOFTMAX)


# Mixture of experts: a softmax over experts, all of them computed


def _experts(combine, softmax=nn.softmax):
    def apply(p, x):
        chosen = softmax(x @ p["w"] + p["b"])
        y = (x @ p["u"] + p["c"]).reshape(*x.shape[:-1], chosen.shape[-1], -1)
        return combine(chosen, jnp.tanh(y))

    return apply


EXPERTS = {
    "plain": Spelling(_experts(lambda s, y: jnp.einsum("...e,...ei->...i", s, y))),
    "matmul": Spelling(_experts(lambda s, y: (s[..., None, :] @ y)[..., 0, :])),
    "exp / sum": Spelling(
        _experts(lambda s, y: jnp.einsum("...e,...ei->...i", s, y), SOFTMAX["exp / sum"])
    ),
    "product and sum": only(_experts(lambda s, y: (s[..., None] * y).sum(-2)), "plain sums"),
}


# Sums and concatenations of the input and a branch of it

RESIDUAL = {
    "plain": Spelling(lambda p, x, y: x + y),
    "y + x": Spelling(lambda p, x, y: y + x),
    "y - (-x)": Spelling(lambda p, x, y: y - (-x)),
    "jnp.add in jit": Spelling(lambda p, x, y: jax.jit(jnp.add)(x, y)),
    "sum of stack": only(lambda p, x, y: jnp.stack([x, y]).sum(0), "plain sums"),
    "vmap": Spelling(lambda p, x, y: jax.vmap(jnp.add)(x, y)),
    "barrier of both": Spelling(lambda p, x, y: jnp.add(*lax.optimization_barrier((x, y)))),
}


def _written(p, x, y):
    size = x.shape[-1]
    both = jnp.zeros((*x.shape[:-1], size + y.shape[-1]))
    return both.at[..., :size].set(x).at[..., size:].set(y)


def _padded_sum(p, x, y):
    none = ((0, 0),) * (x.ndim - 1)
    return jnp.pad(x, (*none, (0, y.shape[-1]))) + jnp.pad(y, (*none, (x.shape[-1], 0)))


CONCAT = {
    "plain": Spelling(lambda p, x, y: jnp.concatenate([x, y], -1)),
    "first axis": Spelling(
        lambda p, x, y: jnp.moveaxis(
            jnp.concatenate([jnp.moveaxis(x, -1, 0), jnp.moveaxis(y, -1, 0)]), 0, -1
        )
    ),
    "stack": Spelling(lambda p, x, y: jnp.stack([x, y], -2).reshape(*x.shape[:-1], -1)),
    "at[].set": Spelling(_written),
    "padded sum": only(_padded_sum, "plain sums"),
}

TWICE = {
    "plain": Spelling(lambda p, x: jnp.concatenate([x, x], -1)),
    "tile": Spelling(lambda p, x: jnp.tile(x, (1,) * (x.ndim - 1) + (2,))),
    "stack": Spelling(lambda p, x: jnp.stack([x, x], -2).reshape(*x.shape[:-1], -1)),
    "broadcast": Spelling(
        lambda p, x: jnp.broadcast_to(x[..., None, :], (*x.shape[:-1], 2, x.shape[-1])).reshape(
            *x.shape[:-1], -1
        )
    ),
    "gather": Spelling(lambda p, x: x[..., jnp.arange(2 * x.shape[-1]) % x.shape[-1]]),
}


# Recurrences over (B, T, C): the last state; the first token is the first state


def _cell(p, h, a):
    return jnp.tanh(h @ p["w"] + a)


def _gated_cell(p, h, a):
    """A minimal gated unit: its gate looks at the state."""
    return h + nn.sigmoid(h @ p["u"] + p["c"]) * jnp.tanh(h @ p["w"] + a)


def _inputs(p, x):
    return x @ p["v"] + p["b"]


def recurrence(cell):
    def unrolled(p, x):
        a, h = _inputs(p, x), x[:, 0]
        for t in range(1, x.shape[1]):
            h = cell(p, h, a[:, t])
        return h

    def scanned(p, x):
        a = _inputs(p, x).swapaxes(0, 1)
        return lax.scan(lambda h, a: (cell(p, h, a), None), x[:, 0], a[1:])[0]

    def last_output(p, x):
        a = _inputs(p, x).swapaxes(0, 1)

        def step(h, a):
            h = cell(p, h, a)
            return h, h

        return lax.scan(step, x[:, 0], a[1:])[1][-1]

    def counted(p, x):
        a = _inputs(p, x)

        def step(t, carry):
            h, n = carry
            return cell(p, h, a[:, t]), n + p["b"]

        return lax.fori_loop(1, x.shape[1], step, (x[:, 0], p["b"]))[0]

    def reversed_(p, x):
        a = _inputs(p, x)[:, :0:-1].swapaxes(0, 1)
        return lax.scan(lambda h, a: (cell(p, h, a), None), x[:, 0], a, reverse=True)[0]

    def rematerialised(p, x):
        a = _inputs(p, x).swapaxes(0, 1)
        step = jax.checkpoint(lambda h, a: (cell(p, h, a), None))
        return lax.scan(step, x[:, 0], a[1:])[0]

    def carried_parameters(p, x):
        a = _inputs(p, x).swapaxes(0, 1)

        def step(carry, a):
            h, own = carry
            return (cell(own, h, a), own), None

        return lax.scan(step, (x[:, 0], p), a[1:])[0][0]

    def vmapped(p, x):
        return jax.vmap(lambda s: scanned(p, s[None])[0])(x)

    def unroll_two(p, x):
        a = _inputs(p, x).swapaxes(0, 1)
        return lax.scan(lambda h, a: (cell(p, h, a), None), x[:, 0], a[1:], unroll=2)[0]

    return {
        "plain": Spelling(unrolled),
        "scan": Spelling(scanned),
        "scan, last output": Spelling(last_output),
        "fori_loop": Spelling(counted),
        "reverse scan": Spelling(reversed_),
        "remat in scan": Spelling(rematerialised),
        "parameters carried": Spelling(carried_parameters),
        "scan in vmap": Spelling(vmapped),
        "scan, unroll=2": Spelling(unroll_two),
    }


RECURRENCE = recurrence(_cell)
GATED_RECURRENCE = recurrence(_gated_cell)
