"""The command line: `isnet-jax train | evaluate | explain | inspect | calibrate`."""

from __future__ import annotations

import dataclasses
import os
import shlex
import sys
import typing
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

import tyro
from rich.console import Console
from rich.markup import escape

from isnet_jax.errors import UserError, suggest

_USAGE = """usage: isnet-jax COMMAND [OPTIONS]

Train image classifiers that ignore biased backgrounds.

commands:
  train biased-digits   train a plain classifier and an ISNet on digits whose
                        background gives the class away; writes report.html
  evaluate              judge the networks of a run on its three test sets again
  explain               draw the heatmaps of a network for image files
  inspect               print what LRP sees in a network
  calibrate biased-digits
                        measure the natural range of relevance, for train

isnet-jax COMMAND --help explains every option, as in
isnet-jax train biased-digits --help
"""


@dataclasses.dataclass(frozen=True)
class Evaluate:
    """Judge the networks of a run on its three test sets.

    Attributes:
      run: output folder of `isnet-jax train biased-digits`.
      data_dir: where prepared data sets are kept.
    """

    run: Annotated[Path, tyro.conf.Positional] = Path("runs/biased-digits")
    data_dir: Path = Path("datasets")


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point. Exit code 0, 2 for input that the user can mend, 130 when interrupted."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    console = Console()
    try:
        _dispatch(arguments, console)
    except UserError as error:
        Console(stderr=True).print(
            f"[bold red]error:[/] {escape(str(error))}", highlight=False, soft_wrap=True
        )
        raise SystemExit(2) from None
    except KeyboardInterrupt:
        Console(stderr=True).print(
            "interrupted; the same command goes on after the last finished epoch"
        )
        raise SystemExit(130) from None


def _dispatch(arguments: list[str], console: Console) -> None:
    if not arguments or arguments[0] in ("-h", "--help"):
        console.print(_USAGE, highlight=False, markup=False, end="")
        return
    command, *rest = arguments
    commands: dict[str, Callable[[list[str], Console], None]] = {
        "train": _train,
        "evaluate": _evaluate,
        "explain": _explain,
        "inspect": _inspect,
        "calibrate": _calibrate,
    }
    if command not in commands:
        raise UserError(suggest(command, commands, what="command"))
    commands[command](rest, console)


def _train(arguments: list[str], console: Console) -> None:
    rest = _options_of_job("train", arguments, console)
    if rest is None:
        return
    from isnet_jax import comparison

    _cache_compilations()
    default = comparison.CONFIGS[_named_config(rest, comparison.CONFIGS)]
    job = _parse(comparison.BiasedDigitsJob, rest, "isnet-jax train biased-digits", default=default)
    comparison.run(job, console)
    for file in ("report.html", "metrics.json"):
        console.print(f"{file}: {(job.out / file).resolve()}", soft_wrap=True, highlight=False)
    logs = shlex.quote(str(job.out / "tensorboard"))
    console.print(f"curves: tensorboard --logdir {logs}", soft_wrap=True, highlight=False)


def _calibrate(arguments: list[str], console: Console) -> None:
    rest = _options_of_job("calibrate", arguments, console)
    if rest is None:
        return
    from isnet_jax import calibration_job

    _cache_compilations()
    program = "isnet-jax calibrate biased-digits"
    calibration_job.run(_parse(calibration_job.CalibrateBiasedDigits, rest, program), console)


def _options_of_job(command: str, arguments: list[str], console: Console) -> list[str] | None:
    """What follows the job's name; None if only help was asked for."""
    jobs = ("biased-digits",)
    if not arguments or arguments[0] in ("-h", "--help"):
        console.print(
            f"usage: isnet-jax {command} biased-digits [OPTIONS]   (--help explains them)",
            highlight=False,
            markup=False,
        )
        return None
    name, *rest = arguments
    if name not in jobs:
        raise UserError(suggest(name, jobs, what="job"))
    return rest


def _named_config(arguments: list[str], configs: dict[Any, Any]) -> Any:
    for position, argument in enumerate(arguments):
        value = None
        if argument == "--config" and position + 1 < len(arguments):
            value = arguments[position + 1]
        elif argument.startswith("--config="):
            value = argument.removeprefix("--config=")
        if value is not None:
            if value not in configs:
                raise UserError(suggest(value, configs, what="config"))
            return value
    return "demo"


def _evaluate(arguments: list[str], console: Console) -> None:
    options = _parse(Evaluate, arguments, "isnet-jax evaluate")
    from isnet_jax import comparison

    _cache_compilations()
    comparison.evaluate_run(options.run, options.data_dir, console)


def _explain(arguments: list[str], console: Console) -> None:
    from isnet_jax import explain_job

    _cache_compilations()
    explain_job.run(_parse(explain_job.Explain, arguments, "isnet-jax explain"), console)


def _inspect(arguments: list[str], console: Console) -> None:
    from isnet_jax import inspect_job

    inspect_job.run(_parse(inspect_job.Inspect, arguments, "isnet-jax inspect"), console)


def _parse(kind: type, arguments: list[str], program: str, **options: Any) -> Any:
    registry = tyro.constructors.ConstructorRegistry()
    registry.primitive_rule(_bool_or_object)
    return tyro.cli(
        kind,
        args=arguments,
        prog=program,
        config=(tyro.conf.FlagConversionOff,),
        registry=registry,
        **options,
    )


def _bool_or_object(
    info: tyro.constructors.PrimitiveTypeInfo,
) -> tyro.constructors.PrimitiveConstructorSpec[bool] | None:
    """Options that are True, False or an object (`ISNetConfig.box_rule`): here only the former."""
    kinds = typing.get_args(info.type)
    if bool not in kinds or not any(dataclasses.is_dataclass(kind) for kind in kinds):
        return None
    return tyro.constructors.PrimitiveConstructorSpec(
        nargs=1,
        metavar="{True,False}",
        choices=("True", "False"),
        instance_from_str=lambda given: given[0] == "True",
        is_instance=lambda value: isinstance(value, bool),
        str_from_instance=lambda value: [str(value)],
    )


def _cache_compilations() -> None:
    """Compile once per machine: the next run of the same program starts in seconds."""
    import jax

    if not os.environ.get("JAX_COMPILATION_CACHE_DIR"):
        home = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"))
        jax.config.update("jax_compilation_cache_dir", str(home / "isnet_jax" / "xla"))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)
