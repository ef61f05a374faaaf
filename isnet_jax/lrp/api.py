"""`vjp`, `relevance` and `tap`: LRP beside `jax.vjp`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.ad_checkpoint import checkpoint_name
from jax.core import Tracer

from isnet_jax.errors import UserError
from isnet_jax.lrp.composites import Composite, as_composite
from isnet_jax.lrp.plan.sites import Context
from isnet_jax.lrp.program import Program
from isnet_jax.lrp.rules import Rule
from isnet_jax.lrp.run.evaluation import carrier_for, token_for, zeros_for
from isnet_jax.lrp.trace.jaxpr import varying_like

Rules = Rule | Composite


def tap(value: Any, name: str) -> Any:
    """Mark a place in a model, for `taps=` and `masks=` of `vjp`; without them it does nothing.

    The same as `jax.ad_checkpoint.checkpoint_name`, which models may use instead.
    """
    return checkpoint_name(value, name)


def vjp(
    f: Callable[..., Any],
    *primals: Any,
    rules: Rules,
    taps: Sequence[str] = (),
    masks: Mapping[str, Any] | None = None,
    has_aux: bool = False,
    strict: bool = True,
    argnums: int | Sequence[int] | None = None,
    batch_axis: int | Literal["auto"] | None = "auto",
) -> tuple[Any, ...]:
    """`f(*primals)` and a pullback that is LRP instead of the gradient.

    `f` is any JAX function, such as a Flax, Equinox or Haiku model, unmodified. It is traced
    once; the result composes with jit, vmap over seeds, remat, pmap and with reverse-mode
    gradients of losses on the relevance.

    Args:
      f: a function of `primals`; pytrees of arrays in and out.
      primals: where it is explained. Leaves of integer type receive no relevance (None).
      rules: a rule or a composite, such as `Epsilon(1e-2)`.
      taps: names of places marked with `tap`; relevance at places of one name is added up. Places
        that do not depend on the primals, such as embeddings of integers, count too.
      masks: factors on the relevance at named places, broadcastable to the value there: a mask of
        channels explains through those channels only (concept relevance propagation, Achtibat et
        al., Nature Machine Intelligence 5, 2023). `jax.vmap` over masks explains many concepts.
      has_aux: `f` returns `(output, auxiliary)`; the auxiliary part is not explained.
      strict: False: an operation without a rule keeps its plain VJP, with one warning.
      argnums: which of the primals are explained, as for `jax.grad`; the others are parameters.
        None: all of them; parameters that are given as primals by mistake are an error then.
      batch_axis: the axis of the primals that runs over the samples, for batch norms in train
        mode; None: there is one sample, without such an axis. "auto": axis 0, if it comes out
        again as an axis of the output.

    Returns:
      `(output, pullback)`, or `(output, pullback, auxiliary)`. The output is computed by
      f's own operations: bit-equal to f's, but where XLA fuses them otherwise.
      `pullback(seed)`, seed like the output (the relevance at a logit is logit times seed),
      returns relevance in the shape of the primal (a tuple if several are explained), in float32 or
      wider; with taps, `(relevance, {name: relevance at the tap})`, after the mask if there is
      one; inside `lax.scan` the taps of all steps are stacked on a leading axis.

    Raises:
      UserError: an operation that LRP has no rule for, a tap or a name that is not there.
    """
    masks = {name: jnp.asarray(mask) for name, mask in (masks or {}).items()}
    context = Context(as_composite(rules), frozenset(taps), frozenset(masks))
    program = Program(f, primals, context, argnums, batch_axis, has_aux)
    program.check(strict)
    program.check_masks(masks)
    leaves = [jnp.asarray(leaf) for leaf in jax.tree.leaves(primals)]
    carriers = [
        carrier_for(leaf) if explained else None
        for leaf, explained in zip(leaves, program.explained, strict=True)
    ]
    tap_carriers = zeros_for(program.tap_shapes(), leaves)

    def run(carriers, tap_carriers, token):
        result = program(leaves, carriers, tap_carriers, masks, token)
        return result if has_aux else (result, ())

    token = token_for(leaves)
    output, pull, auxiliary = jax.vjp(run, carriers, tap_carriers, token, has_aux=True)

    def pullback(seed: Any) -> Any:
        relevances, at_taps, _ = pull(seed)
        relevance = program.selected(relevances)
        return (relevance, at_taps) if taps else relevance

    return (output, pullback, auxiliary) if has_aux else (output, pullback)


def relevance(
    f: Callable[..., Any],
    x: Any,
    *,
    target: Any,
    rules: Rules,
    masks: Mapping[str, Any] | None = None,
    chunk: int | None = None,
    strict: bool = True,
) -> tuple[jax.Array, jax.Array]:
    """Logits and the relevance of one logit, or of every one.

    Args:
      f: x -> logits (B, C).
      x: (B, ...).
      target: a class for all samples (int), one a sample ((B,) ints), or "all".
      rules, masks, strict: as for `vjp`.
      chunk: with "all", explain so many classes at a time (bounded memory); None: all at once.

    Returns:
      Logits (B, C), and relevance like x; with "all", classes on axis 1: (B, C, ...).

    Raises:
      UserError: a target out of range or of another shape, or logits that are not (B, C).
    """
    logits, pullback = vjp(f, x, rules=rules, masks=masks, strict=strict)
    if getattr(logits, "ndim", None) != 2:
        raise UserError(
            f"lrp.relevance: f returned {jax.tree.map(jnp.shape, logits)}; expected logits of "
            "shape (B, C). For other outputs use lrp.vjp and seed its pullback."
        )
    batch, classes = logits.shape

    def explain(target):
        seed = jax.nn.one_hot(jnp.broadcast_to(target, (batch,)), classes, dtype=logits.dtype)
        return pullback(varying_like(seed, logits))

    if isinstance(target, str):
        if target != "all":
            raise UserError(f'lrp.relevance: target is {target!r}; expected ints or "all".')
        if chunk is not None and chunk < 1:
            raise UserError(f"lrp.relevance: chunk is {chunk}; expected at least 1, or None.")
        size = min(chunk or classes, classes)
        if size == classes:
            relevances = jax.vmap(explain)(jnp.arange(classes))
        else:
            relevances = lax.map(explain, jnp.arange(classes), batch_size=size)
        return logits, jax.tree.map(lambda r: jnp.moveaxis(r, 0, 1), relevances)
    target = jnp.asarray(target)
    if target.shape not in ((), (batch,)) or not jnp.issubdtype(target.dtype, jnp.integer):
        raise UserError(
            f"lrp.relevance: target is {target.dtype} of shape {target.shape}; expected an int or "
            f"ints of shape ({batch},), one a sample."
        )
    if not isinstance(target, Tracer):
        wrong = np.asarray(target)[(np.asarray(target) < 0) | (np.asarray(target) >= classes)]
        if wrong.size:
            raise UserError(
                f"lrp.relevance: target {int(wrong.flat[0])} is out of range; the logits have "
                f"{classes} classes, 0 to {classes - 1}."
            )
    return logits, explain(target)
