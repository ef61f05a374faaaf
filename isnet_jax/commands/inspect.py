"""`isnet-jax inspect`: what LRP sees in a network, as a table."""

from __future__ import annotations

import dataclasses

from rich.console import Console

from isnet_jax import lrp
from isnet_jax.commands.network import (
    NetworkChoice,
    abstract_images,
    chosen_network,
    chosen_rules,
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Inspect(NetworkChoice):
    """Print what LRP sees in a network: each layer and activation, its shapes and its rule."""


def run(options: Inspect, console: Console) -> None:
    """Print the table; a model without weights will do, as nothing is computed.

    Raises:
      UserError: see `chosen_network` and `chosen_rules`.
    """
    rules = chosen_rules(options)
    network = chosen_network(options, random_weights=True)
    table = lrp.inspect(network.model, abstract_images(network), rules=rules)
    console.print(str(table), highlight=False, markup=False, soft_wrap=True)
