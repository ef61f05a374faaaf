"""Layers that are written in pieces, which rules do not see as one: said, or refused."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterable, Iterator, Mapping

from isnet_jax.lrp.plan.layers import channel_axes, is_channelwise, is_fixed_map, leaving
from isnet_jax.lrp.plan.sites import LayerSite, Plan
from isnet_jax.lrp.rules import BackwardRule, Epsilon, Flex, Rule, is_plain
from isnet_jax.lrp.trace.batch import Samples
from isnet_jax.lrp.trace.dependence import Edge
from isnet_jax.lrp.trace.jaxpr import Operand, Operation, Variable, scan_counts
from isnet_jax.lrp.trace.primitives import MOVES, SHAPING
from isnet_jax.lrp.trace.shapes import Channels, moved_axes, varying_axes

_JOINING = ("concatenate", "stack")
_CUTTING = ("slice", "split", "unstack", "dynamic_slice", "gather", "roll")
_MOST_MOVES = 4
"""So many moves stand between a layer and its bias at most."""
_SMALL = 1e-5
"""The largest stabiliser that does not count."""


def note_pieces(plan: Plan) -> None:
    """Add to the plan's guesses and problems what belongs to its layers but is not folded in."""
    ends = _ruled_layers(plan)
    plan.guesses.extend(dict.fromkeys([*_guesses(ends, plan), *_moved(ends.values(), plan)]))
    for scan, body in plan.bodies.items():
        if scan.name == "scan":
            plan.problems.extend(_behind_scan(scan, body, plan))


def note_layer(
    site: LayerSite, torn: Operation | None, scales: Collection[Edge], plan: Plan
) -> None:
    """Of a layer with a rule of its own: what of it is elsewhere, and what scales it behind.

    Args:
      torn: an operation of the layer on the other side of a cond.
      scales: the scales of norms that stand behind a map of what they were reduced from.
    """
    operation = site.operation
    if plan.graph.is_complex(operation.outputs[0]):
        plan.problems.append(
            f"lrp: the layer {site.name or '(unnamed)'} at {operation.where} has complex numbers, "
            f"which have no sign; {site.rule} is for real ones. Give this layer lrp.Gradient() by "
            "the composite's names, or write it with the real and the imaginary parts."
        )
    if torn is not None:
        plan.problems.append(
            f"lrp: the layer {site.name or '(unnamed)'} at {operation.where} and the operation "
            f"{torn.name!r} at {torn.where} belong together, but one of them is in the "
            f"branches of a cond; {site.rule} needs both. Put both into the branches, or both "
            "outside."
        )
    following = plan.live_consumer(site.at)
    if following is not None and any(
        (following, position) in scales for position in range(len(following.inputs))
    ):
        plan.guesses.append(
            f"{operation.where}: the layer is scaled at {following.where} by a norm of its "
            "input; what is added behind that is taken for a summand, not for its bias, and "
            "the rule's stabiliser counts before the scale. Scale the input to change that"
        )


def note_fixed_map(operation: Operation, x: Variable, plan: Plan, samples: Samples | None) -> None:
    """A product taken for a fixed map, not for a layer: where it may be one, or a centre."""
    side = operation.inputs.index(x)
    other = operation.inputs[1 - side]
    if _mixes_samples(operation, x, side, plan, samples):
        plan.guesses.append(
            f"{operation.where}: a product mixes the samples; it is taken for a fixed map. If "
            "it centres a batch norm, subtract the mean instead: h - h.mean(0)"
        )
    if not plan.flow.depends(other) and plan.weights.origin(other) == "text":
        plan.guesses.append(
            f"{operation.where}: a matrix that is written into the function is taken for a "
            'fixed map, not for a layer; lrp.mark(matrix, "weight") makes it one, '
            'lrp.mark(matrix, "fixed") says that it is none'
        )


def _mixes_samples(
    operation: Operation, x: Variable, side: int, plan: Plan, samples: Samples | None
) -> bool:
    place = None if samples is None else samples.of(x)
    if place is None or operation.name != "dot_general" or place.inner != 1:
        return False
    contracted, _ = operation.params["dimension_numbers"]
    summed = plan.flow.number(operation.inputs[1 - side]) is not None  # a mean or a sum
    return place.axis in contracted[side] and not summed


def note_outer_product(operation: Operation, value: Variable, plan: Plan) -> None:
    """A multiplication by weights that repeats the value is a layer, but not to be seen as one."""
    others = [o for o in operation.inputs if o != value and not plan.flow.depends(o)]
    if len(others) != 1 or plan.weights.origin(others[0]) != "parameter":
        return
    if varying_axes(others[0], plan.flow) - varying_axes(value, plan.flow):
        plan.guesses.append(
            f"{operation.where}: a product with a parameter along an axis that the value has not "
            "is taken for a scale. If it is a part of a dense layer, write that as one, with "
            "jnp.dot or jnp.einsum"
        )


def _ruled_layers(plan: Plan) -> dict[Operand, LayerSite]:
    """The layers with a rule of their own, by where they end."""
    layers = (site for site in plan.sites.values() if isinstance(site, LayerSite))
    return {plan.flow.origin(site.at): site for site in layers if not is_plain(site.rule)}


def _guesses(ends: Mapping[Operand, LayerSite], plan: Plan) -> Iterator[str]:
    for site in ends.values():
        found = _behind(site.at, _axes(site, plan), plan)
        if found is None:
            continue
        following, _, axes = found
        layers = [_made(operand, ends, plan) for operand in following.inputs]
        if len(layers) < 2 or None in layers:
            continue
        inputs = {layer.x for layer, _ in filter(None, layers)}
        if following.name in _JOINING and len(inputs) == 1:
            if (behind := _belongs(*_joined(following, axes), plan)) is not None:
                yield (
                    f"{behind.where}: what is done to the concatenation of layers of one value is "
                    "taken for a summand or scale of its own, not for their bias or norm. Do it "
                    "before the concatenation, or make them one layer"
                )
        elif following.name in ("add", "add_any"):
            sources = {_cut_from(x, plan) for x in inputs}
            if len(sources) == 1 and None not in sources:
                yield (
                    f"{following.where}: a sum of layers of the pieces of one value is taken for "
                    "several layers. Concatenate their weights to make it one"
                )


def _moved(layers: Iterable[LayerSite], plan: Plan) -> Iterator[str]:
    """What may be the bias or norm of a layer whose values are cut, turned or padded before."""
    for site in layers:
        axes = _axes(site, plan)
        if axes is None or _same_behind(site.rule):
            continue
        for value, shaped in _rearranged(site.at, axes, plan, _MOST_MOVES):
            behind = _belongs(value, shaped, plan)
            if behind is not None:
                yield (
                    f"{behind.where}: the layer {site.name or '(unnamed)'} at "
                    f"{site.operation.where} is cut, turned, masked or padded before this, which "
                    "is taken for a summand or scale of its own, not for the layer's bias or "
                    "norm. Do it before that, or with the layer's weights"
                )


def _same_behind(rule: Rule) -> bool:
    """Whether a bias has the same effect behind the layer as in it, but for the stabiliser."""
    exact = isinstance(rule, Flex | BackwardRule)
    small = isinstance(rule, Epsilon) and not callable(rule.epsilon) and rule.epsilon <= _SMALL
    return exact or small


def _rearranged(
    value: Variable, axes: Channels, plan: Plan, most: int
) -> Iterator[tuple[Variable, Channels]]:
    """The values that are pieces or rearrangements of one, and where its channels are."""
    if value in plan.wanted:
        return
    rank = len(plan.flow.graph.shape(value))
    for reader in plan.live_readers(value):
        shapes = reader.name in SHAPING or plan.flow.is_identity(reader)
        if not shapes and not (most and _moves(reader, value, plan)):
            continue
        shaped = moved_axes(reader, axes, plan.flow) if reader.name in SHAPING else axes
        if shaped is None:
            continue
        for output in reader.outputs:
            if not shapes and len(plan.flow.graph.shape(output)) != rank:
                continue
            if not shapes:
                yield output, shaped
            yield from _rearranged(output, shaped, plan, most if shapes else most - 1)


def _moves(operation: Operation, value: Variable, plan: Plan) -> bool:
    """Whether the operation only moves the value's elements, or puts numbers beside them."""
    carrying = plan.flow.carrying_inputs(operation)
    if operation.name == "concatenate":
        sources = {_cut_from(v, plan) for v in carrying}
        return len(sources) == 1 and None not in sources
    if carrying != [value]:
        return False
    mixes = operation.name == "dot_general"
    fixed = mixes and is_fixed_map(operation, carrying, plan.flow, plan.weights)
    return fixed or operation.name in (*MOVES, "select_n") or operation in plan.copies


def _behind_scan(scan: Operation, body: Plan, plan: Plan) -> Iterator[str]:
    """What is affine per channel behind a scan whose steps end with a layer."""
    ends = _ruled_layers(body)
    _, carried = scan_counts(scan.params)
    for inner, output in zip(body.graph.outputs[carried:], scan.outputs[carried:], strict=True):
        made = _made(inner, ends, body) if output in plan.live else None
        if made is None:
            continue
        site, axes = made
        stacked = tuple(tuple(axis + 1 for axis in group) for group in axes)
        if (behind := _belongs(output, stacked, plan)) is not None:
            yield (
                f"lrp: the layer {site.name or '(unnamed)'} at {site.operation.where} is in a scan "
                f"or map, and the operation {behind.name!r} at {behind.where} behind it belongs "
                f"to the layer; {site.rule} needs both. Put that into the scan's function, too, or "
                "the layer outside of it."
            )


def _axes(site: LayerSite, plan: Plan) -> Channels | None:
    """The axes of channels where the layer ends."""
    axes: Channels | None = channel_axes(site.operation, site.side, plan.flow)
    for step in site.tail:
        if step.operation.name in SHAPING and axes is not None:
            axes = moved_axes(step.operation, axes, plan.flow)
    return axes


def _made(
    operand: Operand, ends: Mapping[Operand, LayerSite], plan: Plan
) -> tuple[LayerSite, Channels] | None:
    """The layer that makes a value, rearranged or not, and where its channels are in it."""
    turns: list[Operation] = []
    while (operand := plan.flow.origin(operand)) not in ends:
        producer = plan.flow.made_by(operand)
        if producer is None or producer.name not in SHAPING:
            return None
        turns.append(producer)
        operand = producer.inputs[0]
    axes = _axes(ends[operand], plan)
    for turn in reversed(turns):
        axes = None if axes is None else moved_axes(turn, axes, plan.flow)
    return None if axes is None else (ends[operand], axes)


def _behind(
    value: Variable, axes: Channels | None, plan: Plan
) -> tuple[Operation, Variable, Channels] | None:
    """What alone reads a value, rearranged or not, and where its channels are then."""
    while axes is not None:
        following = plan.live_consumer(value)
        if following is None:
            return None
        if following.name in SHAPING:
            axes = moved_axes(following, axes, plan.flow)
        elif not plan.flow.is_identity(following):
            return following, value, axes
        value = leaving(following, value)
    return None


def _belongs(value: Variable, axes: Channels, plan: Plan) -> Operation | None:
    """What is done to a value that is affine per channel and no mere number."""
    found = _behind(value, axes, plan)
    if found is None:
        return None
    following, value, axes = found
    numbers = [plan.flow.number(o) for o in following.inputs if o != value]
    if following.name in ("mul", "div") and None not in numbers:
        return None
    affine = is_channelwise(following, value, set(itertools.chain(*axes)), plan.flow)
    return following if affine else None


def _joined(joining: Operation, axes: Channels) -> tuple[Variable, Channels]:
    if joining.name == "concatenate":
        return joining.outputs[0], (*axes, (joining.params["dimension"],))
    new = joining.params["axis"]
    moved = tuple(tuple(axis + (axis >= new) for axis in group) for group in axes)
    return joining.outputs[0], (*moved, (new,))


def _cut_from(variable: Variable, plan: Plan) -> Operand | None:
    """The value that this is a piece of."""
    producer = plan.flow.made_by(variable)
    while producer is not None and producer.name in SHAPING:
        producer = plan.flow.made_by(producer.inputs[0])
    if producer is not None and producer.name == "concatenate":  # a value that is rolled
        sources = {_cut_from(v, plan) for v in plan.flow.carrying_inputs(producer)}
        return sources.pop() if len(sources) == 1 else None
    cut = producer is not None and producer.name in _CUTTING
    return plan.flow.origin(producer.inputs[0]) if cut and producer else None
