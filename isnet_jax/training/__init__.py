"""Training: state, one compiled step, checkpoints, the loop."""

from isnet_jax.training.checkpoint import CheckpointConfig, Checkpoints, load_network
from isnet_jax.training.compilation import compiler_options
from isnet_jax.training.description import ModelDescription
from isnet_jax.training.divergence import rerun
from isnet_jax.training.loop import Observer, fit
from isnet_jax.training.optimiser import OptimiserConfig
from isnet_jax.training.parallel import Launch, Launcher, StepCost
from isnet_jax.training.processes import Processes, first_then_all, is_first
from isnet_jax.training.recipe import Training
from isnet_jax.training.step import (
    TrainState,
    compile_step,
    init_state,
    make_evaluation,
    make_step,
    objective,
)

__all__ = [
    "CheckpointConfig",
    "Checkpoints",
    "Launch",
    "Launcher",
    "ModelDescription",
    "Observer",
    "OptimiserConfig",
    "Processes",
    "StepCost",
    "TrainState",
    "Training",
    "compile_step",
    "compiler_options",
    "first_then_all",
    "fit",
    "init_state",
    "is_first",
    "load_network",
    "make_evaluation",
    "make_step",
    "objective",
    "rerun",
]
