"""A step that is NaN or infinite: found again, dumped, and made again from the dump."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import jax
import numpy as np

from isnet_jax.data import Augmentation
from isnet_jax.errors import UserError
from isnet_jax.training.arrays import unflattened
from isnet_jax.training.config import TrainConfig
from isnet_jax.training.dump import Failure, host_arrays, load_failure
from isnet_jax.training.metrics import NonFiniteError, nonfinite
from isnet_jax.training.serial import from_dict, to_dict
from isnet_jax.training.start import start
from isnet_jax.training.step import TrainState
from isnet_jax.training.trainer import ADVICE, STATE, Trainer, is_finite


def diverged(run: Trainer, error: NonFiniteError) -> UserError:
    """Make the steps since the last checkpoint again, dump the failing one, and say so.

    No step keeps a copy of the state before it, so that nothing is paid until one fails.
    """
    run.restore()
    checkpoint = run.step or None
    while run.step < error.step - 1:
        run.state, _ = run.run_step(run.state, next(run.batches))
        run.step += 1
    place = run.batches.get_state()
    batch = next(run.batches)
    failure = Failure(
        step=error.step,
        steps=run.steps,
        wrong=tuple(error.names),
        ids=_ids(run, place),
        checkpoint=checkpoint,
        description=run.description,
        training=to_dict(run.training),
        batch=batch,
        state=host_arrays(run.local()),
    )
    again = _rerun(run.run_step, run.state, batch)
    path = run.folder / f"nonfinite-step-{error.step}.npz"
    try:
        if jax.process_index() == 0:
            failure.write(path)
        dumped = f"{path} holds it: isnet_jax.training.rerun({str(path)!r}) makes it again."
    except OSError as problem:
        dumped = f"It could not be dumped ({problem})."
    epoch = 1 + (error.step - 1) // run.steps_per_epoch
    kept = f" The checkpoint of step {checkpoint} is kept." if checkpoint else ""
    chance = "" if again else " Repeated just now it was finite: suspect the device."
    shown = ", ".join(failure.ids[:8]) + (", ..." if len(failure.ids) > 8 else "")
    return UserError(
        f"training diverged in epoch {epoch} at step {error.step}: NaN or infinite "
        f"{', '.join(error.names)}.{kept}{chance} {ADVICE}\nThe step's samples: {shown}. "
        f"{dumped}"
    )


def _ids(run: Trainer, place: Any) -> tuple[str, ...]:
    """Names of the samples of the batch that follows this state of the iterator."""
    count = len(run.train)
    numbers = dataclasses.replace(
        run.train,
        images=np.zeros((count, 1, 1, 3), np.float32),
        masks=np.zeros((count, 1, 1, 1), np.float32),
        labels=np.arange(count, dtype=np.int32),
    )
    batches = dataclasses.replace(run.training, augmentation=Augmentation()).batches(numbers)
    batches.set_state(place)
    return tuple(run.train.ids[number] for number in next(batches)["label"])


def rerun(path: str | Path) -> list[str]:
    """Make the step of a dump again, as `fit` made it.

    Args:
      path: nonfinite-step-N.npz in a network's folder.

    Returns:
      What is NaN or infinite this time: names of metrics, "heatmaps" or "state".

    Raises:
      UserError: no such dump, or one of another version of this package.
    """
    failure = load_failure(Path(path))
    training = from_dict(TrainConfig, failure.training, str(path))
    _, like, run_step = start(failure.description, training, failure.steps, load=False)
    state = unflattened(like, failure.state, str(path))
    return _rerun(run_step, state, failure.batch)


def _rerun(run_step: Any, state: TrainState, batch: Any) -> list[str]:
    after, metrics = run_step(state, batch)
    wrong = nonfinite({name: float(value) for name, value in jax.device_get(metrics).items()})
    return wrong if is_finite(after) else [*wrong, STATE]
