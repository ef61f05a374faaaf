"""Where the curves and pictures of a training go: TensorBoard, Weights & Biases, MLflow."""

from __future__ import annotations

import dataclasses
import importlib.util
import os
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Protocol

import numpy as np

from isnet_jax.commands.curves import Curves
from isnet_jax.errors import UserError
from isnet_jax.files import write_atomically

Kind = Literal["tensorboard", "wandb", "mlflow"]
_PROJECT = "isnet_jax"  # where the environment names no other
_MOST_OPTIONS = 100  # that MLflow takes at once
_ID = "id"


class Log(Protocol):
    """Takes numbers and pictures; a context manager, which ends it.

    Steps never fall, but for those that a resumed training repeats.
    """

    def __enter__(self) -> Log: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...

    def scalars(self, values: Mapping[str, float], step: int) -> None: ...

    def image(self, name: str, pixels: np.ndarray, step: int) -> None:
        """Pixels are (H, W, 3) uint8."""
        ...


@dataclasses.dataclass(frozen=True)
class Logs:
    """Where the curves of a network go.

    Attributes:
      run: folder of the run. TensorBoard's files are written to tensorboard/NAME in it; of the
        others the id is kept in KIND/NAME, so that a resumed training goes on in the same run.
      name: of the network.
      kinds: which ones.
      options: of the training, shown beside the curves: those that the run was begun with.
    """

    run: Path
    name: str
    kinds: tuple[Kind, ...] = ("tensorboard",)
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def open(self, step: int) -> Iterator[Log]:
        """Each of the logs, for a training that has made so many steps.

        Raises:
          UserError: a service cannot be reached.
        """
        for kind in self.kinds:
            yield _KINDS[kind](self, self.run / kind / self.name, step)

    @property
    def title(self) -> str:
        return f"{self.run.absolute().name}/{self.name}"


def require(kinds: Iterable[Kind]) -> None:
    """Make sure that what the logs need is installed; imports nothing.

    Raises:
      UserError: it is not.
    """
    for kind in kinds:
        if kind != "tensorboard" and importlib.util.find_spec(kind) is None:
            raise UserError(
                f"--log {kind} needs the package {kind}, which is not installed. Install it (pip "
                f"install {kind}), or take --log tensorboard."
            )


class _TensorBoard(Curves):
    def __init__(self, logs: Logs, folder: Path, step: int):
        # A run that was killed may have logged steps that are repeated now.
        super().__init__(folder, purge_step=step + 1)


class _Wandb:
    """A run of Weights & Biases; what it has already of repeated steps it keeps."""

    def __init__(self, logs: Logs, folder: Path, step: int):
        import wandb  # pyright: ignore[reportMissingImports]

        self._picture = wandb.Image
        known = _known(folder)
        identity = known or uuid.uuid4().hex
        folder.mkdir(parents=True, exist_ok=True)
        self._run = _reached(
            "Weights & Biases",
            "Log in (wandb login), or keep the run here: WANDB_MODE=offline",
            lambda: wandb.init(
                project=os.environ.get("WANDB_PROJECT", _PROJECT),
                name=logs.title,
                id=identity,
                resume="allow",
                dir=str(folder),
                config=None if known else dict(logs.options),
            ),
        )
        _keep(folder, identity)

    def __enter__(self) -> _Wandb:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._run.finish(exit_code=0 if error is None else 1)

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        self._run.log(dict(values), step=step)

    def image(self, name: str, pixels: np.ndarray, step: int) -> None:
        self._run.log({name: self._picture(pixels)}, step=step)


class _Mlflow:
    """A run of MLflow, at MLFLOW_TRACKING_URI."""

    def __init__(self, logs: Logs, folder: Path, step: int):
        from mlflow import entities  # pyright: ignore[reportMissingImports]
        from mlflow.tracking import MlflowClient  # pyright: ignore[reportMissingImports]

        self._entities = entities
        self._client, self._id = _reached(
            "MLflow",
            "Set MLFLOW_TRACKING_URI to a server that runs, or to a folder",
            lambda: self._opened(MlflowClient(), logs, folder),
        )

    def _opened(self, client: Any, logs: Logs, folder: Path) -> tuple[Any, str]:
        identity = _known(folder)
        if identity is None:
            name = os.environ.get("MLFLOW_EXPERIMENT_NAME", _PROJECT)
            found = client.get_experiment_by_name(name)
            experiment = client.create_experiment(name) if found is None else found.experiment_id
            identity = client.create_run(experiment, run_name=logs.title).info.run_id
            options = [self._entities.Param(key, str(value)) for key, value in _flat(logs.options)]
            for start in range(0, len(options), _MOST_OPTIONS):
                client.log_batch(identity, params=options[start : start + _MOST_OPTIONS])
            _keep(folder, identity)
        client.update_run(identity, status="RUNNING")
        return client, identity

    def __enter__(self) -> _Mlflow:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._client.set_terminated(self._id, "FINISHED" if error is None else "FAILED")

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        now = time.time_ns() // 10**6
        found = [self._entities.Metric(key, float(v), now, step) for key, v in values.items()]
        self._client.log_batch(self._id, metrics=found)

    def image(self, name: str, pixels: np.ndarray, step: int) -> None:
        self._client.log_image(self._id, pixels, key=name, step=step)


_KINDS: Mapping[Kind, Callable[[Logs, Path, int], Log]] = {
    "tensorboard": _TensorBoard,
    "wandb": _Wandb,
    "mlflow": _Mlflow,
}


def _known(folder: Path) -> str | None:
    """The id of a run that was begun here before."""
    file = folder / _ID
    return file.read_text().strip() if file.exists() else None


def _keep(folder: Path, identity: str) -> None:
    write_atomically(folder / _ID, identity)


def _reached(service: str, remedy: str, call: Callable[[], Any]) -> Any:
    try:
        return call()
    except Exception as error:  # Of kinds that only the service's package knows.
        raise UserError(f"{service} cannot be logged to ({error}). {remedy}.") from error


def _flat(options: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in options.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{before}{name}.")
        else:
            yield before + name, value
