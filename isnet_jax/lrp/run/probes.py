"""How much relevance arrives at each site and leaves it: sums, taken in the ordinary pullback.

Two zeros go with each site; their cotangents are the sums. What leaves a site is marked on the
edges by which it sends relevance on, so that other readers of the same value do not count.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import jax.numpy as jnp

from isnet_jax.lrp.plan.sites import (
    ActivationSite,
    LayerSite,
    Plan,
    ProductSite,
    ShareSite,
    Site,
    WinnerSite,
    walk,
)
from isnet_jax.lrp.rules import LayerRule, RelevanceRule
from isnet_jax.lrp.run.cotangents import Attach
from isnet_jax.lrp.trace.dependence import Edge

Sums = tuple[Any, Any]
"""Relevance that arrives at a site, and that leaves it."""

MEASURED = (LayerSite, ActivationSite, ShareSite, ProductSite, WinnerSite)


class Probes:
    """Marks the values at both ends of the sites of a plan and of its scans.

    Args:
      zeros: two scalars for each site; see `zeros_for_sites`.
    """

    def __init__(self, plan: Plan, zeros: Mapping[int, Sums]):
        sites = measured_sites(plan)
        self.zeros = {site: zeros[number] for number, site in enumerate(sites)}
        self.edges: dict[Edge, Site] = {}
        for body in walk(plan):
            for site in body.sites.values():
                if site in self.zeros:
                    self.edges.update((edge, site) for edge in _edges(site, body))

    def arriving(self, attach: Attach, site: Site, value: Any) -> Any:
        """The value at which relevance arrives at the site."""
        return self._marked(attach, site, 0, value, value)

    def leaving(self, attach: Attach, site: Site, value: Any, times: Any = None) -> Any:
        """A value to which the site sends G; `times`: 1 where it sends relevance itself."""
        return self._marked(attach, site, 1, value, value if times is None else times)

    def operand(self, attach: Attach, edge: Edge, value: Any) -> Any:
        site = self.edges.get(edge)
        return value if site is None else self.leaving(attach, site, value)

    def _marked(self, attach: Attach, site: Site, end: int, value: Any, times: Any) -> Any:
        if site not in self.zeros:
            return value
        zero = self.zeros[site][end]
        return attach(_summed, value, (value, zero), (times, zero))


def measured_sites(plan: Plan) -> list[Site]:
    return [
        site for body in walk(plan) for site in body.sites.values() if isinstance(site, MEASURED)
    ]


def zeros_for_sites(plan: Plan, zero: Any) -> dict[int, Sums]:
    return {number: (zero, zero) for number, _ in enumerate(measured_sites(plan))}


def _edges(site: Site, plan: Plan) -> Iterable[Edge]:
    """The operands to which the site sends relevance by its operation's own VJP."""
    if isinstance(site, ActivationSite | WinnerSite):
        return
    if isinstance(site, LayerSite) and sends_by_route(site):
        return
    operation = plan.flow.producer[site.operation.outputs[0]]
    if operation is not site.operation:  # a layer that is written out as multiplication and sum
        operation = plan.flow.producer[operation.inputs[0]]  # pyright: ignore[reportArgumentType]
    for position, operand in enumerate(operation.inputs):
        if plan.flow.carries(operand) and (operation, position) not in plan.flow.cuts:
            yield operation, position


def sends_by_route(site: LayerSite) -> bool:
    """Whether the layer's rule computes what its input receives."""
    rule = site.rule
    return isinstance(rule, RelevanceRule) or (isinstance(rule, LayerRule) and rule.folds)


def _summed(residuals, g):
    times, zero = residuals
    return g, jnp.sum(jnp.asarray(times).astype(zero.dtype) * g.astype(zero.dtype))
