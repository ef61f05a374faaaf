"""An epoch's metrics: fetched late, so that the device never waits, and every step looked at."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

Record = dict[str, float]

FETCH_EVERY = 10  # Steps between two looks at the metrics: the loop's only host synchronisation.


class NonFiniteError(Exception):
    """A step's metrics, or the state after it, are NaN or infinite."""

    def __init__(self, step: int, names: list[str]):
        super().__init__(f"step {step}: NaN or infinite {', '.join(names)}")
        self.step, self.names = step, names


class EpochMetrics:
    """Sums over the steps of an epoch, in order, so that a resumed epoch has the same means.

    Args:
      saved: what `saved()` gave in the middle of the epoch.
    """

    def __init__(self, saved: Mapping[str, Any] | None = None):
        saved = saved or {"steps": 0, "sums": {}}
        self.steps: int = saved["steps"]
        self._sums: Record = dict(saved["sums"])
        self._waiting: list[tuple[int, Mapping[str, jax.Array]]] = []

    def add(self, step: int, metrics: Mapping[str, jax.Array]) -> Record | None:
        """Take in a step's metrics on the device.

        Returns:
          Every FETCH_EVERY steps the metrics of a recent step; waiting for the latest would leave
          the device idle.

        Raises:
          NonFiniteError: a step was not finite.
        """
        self._waiting.append((step, metrics))
        self.steps += 1
        if self.steps % FETCH_EVERY or len(self._waiting) < FETCH_EVERY // 2:
            return None
        return self._fetch(len(self._waiting) - FETCH_EVERY // 2 + 1)

    def saved(self) -> dict[str, Any]:
        """All of it, for a checkpoint (JSON). Waits for the latest step; raises as `add`."""
        self._fetch(len(self._waiting))
        return {"steps": self.steps, "sums": dict(self._sums)}

    def means(self) -> Record:
        """Over the steps so far. Waits for the latest step; raises as `add`."""
        self._fetch(len(self._waiting))
        return {name: total / self.steps for name, total in self._sums.items()}

    def _fetch(self, count: int) -> Record | None:
        fetched, self._waiting = self._waiting[:count], self._waiting[count:]
        if not fetched:
            return None
        columns = jax.device_get(_stacked([metrics for _, metrics in fetched]))
        row: Record = {}
        for index, (step, _) in enumerate(fetched):
            row = {name: float(column[index]) for name, column in columns.items()}
            wrong = nonfinite(row)
            if wrong:
                raise NonFiniteError(step, wrong)
            for name, value in row.items():
                self._sums[name] = self._sums.get(name, 0.0) + value
        return row


def nonfinite(metrics: Mapping[str, float]) -> list[str]:
    """Names of the metrics that are NaN or infinite, or that count such heatmaps."""
    wrong = [name for name, value in metrics.items() if not np.isfinite(value)]
    if any(value for name, value in metrics.items() if name.endswith("nonfinite")):
        wrong.append("heatmaps")
    return wrong


@jax.jit
def _stacked(rows: list[Mapping[str, jax.Array]]) -> dict[str, jax.Array]:
    return {name: jnp.stack([row[name] for row in rows]) for name in rows[0]}
