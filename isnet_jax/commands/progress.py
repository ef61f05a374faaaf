"""What a person sees of a training: a progress bar in the terminal, and curves in its logs."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from flax import nnx
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from isnet_jax.commands.logs import Log, Logs
from isnet_jax.commands.terminal import say
from isnet_jax.data import Split
from isnet_jax.evaluation import highest_logit_relevance
from isnet_jax.report.heatmaps import heatmap_grid
from isnet_jax.training import StepCost
from isnet_jax.training.metrics import Record
from isnet_jax.training.speed import TIMES
from isnet_jax.training.stage import EARLIER

_LOSSES = {"loss": "loss", "classification": "class.", "heatmap": "heatmap", "accuracy": "acc."}


class _Rate(ProgressColumn):
    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text(f"{speed:.1f}/s" if speed else "", style="progress.data.speed")


class Unobserved:
    """An observer of `fit` for processes beside the first: shows and writes nothing."""

    def __enter__(self) -> Unobserved:
        return self

    def __exit__(self, *unused: object) -> None:
        pass

    def on_stage(self, name: str, folder: Path) -> None:
        pass

    def on_start(self, step: int, steps: int) -> None:
        pass

    def on_notice(self, text: str) -> None:
        pass

    def on_compiled(self, cost: StepCost) -> None:
        pass

    def on_step(self, step: int, metrics: Record | None) -> None:
        pass

    def on_epoch(self, record: Record, model: Callable[[], nnx.Module]) -> None:
        pass


class TrainingDisplay:
    """An observer of `fit`: progress bar, step rate, losses, and logs.

    Use as a context manager.

    Args:
      logs: where the curves go.
      samples: a few images for the pictures among them.
      draw: makes these of a network and a batch; heatmaps if left out.
    """

    def __init__(
        self,
        logs: Logs,
        samples: Split,
        console: Console,
        draw: Callable[[nnx.Module, Any], np.ndarray] | None = None,
    ):
        self.name, self.logs, self.samples, self.console = logs.name, logs, samples, console
        self._stage: list[str] = []
        self.draw = draw or self._heatmaps
        self.steps = 0
        self.opened: list[Log] = []
        self.closing = contextlib.ExitStack()
        self.bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24 if console.width >= 100 else 8),
            MofNCompleteColumn(),
            _Rate(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[losses]}"),
            console=console,
            disable=not console.is_terminal,
        )
        self.task: TaskID | None = None

    def __enter__(self) -> TrainingDisplay:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.bar.stop()
        self.closing.__exit__(kind, error, trace)

    def on_stage(self, name: str, folder: Path) -> None:
        self.closing.close()
        self.opened.clear()
        self._stage = [part for part in folder.parts if part == EARLIER]
        self.name = f"{name} before {self.logs.name}" if self._stage else self.logs.name

    def on_start(self, step: int, steps: int) -> None:
        self.steps = steps
        if step == steps:
            return
        place = "/".join([self.logs.name, *self._stage])
        for log in dataclasses.replace(self.logs, name=place).open(step):
            self.opened.append(self.closing.enter_context(log))
        self.bar.start()
        self.task = self.bar.add_task(self.name, total=steps, completed=step, losses="compiling")

    def on_notice(self, text: str) -> None:
        say(self.console, f"{self.name}: {text}")

    def on_compiled(self, cost: StepCost) -> None:
        say(self.console, f"{self.name}: {cost}")

    def on_step(self, step: int, metrics: Record | None) -> None:
        assert self.task is not None
        self.bar.update(self.task, completed=step)
        if metrics is not None:
            wide = self.console.width >= 100
            shown = _LOSSES if wide else {k: v for k, v in _LOSSES.items() if v != "class."}
            parts = [
                f"{short} {metrics[key]:.3f}" for key, short in shown.items() if key in metrics
            ]
            self.bar.update(self.task, losses="  ".join(parts))
            self._log({f"train/{key}": value for key, value in metrics.items()}, step)

    def on_epoch(self, record: Record, model: Callable[[], nnx.Module]) -> None:
        step = int(record["step"])
        found = {
            key.replace("_", "/", 1): value
            for key, value in record.items()
            if key.startswith("validation_")
        }
        found |= {f"speed/{key}": record[key] for key in TIMES if key in record}
        self._log(found, step)
        if not self._stage:
            picture = self.draw(model(), self.samples.batch(slice(0, 8)))
            for log in self.opened:
                log.image("heatmaps", picture, step)
        if not self.console.is_terminal:
            parts = "  ".join(
                f"{key} {record[key]:.3f}"
                for key in ("train_loss", "validation_loss", "validation_accuracy")
            )
            say(self.console, f"{self.name}: step {step}/{self.steps}  {parts}")

    def _log(self, values: Record, step: int) -> None:
        for log in self.opened:
            log.scalars(values, step)

    def _heatmaps(self, model: nnx.Module, batch: Any) -> np.ndarray:
        relevance = highest_logit_relevance(model, batch["image"])
        return np.asarray(heatmap_grid(batch["image"], batch["mask"], {self.name: relevance}))
