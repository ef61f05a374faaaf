"""The command line: `isnet-jax prepare | train | evaluate | predict | export | explain | ...`."""

from __future__ import annotations

import _thread
import contextlib
import dataclasses
import errno
import importlib
import os
import shlex
import sys
import threading
import typing
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import tyro
from rich.console import Console
from rich.markup import escape

from isnet_jax.commands.places import expanded
from isnet_jax.commands.surroundings import require_devices, require_folder
from isnet_jax.commands.terminal import console as new_console
from isnet_jax.commands.terminal import escape_what_cannot_be_encoded, say
from isnet_jax.errors import Terminated, UserError, printable, suggest
from isnet_jax.files import FULL
from isnet_jax.memory import keep_freed_memory, require_address_space

_USAGE = """usage: isnet-jax COMMAND [OPTIONS]

Train image classifiers that ignore biased backgrounds.

commands:
  prepare               check your own images and masks, and make a data set of
                        them: from a folder, a CSV table, COCO or VOC files,
                        or a data set of TFDS
  train biased-digits   train a plain classifier and an ISNet on digits whose
                        background gives the class away; writes report.html
  train textured        the same on objects in front of photographs, one a class:
                        also decoy, coloured and lungs
  train own-data        train an ISNet on data that `prepare` has made
  train segmenter       train a network that draws masks, for `prepare --masks-by`
  evaluate              judge the networks of a run on its test sets again
  compare               two networks on the same test images, with tests
  predict               classes of image files, as a table
  export                a trained network for other programs, with a model card
  explain               draw the heatmaps of a network for image files
  inspect               print what LRP sees in a network
  calibrate             measure the natural range of relevance, for `train`:
                        the same jobs

isnet-jax COMMAND --help explains every option, as in
isnet-jax train biased-digits --help
"""


# What is trained, and the argument that follows.
_CALIBRATED = {"biased-digits": "", "own-data": "PREPARED"}
_HARD = ("textured", "decoy", "coloured", "lungs")
_OF_MODULES = ("evaluate", "compare", "predict", "export", "explain", "inspect")
_JOBS = _CALIBRATED | {"segmenter": "PREPARED"} | dict.fromkeys(_HARD, "")


_STORAGE = (*FULL, errno.EROFS)
# Something else lies where a file or folder was expected, or it is kept from us.
_PLACES = (
    errno.EACCES, errno.EPERM, errno.EISDIR, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG,
    errno.EEXIST,
)  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point. For the exit codes see `exit_codes`."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    escape_what_cannot_be_encoded()
    with exit_codes():
        _dispatch(arguments, new_console())


@contextlib.contextmanager
def exit_codes() -> Iterator[None]:
    """Exit with 2 for input that the user can mend, 130 after Ctrl-C, and 143 after SIGTERM.

    143 is what shells and schedulers report of a process that SIGTERM ended, whether it noticed
    or not: rules that restart preempted jobs know it.
    """
    told = new_console(stderr=True)

    def end(code: int, text: str) -> SystemExit:
        with contextlib.suppress(OSError):  # Where nothing can be said the code still counts.
            told.print(text, highlight=False, soft_wrap=True)
        return SystemExit(code)

    def wrong(text: str) -> SystemExit:
        return end(2, f"[bold red]error:[/] {escape(text)}")

    try:
        with _no_interrupt_is_lost():
            yield
    except UserError as error:
        raise wrong(str(error)) from None
    except OSError as error:
        named = error.errno in _PLACES and error.filename is not None
        if error.errno not in _STORAGE and not named:
            raise
        problem = _storage_problem if error.errno in _STORAGE else _place_problem
        raise wrong(problem(error)) from None
    except (MemoryError, RuntimeError) as error:
        # The latter is what XLA says; RuntimeErrors of other kinds are bugs.
        if isinstance(error, RuntimeError) and "RESOURCE_EXHAUSTED" not in str(error):
            raise
        raise wrong(_memory_problem(error)) from None
    except Terminated as error:
        raise end(Terminated.exit_code, f"{error}; the same command goes on from there") from None
    except KeyboardInterrupt:
        text = "interrupted; the same command goes on after the last checkpoint"
        raise end(130, text) from None


@contextlib.contextmanager
def _no_interrupt_is_lost() -> Iterator[None]:
    """Ctrl-C that falls into a callback of the garbage collector, as JAX has one, counts too.

    Python would print it and go on.
    """
    before = sys.unraisablehook

    def hook(raised: Any) -> None:
        if not issubclass(raised.exc_type, KeyboardInterrupt):
            before(raised)
            return
        again = threading.Timer(0.01, _thread.interrupt_main)
        again.daemon = True
        again.start()

    sys.unraisablehook = hook
    try:
        yield
    finally:
        sys.unraisablehook = before


def _storage_problem(error: OSError) -> str:
    return (
        f"the storage cannot be written to ({error}). Make room, or choose another place to write "
        "to; the same command goes on after the last checkpoint."
    )


def _place_problem(error: OSError) -> str:
    where = error.filename if error.filename2 is None else error.filename2
    return (
        f"{printable(where)} cannot be used ({error.strerror}). Expected a file or folder that may "
        "be read, or written where something is written to. Mend it, or name another."
    )


def _memory_problem(error: Exception) -> str:
    reason = (str(error) or type(error).__name__).splitlines()[0][:300]
    return (
        f"the memory does not suffice ({printable(reason)}). Use a smaller batch (--batch-size), "
        "parts of it (--accumulate) or --remat True, or allow this process more memory."
    )


def _dispatch(arguments: list[str], console: Console) -> None:
    if not arguments or arguments[0] in ("-h", "--help"):
        console.print(_USAGE, highlight=False, markup=False, end="")
        return
    command, *rest = arguments
    commands: dict[str, Callable[[list[str], Console], None]] = {
        "prepare": _prepare,
        "train": _train,
        "calibrate": _calibrate,
    }
    commands |= {name: _of_module(name) for name in _OF_MODULES}
    if command not in commands:
        raise UserError(suggest(command, commands, what="command"))
    require_folder()
    require_address_space()
    commands[command](rest, console)


def _prepare(arguments: list[str], console: Console) -> None:
    from isnet_jax.commands import prepare

    kinds = prepare.COMMANDS
    chosen = _choice("prepare", dict.fromkeys(kinds, "SOURCE"), "source", arguments, console)
    if chosen is not None:
        name, rest = chosen
        flags = tyro.conf.FlagCreatePairsOff
        command = _parse(kinds[name], rest, f"isnet-jax prepare {name}", flags)
        prepare.run(command, console)


def _train(arguments: list[str], console: Console) -> None:
    chosen = _choice("train", _JOBS, "job", arguments, console)
    if chosen is None:
        return
    name, rest = chosen
    _prepare_jax()
    if name in _HARD:
        out = _train_hard(name, rest, console)
    else:
        jobs = {
            "own-data": _train_own_data,
            "segmenter": _train_segmenter,
            "biased-digits": _train_biased_digits,
        }
        out = jobs[name](rest, console)
    for file in ("report.html", "metrics.json") if name != "segmenter" else ("metrics.json",):
        say(console, f"{file}: {(out / file).absolute()}")
    if (out / "tensorboard").exists():
        logs = shlex.quote(str(out / "tensorboard"))
        say(console, f"curves: tensorboard --logdir {logs}")


def _train_own_data(arguments: list[str], console: Console) -> Path:
    from isnet_jax.commands import custom

    job = _of_prepared(custom.OwnDataJob, "own-data", arguments)
    with _together(job.processes, console):
        custom.run(job, console)
    return job.out


def _train_segmenter(arguments: list[str], console: Console) -> Path:
    from isnet_jax.commands import segmenter

    job = _of_prepared(segmenter.SegmenterJob, "segmenter", arguments)
    with _together(job.processes, console):
        segmenter.run(job, console)
    return job.out


def _of_prepared(kind: Any, name: str, arguments: list[str]) -> Any:
    """A job whose data may be named by the command line or by a file of options."""
    from isnet_jax.commands.config_file import from_yaml

    file, arguments = _config_file(arguments)
    if name != "segmenter":
        kind = _of_method(kind, file, arguments)
    unnamed = kind(data=tyro.MISSING)
    given = {"default": from_yaml(kind, file, default=unnamed)} if file else {}
    return _parse(kind, arguments, f"isnet-jax train {name}", **given)


def _train_hard(name: str, arguments: list[str], console: Console) -> Path:
    from isnet_jax.commands import hard
    from isnet_jax.commands.config_file import from_yaml

    file, arguments = _config_file(arguments)
    kind = _of_method(hard.JOBS[name], file, arguments)
    default = from_yaml(kind, file) if file else kind()
    job = _parse(kind, arguments, f"isnet-jax train {name}", default=default)
    with _together(job.processes, console):
        hard.run(job, console)
    return job.out


def _train_biased_digits(arguments: list[str], console: Console) -> Path:
    from isnet_jax.commands import digits
    from isnet_jax.commands.config_file import from_yaml

    file, arguments = _config_file(arguments)
    kind = _of_method(digits.BiasedDigitsJob, file, arguments)
    if file:
        default = from_yaml(kind, file)
    else:
        config = digits.CONFIGS[_named_config(arguments, digits.CONFIGS)]
        default = kind(**{k: v for k, v in vars(config).items() if k != "method"})
    program = "isnet-jax train biased-digits"
    job = _parse(kind, arguments, program, default=default)
    with _together(job.processes, console):
        digits.run(job, console)
    return job.out


@contextlib.contextmanager
def _together(processes: Any, console: Console) -> Iterator[None]:
    """With the other processes of this training; only the first one prints."""
    if not processes.coordinator:
        require_devices()
        yield
        return
    from isnet_jax.training.distributed import is_first, leaves_the_others

    where = "" if processes.coordinator == "auto" else f" at {processes.coordinator}"
    say(console, f"meeting the other processes{where}, for at most {processes.meeting} s")
    processes.connect()
    console.quiet = not is_first()
    with leaves_the_others(), exit_codes():
        require_devices()
        yield


def _calibrate(arguments: list[str], console: Console) -> None:
    chosen = _choice("calibrate", _CALIBRATED, "job", arguments, console)
    if chosen is None:
        return
    from isnet_jax.commands import calibrate

    name, rest = chosen
    _prepare_jax()
    kinds = {
        "biased-digits": calibrate.CalibrateBiasedDigits,
        "own-data": calibrate.CalibrateOwnData,
    }
    job = _parse(kinds[name], rest, f"isnet-jax calibrate {name}")
    require_devices()
    calibrate.run(job, console)


def _choice(
    command: str, choices: dict[str, str], what: str, arguments: list[str], console: Console
) -> tuple[str, list[str]] | None:
    """The name after a command and what follows it; None if only help was asked for.

    Args:
      choices: name -> the positional argument after it, for the help.
      what: what the names stand for.
    """
    if not arguments or arguments[0] in ("-h", "--help"):
        lines = [f"isnet-jax {command} {name} {more}".strip() for name, more in choices.items()]
        usage = "\n       ".join(f"{line} [OPTIONS]" for line in lines)
        console.print(f"usage: {usage}   (--help explains them)", highlight=False, markup=False)
        return None
    name, *rest = arguments
    if name not in choices:
        raise UserError(suggest(name, choices, what=what))
    return name, rest


def _named_config(arguments: list[str], configs: dict[Any, Any]) -> Any:
    for _, value in _given("--config", arguments):
        if value not in configs:
            names = suggest(value, configs, what="config")
            raise UserError(f"{names} Or give a file that ends in .yaml.")
        return value
    return "demo"


def _config_file(arguments: list[str]) -> tuple[Path | None, list[str]]:
    """The YAML file that --config names, if it does, and the other arguments."""
    for words, value in _given("--config", arguments):
        if value.endswith((".yaml", ".yml")):
            return expanded(Path(value), "config"), [
                *arguments[: words.start],
                *arguments[words.stop :],
            ]
    return None, arguments


def _of_method(kind: Any, file: Path | None, arguments: list[str]) -> Any:
    """The kind of job for the method that is named, last by the arguments, or by the file."""
    from isnet_jax.commands.config_file import values_of
    from isnet_jax.commands.options import of_method

    named = [value for _, value in _given("--method", arguments)]
    if not named and file:
        values = values_of(file)
        named = [str(values["method"])] if isinstance(values, dict) and "method" in values else []
    return of_method(kind, named[-1]) if named else kind


def _given(option: str, arguments: list[str]) -> Iterator[tuple[slice, str]]:
    """Where an option stands, and what it says."""
    for position, argument in enumerate(arguments):
        if argument == option and position + 1 < len(arguments):
            yield slice(position, position + 2), arguments[position + 1]
        elif argument.startswith(f"{option}="):
            yield slice(position, position + 1), argument.removeprefix(f"{option}=")


def _of_module(name: str) -> Callable[[list[str], Console], None]:
    """A command whose module of its name has its options, of that name too, and `run`."""

    def command(arguments: list[str], console: Console) -> None:
        module = importlib.import_module(f"isnet_jax.commands.{name}")
        _prepare_jax()
        options = _parse(getattr(module, name.capitalize()), arguments, f"isnet-jax {name}")
        require_devices()
        module.run(options, console)

    return command


def _parse(
    kind: type,
    arguments: list[str],
    program: str,
    flags: Any = tyro.conf.FlagConversionOff,
    **options: Any,
) -> Any:
    registry = tyro.constructors.ConstructorRegistry()
    registry.primitive_rule(_bool_or_object)
    parsed = tyro.cli(
        kind, args=arguments, prog=program, config=(flags,), registry=registry, **options
    )
    return expanded(parsed)


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


def _prepare_jax() -> None:
    """Keep freed memory, and compile once per machine: the next run starts in seconds."""
    import jax

    keep_freed_memory()

    if not os.environ.get("JAX_COMPILATION_CACHE_DIR"):
        home = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
        if os.path.isabs(home):  # Else this user has no home, as in many containers.
            jax.config.update("jax_compilation_cache_dir", os.path.join(home, "isnet_jax", "xla"))
            jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)
