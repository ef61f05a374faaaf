"""Softmax, log-softmax and logsumexp, recognised by what they compute.

All are built on a *partition*, a sum of exponentials: `e / sum(e)`, `e * (1 / sum(e))`,
`exp(s - logsumexp(s))`, with masks, stabilisers and a maximum that is subtracted first. From the
logits to the result they keep their plain VJP, which in G form is the rule of AttnLRP.

A softmax may be normalised behind the product with what it weighs: `(exp(s) @ v) / sum(exp(s))`
is `softmax(s) @ v`, a product of two relevant values.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from isnet_jax.lrp.trace.dependence import Flow, between, variables
from isnet_jax.lrp.trace.homogeneity import scaling
from isnet_jax.lrp.trace.jaxpr import Constant, Operand, Operation, Variable
from isnet_jax.lrp.trace.primitives import SHAPING
from isnet_jax.lrp.trace.reductions import Reductions, summed_by


class Softmax(NamedTuple):
    """Its logits, and the operations from there to the result in the order they run."""

    logits: Variable
    inside: tuple[Operation, ...]
    normalised: bool
    """Whether the result is a softmax, not a logarithm."""


class Mixture(NamedTuple):
    """`softmax(logits) @ mixed`, normalised last.

    Attributes:
      product: the product, with the exponentials at `side`.
      factor: the position of the partition, or of one over it, in the operation that normalises.
      inside: the operations from the logits to the result.
    """

    logits: Variable
    mixed: Variable
    product: Operation
    side: int
    factor: int
    inside: tuple[Operation, ...]


_EXPONENTIALS = ("exp", "exp2")
_MANY = 8
"""More terms than the argument of any exponential of a softmax has."""
_SUMMED = {"reduce_sum": 0, "cumsum": 0, "scatter-add": 2, "scatter_add": 2}
"""Sums, and the position of what they sum."""
_SCALED = ("mul", "div", "select_n", "add", "sub", "max", "abs", "neg")
_POWERS = ("integer_pow", "pow", "exp", "log")
"""With these one over a sum is written, too: `exp(-log(sum))`."""


def find_softmax(operation: Operation, flow: Flow) -> Softmax | None:
    """The softmax or logarithm of a partition that the operation completes."""
    end = operation.outputs[0] if len(operation.outputs) == 1 else None
    if end is None:
        return None
    exponentials, normalised = _completed(operation, flow)
    if not exponentials:
        return None
    logits = {_logits(o, flow) for exp in exponentials for o in exp.inputs if flow.carries(o)}
    if len(logits) != 1:
        return None
    (root,) = logits
    return None if root is None else Softmax(root, between(root, end, flow), normalised)


def find_mixture(operation: Operation, flow: Flow) -> Mixture | None:
    """The product with a softmax that the operation completes by normalising it."""
    if operation.name not in ("div", "mul"):
        return None
    for factor in (1,) if operation.name == "div" else (1, 0):
        if not all(map(flow.carries, operation.inputs)):
            continue
        product = _unshaped(operation.inputs[1 - factor], flow)
        if product is None or product.name != "dot_general":
            continue
        for side, exponentials in enumerate(product.inputs):
            mixed = product.inputs[1 - side]
            if not flow.carries(mixed) or isinstance(mixed, Constant):
                continue
            contracted = tuple(product.params["dimension_numbers"][0][side])
            if not _sums(operation.inputs[factor], exponentials, contracted, flow):
                continue
            logits = {_logits(o, flow) for e in _exponentials(exponentials, flow) for o in e.inputs}
            (root,) = logits if len(logits) == 1 else (None,)
            if root is not None:
                inside = between(root, operation.outputs[0], flow)
                return Mixture(root, mixed, product, side, factor, inside)
    return None


def _sums(operand: Operand, summed: Operand, axes: tuple[int, ...], flow: Flow) -> bool:
    """Whether the operand is the partition of these exponentials over these axes."""
    if not _partition(operand, flow) or not _exponentials(summed, flow):
        return False
    producer = flow.made_by(operand)
    while producer is not None and producer.name in (*SHAPING, *_SCALED, "integer_pow"):
        depending = flow.depending_inputs(producer)
        producer = flow.made_by(depending[0]) if len(depending) == 1 else None
    if producer is None or producer.name != "reduce_sum":
        return False
    same = flow.origin(producer.inputs[0]) == flow.origin(summed)
    return same and tuple(sorted(producer.params["axes"])) == tuple(sorted(axes))


def _completed(operation: Operation, flow: Flow) -> tuple[set[Operation], bool]:
    """The exponentials of the partition by which the operation normalises, and whether it does."""
    if operation.name in ("div", "mul"):
        for position in (1,) if operation.name == "div" else (1, 0):
            factor, value = operation.inputs[position], operation.inputs[1 - position]
            if flow.depends(factor) and flow.depends(value):
                summed = _partition(factor, flow)
                degree = 1 if operation.name == "div" else -1
                if _exponentials(value, flow) & summed and _grows(factor, summed, degree, flow):
                    return summed, True
    elif operation.name in _EXPONENTIALS:
        return _logsumexps(_terms(operation.inputs[0], flow), flow), True
    elif operation.name == "log":
        return _partition(operation.inputs[0], flow), False
    elif operation.name in ("sub", "add"):
        terms = _terms(operation.outputs[0], flow)
        return _logsumexps(terms, flow) if len(terms) > 1 else set(), False
    return set(), False


def _grows(factor: Operand, summed: Iterable[Operation], degree: int, flow: Flow) -> bool:
    """Whether a partition, or one over it, grows by this power of its exponentials."""
    scale = scaling(factor, {output for exp in summed for output in exp.outputs}, flow)
    return scale is not None and not scale.logarithm and scale.degree == degree


def _logsumexps(terms: Iterable[Operand], flow: Flow) -> set[Operation]:
    """The exponentials behind the logarithm of a partition, if one of the terms is one."""
    for term in terms:
        producer = _unshaped(term, flow)
        if producer is not None and producer.name == "log":
            found = _partition(producer.inputs[0], flow)
            if found:
                return found
    return set()


def _terms(operand: Operand, flow: Flow) -> list[Operand]:
    """The terms of a sum, looked into; a sum of many terms is one term."""
    found, stack = [], [operand]
    while stack:
        current = stack.pop()
        producer = _unshaped(current, flow)
        if producer is None or producer.name not in ("add", "sub", "add_any", "neg"):
            found.append(current)
        else:
            stack.extend(o for o in reversed(producer.inputs) if flow.depends(o))
        if len(found) + len(stack) > _MANY:
            return [operand]
    return found


def _partition(operand: Operand, flow: Flow) -> set[Operation]:
    """The exponentials that the value is a (scaled, stabilised) sum of, or one over it."""
    found, stack, seen = set(), [operand], set()
    while stack:
        current = flow.origin(stack.pop())
        if isinstance(current, Constant) or current in seen or not flow.depends(current):
            continue
        seen.add(current)
        producer = flow.producer.get(current)
        if producer is None:
            return set()
        summed = _summed(producer, flow)
        exponentials = set() if summed is None else _exponentials(summed, flow)
        if exponentials:
            found |= exponentials
        elif producer.name in (*SHAPING, *_SCALED, *_POWERS):
            if producer.name == "log" and current == operand:
                return set()
            stack.extend(variables(producer.inputs))
        elif producer.name in ("gather", "slice", "dynamic_slice"):  # of sums over segments
            stack.extend(variables(producer.inputs[:1]))
        else:
            return set()
    return found


def _summed(operation: Operation, flow: Flow) -> Operand | None:
    """What the operation sums, if that is all it does."""
    if operation.name == "dot_general":
        return summed_by(operation, flow)
    if operation.name in ("add", "add_any"):
        pieces = flow.analysis(Reductions).sum_of_pieces(operation.outputs[0])
        return pieces.source if pieces is not None and pieces.whole else None
    position = _SUMMED.get(operation.name)
    return None if position is None else operation.inputs[position]


def _exponentials(operand: Operand, flow: Flow) -> set[Operation]:
    """The exponentials that the value is a masked multiple of, {} if it is anything else."""
    found, stack = set(), [operand]
    while stack:
        producer = flow.made_by(stack.pop())
        if producer is None:
            return set()
        if producer.name in _EXPONENTIALS:
            found.add(producer)
        elif producer.name in ("mul", "div", "select_n", *SHAPING):
            carrying = list(dict.fromkeys(flow.carrying_inputs(producer)))
            if len(carrying) != 1:
                return set()
            stack.extend(carrying)
        else:
            return set()
    return found


def _logits(operand: Operand, flow: Flow) -> Variable | None:
    """What is left of an exponential's argument without what is the same for all its elements."""
    varying = [t for t in _terms(operand, flow) if flow.carries(t) and not _reduced(t, flow)]
    if len(varying) == 1:
        (only,) = varying
        return None if isinstance(only, Constant) else only
    return None if isinstance(operand, Constant) else operand


def _reduced(operand: Operand, flow: Flow) -> bool:
    """Whether the value is a maximum or a partition's logarithm, repeated along an axis."""
    producer = _unshaped(operand, flow)
    while producer is not None and producer.name in ("max", "stop_gradient"):
        depending = flow.depending_inputs(producer)
        producer = _unshaped(depending[0], flow) if len(depending) == 1 else None
    if producer is None:
        return False
    return producer.name == "reduce_max" or (
        producer.name == "log" and bool(_partition(producer.inputs[0], flow))
    )


def _unshaped(operand: Operand, flow: Flow) -> Operation | None:
    producer = flow.made_by(operand)
    while producer is not None and producer.name in SHAPING:
        producer = flow.made_by(producer.inputs[0])
    return producer
