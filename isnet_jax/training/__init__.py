"""Training: state, one compiled step, checkpoints, the loop."""

from typing import TYPE_CHECKING

from isnet_jax._lazy import exports

if TYPE_CHECKING:
    from isnet_jax.training.calibration import calibrate as calibrate
    from isnet_jax.training.checkpoint import CheckpointConfig as CheckpointConfig
    from isnet_jax.training.checkpoint import Checkpoints as Checkpoints
    from isnet_jax.training.checkpoint import load_network as load_network
    from isnet_jax.training.compilation import compiler_options as compiler_options
    from isnet_jax.training.config import TrainConfig as TrainConfig
    from isnet_jax.training.config import Training as Training
    from isnet_jax.training.description import ModelDescription as ModelDescription
    from isnet_jax.training.distributed import DistributedConfig as DistributedConfig
    from isnet_jax.training.distributed import Processes as Processes
    from isnet_jax.training.distributed import first_then_all as first_then_all
    from isnet_jax.training.distributed import is_first as is_first
    from isnet_jax.training.fine_tuning import FineTuneConfig as FineTuneConfig
    from isnet_jax.training.loop import Observer as Observer
    from isnet_jax.training.loop import fit as fit
    from isnet_jax.training.mesh import Launch as Launch
    from isnet_jax.training.mesh import Launcher as Launcher
    from isnet_jax.training.mesh import MeshConfig as MeshConfig
    from isnet_jax.training.mesh import StepCost as StepCost
    from isnet_jax.training.nonfinite import rerun as rerun
    from isnet_jax.training.optimiser import OptimiserConfig as OptimiserConfig
    from isnet_jax.training.step import TrainState as TrainState
    from isnet_jax.training.step import build_step as build_step
    from isnet_jax.training.step import compile_step as compile_step
    from isnet_jax.training.step import init_state as init_state
    from isnet_jax.training.step import loss_function as loss_function
    from isnet_jax.training.step import make_step as make_step
    from isnet_jax.training.step import objective as objective
    from isnet_jax.training.validation import build_validation as build_validation

__getattr__, __dir__ = exports(
    __name__,
    {
        "calibration": ("calibrate",),
        "checkpoint": ("CheckpointConfig", "Checkpoints", "load_network"),
        "compilation": ("compiler_options",),
        "config": ("TrainConfig", "Training"),
        "description": ("ModelDescription",),
        "distributed": ("DistributedConfig", "Processes", "first_then_all", "is_first"),
        "fine_tuning": ("FineTuneConfig",),
        "loop": ("Observer", "fit"),
        "mesh": ("Launch", "Launcher", "MeshConfig", "StepCost"),
        "nonfinite": ("rerun",),
        "optimiser": ("OptimiserConfig",),
        "step": (
            "TrainState",
            "build_step",
            "compile_step",
            "init_state",
            "make_step",
            "loss_function",
            "objective",
        ),
        "validation": ("build_validation",),
    },
)
