"""What is refused, in words: the place, the reason, and the ways out."""

from __future__ import annotations

from isnet_jax.lrp.plan.sites import Plan, Site

_DECOMPOSED = (
    "a matrix that depends on the input is decomposed, and its parts share relevance in no known "
    "way. If what is computed from them is a statistic (a whitening, a scale), say so: "
    'lrp.mark(value, "norm_statistics"); if it is a constant: lrp.mark(value, "constant").'
)
_SOLVED = (
    "equations are solved whose matrix depends on the input; with a matrix that does not, the "
    "solution is a linear layer. If the matrix is a statistic, say so: "
    'lrp.mark(matrix, "norm_statistics"); if it is a constant: lrp.mark(matrix, "constant").'
)
_REASONS = {
    "while": (
        "a while loop has no reverse-mode derivative. Use jax.lax.scan, or jax.lax.fori_loop with "
        "fixed bounds."
    ),
    "shard_map": (
        "each device sees a part of the values, and LRP needs the whole program of one of them. "
        "Explain inside of it: jax.shard_map(lambda x: lrp.vjp(f, x, rules=...)[1](seed), ...), "
        "where f is what the devices run."
    ),
    "custom_linear_solve": _SOLVED,
    "triangular_solve": _SOLVED,
    **dict.fromkeys(("lu", "cholesky", "eigh", "eig", "qr", "svd", "schur"), _DECOMPOSED),
}
_DIVIDED = (
    'If it normalises by a statistic, mark that: lrp.mark(denominator, "norm_statistics"). '
    "A softmax that is written out is known where the sum of all its exponentials divides them; "
    "one that is summed up in a scan (online, flash) is not, and its sum is no such statistic: use "
    "jax.nn.softmax. "
    "Else three ways out: "
)


def no_rule(plan: Plan, site: Site) -> str:
    """Of an operation through which relevance cannot pass."""
    operation = site.operation
    name, where = operation.name, operation.where
    reason = _REASONS.get(name)
    if reason is not None:
        if name == "while":
            return f"lrp: relevance would pass the while loop at {where}: {reason}"
        return (
            f"lrp: relevance would pass the operation {name!r} at {where}: {reason} "
            "(strict=False keeps its plain VJP.)"
        )
    shapes = ", ".join(str(plan.graph.shape(operand)) for operand in operation.inputs)
    ways = _DIVIDED if name == "div" else "Two ways out: "
    return (
        f"lrp: no rule for the operation {name!r} at {where}, inputs of shapes {shapes}, through "
        f'which relevance would pass. {ways}lrp.register_rule("{name}", "linear" | "activation" | '
        "a function), or put the function that uses it under a named jax.jit and register a rule "
        "for that name. (strict=False keeps its plain VJP.)"
    )


def is_of_a_captured_model(error: Exception) -> bool:
    """Whether Flax NNX says that a traced function changes a model from outside of it."""
    return type(error).__name__ == "TraceContextError" or (
        isinstance(error, ValueError) and "from different trace level" in str(error)
    )


def changes_a_model(error: Exception) -> str:
    """Of a Flax model that a traced function would change."""
    return (
        f"lrp: f changes a Flax model that it captures ({str(error).partition(' (http')[0]}), as "
        "batch norm and dropout do in train mode, and counters of random numbers, as nnx.RNN's, in "
        "every mode; a traced function must not. Use model.eval(), or, where that is not enough, "
        "give f a copy: `graph, state = nnx.split(model)` and in f `copy = nnx.merge(graph, state, "
        "copy=True)`. With has_aux=True, f returns (copy(x), nnx.state(copy)) to keep what changed."
    )
