"""Training: state, one compiled step, checkpoints, the loop."""

from typing import TYPE_CHECKING

from isnet_jax._lazy import exports

if TYPE_CHECKING:
    from isnet_jax.training.calibration import calibrate as calibrate
    from isnet_jax.training.checkpoint import CheckpointConfig as CheckpointConfig
    from isnet_jax.training.checkpoint import Checkpoints as Checkpoints
    from isnet_jax.training.checkpoint import load_network as load_network
    from isnet_jax.training.compilation import compiler_options as compiler_options
    from isnet_jax.training.description import ModelDescription as ModelDescription
    from isnet_jax.training.distributed import Processes as Processes
    from isnet_jax.training.distributed import first_then_all as first_then_all
    from isnet_jax.training.distributed import is_first as is_first
    from isnet_jax.training.mesh import Launch as Launch
    from isnet_jax.training.mesh import Launcher as Launcher
    from isnet_jax.training.mesh import StepCost as StepCost
    from isnet_jax.training.nonfinite import rerun as rerun
    from isnet_jax.training.optimiser import OptimiserConfig as OptimiserConfig
    from isnet_jax.training.recipe import Training as Training
    from isnet_jax.training.step import TrainState as TrainState
    from isnet_jax.training.step import compile_step as compile_step
    from isnet_jax.training.step import init_state as init_state
    from isnet_jax.training.step import make_evaluation as make_evaluation
    from isnet_jax.training.step import make_step as make_step
    from isnet_jax.training.step import objective as objective
    from isnet_jax.training.trainer import Observer as Observer
    from isnet_jax.training.trainer import fit as fit

__getattr__, __dir__ = exports(
    __name__,
    {
        "calibration": ("calibrate",),
        "checkpoint": ("CheckpointConfig", "Checkpoints", "load_network"),
        "compilation": ("compiler_options",),
        "description": ("ModelDescription",),
        "distributed": ("Processes", "first_then_all", "is_first"),
        "mesh": ("Launch", "Launcher", "StepCost"),
        "nonfinite": ("rerun",),
        "optimiser": ("OptimiserConfig",),
        "recipe": ("Training",),
        "step": (
            "TrainState",
            "compile_step",
            "init_state",
            "make_evaluation",
            "make_step",
            "objective",
        ),
        "trainer": ("Observer", "fit"),
    },
)
