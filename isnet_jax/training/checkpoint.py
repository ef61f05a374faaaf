"""Checkpoints that are whole or absent: the last one to resume from, the best one to use."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from flax import nnx

from isnet_jax import models
from isnet_jax.errors import UserError
from isnet_jax.files import write_atomically
from isnet_jax.training.step import TrainState

_DESCRIPTION = "model.json"


@dataclasses.dataclass(frozen=True)
class ModelDescription:
    """What is needed to build the network that a checkpoint's weights belong to."""

    architecture: str
    num_classes: int
    class_names: tuple[str, ...]
    image_shape: tuple[int, ...]

    def create(self, seed: int = 0) -> nnx.Module:
        return models.create(self.architecture, num_classes=self.num_classes, rngs=nnx.Rngs(seed))


class Checkpoints:
    """The checkpoints of one network, in `folder`: "last", "best", and the model's description.

    A write is asynchronous, and becomes visible when it is complete; what a killed process left
    half written is removed. Use as a context manager: leaving waits for the writes.
    """

    def __init__(self, folder: Path):
        folder = folder.resolve()
        self._last = _manager(folder / "last", max_to_keep=2, cleanup_tmp_directories=True)
        self._best = _manager(folder / "best", max_to_keep=1, cleanup_tmp_directories=True)

    def __enter__(self) -> Checkpoints:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._last.close()
        self._best.close()

    def save(self, state: TrainState, progress: Mapping[str, Any], *, best: bool) -> None:
        """Save the state and, in the same checkpoint, what else a resumed run needs (JSON)."""
        step = int(state.step)
        # A copy: the next step donates the state's buffers while they are being written.
        arrays = jax.tree.map(jnp.copy, _flattened(state))
        arguments = ocp.args.Composite(
            state=ocp.args.StandardSave(arrays),  # pyright: ignore[reportCallIssue]
            progress=ocp.args.JsonSave(dict(progress)),  # pyright: ignore[reportCallIssue]
        )
        if best:
            self._best.save(step, args=arguments)
            # Once "last" counts this epoch as done, its best must be there.
            self._best.wait_until_finished()
        self._last.save(step, args=arguments)

    def resume(self, like: TrainState) -> tuple[TrainState, dict[str, Any]] | None:
        """The last state and its progress; None before the first checkpoint."""
        self._last.wait_until_finished()
        found = _restored(self._last, like)
        if found is None:
            self._drop_later_best(-1)
            return None
        state, progress, step = found
        self._drop_later_best(step)
        return state, progress

    def best(self, like: Any) -> Any | None:
        """The state with the lowest validation loss, or the part of it that `like` is."""
        self._best.wait_until_finished()
        found = _restored(self._best, like)
        return None if found is None else found[0]

    def _drop_later_best(self, step: int) -> None:
        """A run killed between the two writes repeats that epoch, its best included."""
        for later in self._best.all_steps():
            if later > step:
                self._best.delete(later)


def write_description(folder: Path, description: ModelDescription) -> None:
    """Record beside a network's checkpoints what it is.

    Raises:
      UserError: the folder holds another network.
    """
    if (folder / _DESCRIPTION).exists():
        found = _read_description(folder)
        if found != description:
            raise UserError(
                f"{folder} holds another network, {_words(found)}; expected {_words(description)}. "
                "Choose another folder."
            )
        return
    text = json.dumps(dataclasses.asdict(description), indent=2) + "\n"
    write_atomically(folder / _DESCRIPTION, text)


def load_network(
    folder: Path, architecture: str | None = None
) -> tuple[nnx.Module, ModelDescription]:
    """The best network of a run, in eval mode.

    Args:
      folder: a network's folder in a run, such as runs/biased-digits/isnet.
      architecture: what it should be; None takes what is there.

    Raises:
      UserError: no checkpoint there, or one of another architecture.
    """
    folder = folder.resolve()
    description = _read_description(folder)
    if architecture is not None and architecture != description.architecture:
        raise UserError(
            f"{folder} holds a {description.architecture!r}; expected a {architecture!r}. Leave "
            "the architecture out to take what is there."
        )
    model = description.create()
    graph, parameters, rest = nnx.split(model, nnx.Param, ...)
    found = None
    if (folder / "best").is_dir():
        manager = _manager(folder / "best", create=False)
        found = _restored(manager, {"parameters": parameters, "rest": rest})
        manager.close()
    if found is None:
        raise UserError(f"{folder} has no checkpoint yet: its training has not got that far.")
    model = nnx.merge(graph, found[0]["parameters"], found[0]["rest"])
    model.eval()
    return model, description


def _read_description(folder: Path) -> ModelDescription:
    try:
        fields = json.loads((folder / _DESCRIPTION).read_text())
        return ModelDescription(
            **fields | {key: tuple(fields[key]) for key in ("class_names", "image_shape")}
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        nearby = sorted(str(path.parent) for path in folder.glob(f"*/{_DESCRIPTION}"))
        hint = f" Did you mean {' or '.join(nearby)}?" if nearby else ""
        raise UserError(
            f"{folder} holds no network; expected {_DESCRIPTION} and best/, as a run's plain/ and "
            f"isnet/ have.{hint}"
        ) from error


def _words(description: ModelDescription) -> str:
    shape = " x ".join(map(str, description.image_shape))
    return f"a {description.architecture!r} for {description.num_classes} classes of {shape} images"


def _manager(folder: Path, **options: Any) -> ocp.CheckpointManager:
    handlers: Any = {
        "state": ocp.StandardCheckpointHandler(),
        "progress": ocp.JsonCheckpointHandler(),
    }
    return ocp.CheckpointManager(
        folder, options=ocp.CheckpointManagerOptions(**options), item_handlers=handlers
    )


def _restored(manager: ocp.CheckpointManager, like: Any) -> tuple[Any, dict[str, Any], int] | None:
    """The latest checkpoint in the structure of `like`, which may be a part of what was saved."""
    step = manager.latest_step()
    if step is None:
        return None
    try:
        saved: Any = manager.item_metadata(step)
        # NumPy arrays: the devices of the run that wrote it need not be here.
        arrays = {name: np.empty(a.shape, a.dtype) for name, a in dict(saved["state"]).items()}
        arguments = ocp.args.Composite(
            state=ocp.args.StandardRestore(arrays),  # pyright: ignore[reportCallIssue]
            progress=ocp.args.JsonRestore(),  # pyright: ignore[reportCallIssue]
        )
        found: Any = manager.restore(step, args=arguments)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"the checkpoint {manager.directory / str(step)} cannot be read "
            f"({str(error).splitlines()[0]}). Delete that folder to go on without it."
        ) from error
    return _unflattened(like, found["state"], str(manager.directory)), found["progress"], step


def _flattened(tree: Any) -> dict[str, Any]:
    """Arrays by their path: a layout that does not depend on the classes around them."""
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): (
            jax.random.key_data(leaf) if _is_key(leaf) else leaf
        )
        for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]
    }


def _unflattened(like: Any, arrays: Mapping[str, Any], where: str) -> Any:
    expected = _flattened(like)
    problems = [
        f"  {name}: found {np.shape(arrays[name]) if name in arrays else 'nothing'}, expected "
        f"{np.shape(value)}"
        for name, value in expected.items()
        if name not in arrays or np.shape(arrays[name]) != np.shape(value)
    ]
    if problems:
        shown = "\n".join(problems[:8])
        raise UserError(
            f"the checkpoint in {where} belongs to another architecture or optimiser "
            f"({len(problems)} arrays differ):\n{shown}\nUse the options it was trained with."
        )
    leaves, structure = jax.tree.flatten(like)
    restored = [
        jax.random.wrap_key_data(arrays[name]) if _is_key(leaf) else jnp.asarray(arrays[name])
        for name, leaf in zip(expected, leaves, strict=True)
    ]
    return jax.tree.unflatten(structure, restored)


def _is_key(leaf: Any) -> bool:
    return jnp.issubdtype(jnp.asarray(leaf).dtype, jax.dtypes.prng_key)
